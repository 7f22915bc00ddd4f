"""What clients do to a server that is killed under them, and what each of them knows to have been acknowledged.

Every client has series of its own, so that what it was answered is all that may be there of them.
"""

import collections
import contextlib
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import polars as pl

from forecaster.client import ForecastClient, ObserveResult, RetryPolicy
from forecaster.client.inputs import OnConflict
from tests.integration.conftest import START

SERIES, RESIDENT, ROWS = 200, 64, 16
HISTORY = 20  # hours, so that every series can be forecast
GAP = 20  # hours that may be missing; behind more of them a series starts afresh
Row = tuple[str, int, float | None, float | None]  # series, hour, value, area: none was given with it
RETRY = RetryPolicy(timeout_seconds=120, max_delay_seconds=0.2)


@dataclass
class Feed:
    """What one client knows: its series' next hours, and what was acknowledged of them.

    Args:
        names: of the series.
        seed: of everything that is drawn.
        gaps: the share of rows before which hours are skipped: mostly one, now and then more than `GAP`.
        areas: the share of requests that bring static covariates, which hold from them on.
    """

    names: list[str]
    seed: int
    gaps: float = 0.05
    areas: float = 0.0
    next_hour: dict[str, int] = field(default_factory=dict)
    acknowledged: dict[str, dict[int, float | None]] = field(default_factory=dict)
    area: dict[str, dict[int, float]] = field(default_factory=dict)  # by series and the first hour that it holds for
    duplicates: int = 0
    amended: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def rows(self, names: list[str], hours: int = 1) -> list[Row]:
        """Return the next rows of some series; now and then an hour is skipped or its value is missing."""
        rows: list[Row] = []
        has_areas = self.random.random() < self.areas  # of all series: in a column of them none is a missing one
        for name in names:
            area = self.random.choice([20.0, 50.0, 80.0]) if has_areas else None
            for _ in range(hours):
                hour = self.next_hour.get(name, 0) + self._skipped()
                self.next_hour[name] = hour + 1
                value = None if self.random.random() < 0.1 else self.random.gauss(100, 10)
                rows.append((name, hour, value, area))
        return rows

    def _skipped(self) -> int:
        if self.random.random() >= self.gaps:
            return 0
        return 1 if self.gaps < 0.1 else self.random.choice([1, GAP // 2, GAP, GAP, GAP, 10 * GAP])

    def sample(self) -> list[str]:
        """Return some of the series."""
        return self.random.sample(self.names, min(ROWS, len(self.names)))

    def note(self, rows: list[Row], told: ObserveResult) -> None:
        """Remember that rows were answered."""
        taken = told.applied + told.duplicates + told.corrected + told.filled
        assert (taken, len(told.rejected)) == (len(rows), 0), told.rejected
        self.duplicates += told.duplicates
        self.amended += told.corrected + told.filled
        for name, hour, value, area in rows:
            self.acknowledged.setdefault(name, {})[hour] = value
            if area is not None:
                self.area.setdefault(name, {}).setdefault(hour, area)

    def observe(self, client: ForecastClient, rows: list[Row], on_conflict: OnConflict = "refuse") -> None:
        """Send rows until they are answered."""
        self.note(rows, client.observe(frame(rows), on_conflict=on_conflict))

    def forget(self, name: str) -> None:
        """Remember that a series was deleted; it may begin anew at another time."""
        del self.acknowledged[name]
        self.area.pop(name, None)
        self.next_hour[name] = self.random.randrange(500)


def frame(rows: list[Row]) -> pl.DataFrame:
    """Return rows as people send them; without a column of areas if there are none."""
    schema = {"unique_id": pl.String, "hour": pl.Int64, "y": pl.Float64, "area": pl.Float64}
    made = pl.DataFrame(rows, schema=schema, orient="row")
    ds = pl.lit(START).cast(pl.Datetime("us", "UTC")) + pl.duration(hours="hour")
    whole = made.select("unique_id", ds.alias("ds"), "y", "area")
    return whole if whole["area"].count() else whole.drop("area")


Work = Callable[[str, Feed, threading.Event], None]


def begin(client: ForecastClient, feed: Feed) -> None:
    """Observe the first hours of every series."""
    for start in range(0, len(feed.names), 3):
        feed.observe(client, feed.rows(feed.names[start : start + 3], HISTORY))


def by_requests(address: str, feed: Feed, over: threading.Event) -> None:
    """Observe and forecast; what was acknowledged long ago is repeated now and then."""
    with ForecastClient(address, retry=RETRY) as client:
        begin(client, feed)
        while not over.is_set():
            names = feed.sample()
            feed.observe(client, feed.rows(names))
            kind = feed.random.random()
            if kind < 0.3:
                assert client.forecast(names, quantile_levels=[0.1, 0.9])["unique_id"].n_unique() == len(names)
            elif kind < 0.5:
                again = client.observe(frame(old(feed, names[0], 40)))
                known = min(40, len(feed.acknowledged[names[0]]))
                assert (again.applied, again.duplicates, len(again.rejected)) == (0, known, 0)
            elif kind < 0.6:
                hours = feed.acknowledged[names[0]]
                assert client.get_series(names[0]).length == max(hours) + 1 - min(hours)


def old(feed: Feed, name: str, count: int) -> list[Row]:
    """Return the last acknowledged rows of a series, with an area that held once."""
    areas = list(feed.area.get(name, {}).values())
    area = feed.random.choice(areas) if areas else None
    return [(name, hour, value, area) for hour, value in sorted(feed.acknowledged[name].items())[-count:]]


def by_stream(address: str, feed: Feed, over: threading.Event) -> None:
    """Observe and forecast with several messages under way."""
    with ForecastClient(address, retry=RETRY) as client:
        begin(client, feed)
        with client.stream(horizon=4) as stream:
            waiting: collections.deque[list[Row]] = collections.deque()
            while not over.is_set() or waiting:
                if not over.is_set() and len(waiting) < 6:
                    waiting.append(feed.rows(feed.sample()))
                    stream.send_nowait(frame(waiting[-1]))
                else:
                    observed = stream.receive().observed
                    feed.note(waiting.popleft(), observed)


def by_correcting(address: str, feed: Feed, over: threading.Event) -> None:
    """Keep values back and send them later, correct others, also to what they were, and repeat what was corrected."""
    with ForecastClient(address, retry=RETRY) as client:
        begin(client, feed)
        kept: list[Row] = []
        while not over.is_set():
            rows = feed.rows(feed.sample())
            late = [row for row in rows if row[2] is not None and feed.random.random() < 0.2]
            feed.observe(client, [row for row in rows if row not in late])
            kept += late
            feed.random.shuffle(kept)
            while len(kept) > ROWS:
                feed.observe(client, [kept.pop()])
            for name in feed.random.sample(feed.names, 2):
                hour, before = feed.random.choice(sorted(feed.acknowledged[name].items()))
                value = feed.random.choice([None, before, feed.random.gauss(100, 10)])
                feed.observe(client, [(name, hour, value, None)], "correct")
                again = client.observe(frame([(name, hour, before, None)]))  # a retry that took its time
                assert again.duplicates == 1, again.rejected
        for row in kept:
            feed.observe(client, [row])


def by_deleting(address: str, feed: Feed, over: threading.Event) -> None:
    """Observe series, delete them, let some of them begin anew."""
    with ForecastClient(address, retry=RETRY) as client:
        while not over.is_set():
            names = feed.random.sample(feed.names, 6)
            feed.observe(client, feed.rows(names))
            if feed.random.random() < 0.3:
                client.delete_series(names[0])
                feed.forget(names[0])


def by_flooding(address: str, feed: Feed, over: threading.Event) -> None:
    """Send what is known already, as much as a request may hold, again and again, and something new between."""
    with ForecastClient(address, retry=RETRY) as client:
        begin(client, feed)
        while not over.is_set():
            for name in feed.names:
                known = old(feed, name, RESIDENT)
                again = client.observe(frame(known))
                assert (again.applied, again.duplicates, len(again.rejected)) == (0, len(known), 0)
            feed.observe(client, feed.rows(feed.names[:1]))


def by_replacing(address: str, feed: Feed, over: threading.Event) -> None:
    """Let the other version be served, wait until it is or the server has ended, and so on."""
    with ForecastClient(address, retry=RETRY) as client:
        while not over.is_set():
            wanted = {"1": "2", "2": "1"}[client.get_model().version]
            client.activate_model(wanted)
            while not over.wait(feed.random.uniform(0.02, 0.2)):
                states = {one.version: one.state for one in client.list_models()}
                assert "FAILED" not in states.values()
                if states.get(wanted) not in ("LOADING", "REBUILDING"):
                    break


def _feeds() -> dict[Work, list[Feed]]:
    share = SERIES // 4
    names = [[f"s{k:03}" for k in range(start, start + share)] for start in range(0, SERIES, share)]
    return {
        by_requests: [Feed(names[0], 0), Feed(names[1], 1, areas=0.2)],
        by_stream: [Feed(names[2], 2, gaps=0.15), Feed(names[3], 3)],
        by_deleting: [Feed([f"gone {k}" for k in range(10)], 4, areas=0.3)],
        by_correcting: [Feed([f"late {k:02}" for k in range(20)], 7)],
        by_flooding: [Feed([f"known {k}" for k in range(3)], 5, areas=0.3)],
        by_replacing: [Feed([], 6)],
    }


@contextlib.contextmanager
def clients(address: str) -> Iterator[list[Feed]]:
    """Let clients work while the block runs, and afterwards until everything is answered."""
    works = [(work, feed) for work, feeds in _feeds().items() for feed in feeds]
    over = threading.Event()
    with ThreadPoolExecutor(len(works)) as pool:
        running = [pool.submit(work, address, feed, over) for work, feed in works]
        try:
            yield [feed for _, feed in works]
        finally:
            over.set()
        for done in running:
            done.result(150)
