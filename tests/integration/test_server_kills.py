"""A server that is killed again and again while clients work: what it acknowledged is there, once, and in every state.

`FORECASTER_KILLS=50 python -m pytest tests/integration/test_server_kills.py` kills more often than the default.
"""

import collections
import contextlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
import polars as pl
import pytest

from forecaster.client import ForecastClient, RetryPolicy
from forecaster.serving.opening import open_storage
from forecaster.serving.records import Columns, Deletion, Issued

from .conftest import START, Server, ServerFactory
from .test_server_journey import assert_forecasts_are_the_offline_models

pytestmark = pytest.mark.alone

KILLS = int(os.environ.get("FORECASTER_KILLS", "10"))
SERIES, RESIDENT, ROWS = 200, 64, 16
OPTIONS = (
    f"--serving.max_resident_series={RESIDENT}",
    f"--serving.max_batch_observations={RESIDENT}",
    f"--serving.max_request_observations={RESIDENT}",
    "--serving.snapshot_seconds=0.2",
    "--serving.journal_seconds=0.5",
)
HISTORY = 20  # hours, so that every series can be forecast
Row = tuple[str, int, float | None]  # series, hour, value
RETRY = RetryPolicy(timeout_seconds=120, max_delay_seconds=0.2)


@dataclass
class Feed:
    """What one client knows: its series' next hours, and what was acknowledged of them."""

    names: list[str]
    seed: int
    next_hour: dict[str, int] = field(default_factory=dict)
    acknowledged: dict[str, dict[int, float | None]] = field(default_factory=dict)
    duplicates: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def rows(self, names: list[str], hours: int = 1) -> list[Row]:
        """Return the next rows of some series; now and then an hour is skipped or its value is missing."""
        rows: list[Row] = []
        for name in names:
            for _ in range(hours):
                hour = self.next_hour.get(name, 0) + (self.random.random() < 0.05)
                self.next_hour[name] = hour + 1
                rows.append((name, hour, None if self.random.random() < 0.1 else self.random.gauss(100, 10)))
        return rows

    def sample(self) -> list[str]:
        """Return some of the series."""
        return self.random.sample(self.names, min(ROWS, len(self.names)))

    def note(self, rows: list[Row], applied: int, duplicates: int, rejected: int) -> None:
        """Remember that rows were answered."""
        assert (applied + duplicates, rejected) == (len(rows), 0)
        self.duplicates += duplicates
        for name, hour, value in rows:
            self.acknowledged.setdefault(name, {})[hour] = value

    def observe(self, client: ForecastClient, rows: list[Row]) -> None:
        """Send rows until they are answered."""
        result = client.observe(frame(rows))
        self.note(rows, result.applied, result.duplicates, len(result.rejected))


def frame(rows: list[Row]) -> pl.DataFrame:
    names, hours, values = zip(*rows, strict=True)
    schema = {"unique_id": pl.String, "hour": pl.Int64, "y": pl.Float64}
    made = pl.DataFrame({"unique_id": names, "hour": hours, "y": values}, schema=schema)
    ds = pl.lit(START).cast(pl.Datetime("us", "UTC")) + pl.duration(hours="hour")
    return made.select("unique_id", ds.alias("ds"), "y")


def begin(client: ForecastClient, feed: Feed) -> None:
    for start in range(0, len(feed.names), 3):
        feed.observe(client, feed.rows(feed.names[start : start + 3], HISTORY))


def work_by_requests(address: str, feed: Feed, over: threading.Event) -> None:
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
                name = names[0]
                old = sorted(feed.acknowledged[name].items())[-40:]
                again = client.observe(frame([(name, hour, value) for hour, value in old]))
                assert (again.applied, again.duplicates, len(again.rejected)) == (0, len(old), 0)
            elif kind < 0.6:
                assert client.get_series(names[0]).length == max(feed.acknowledged[names[0]]) + 1 - first(
                    feed, names[0]
                )


def first(feed: Feed, name: str) -> int:
    return min(feed.acknowledged[name])


def work_by_stream(address: str, feed: Feed, over: threading.Event) -> None:
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
                    feed.note(waiting.popleft(), observed.applied, observed.duplicates, len(observed.rejected))


def work_by_deleting(address: str, feed: Feed, over: threading.Event) -> None:
    """Observe series, delete them, let some of them begin anew."""
    with ForecastClient(address, retry=RETRY) as client:
        while not over.is_set():
            names = feed.random.sample(feed.names, 6)
            feed.observe(client, feed.rows(names))
            gone = names[0]
            if feed.random.random() < 0.3:
                client.delete_series(gone)
                del feed.acknowledged[gone]
                feed.next_hour[gone] = feed.random.randrange(500)


@contextlib.contextmanager
def clients(address: str) -> Iterator[list[Feed]]:
    """Let clients work while the block runs, and afterwards until everything is answered."""
    share = SERIES // 4
    feeds = [Feed([f"s{k:03}" for k in range(start, start + share)], start) for start in range(0, SERIES, share)]
    feeds.append(Feed([f"gone {k}" for k in range(10)], 99))
    works: list[Callable[[str, Feed, threading.Event], None]] = [work_by_requests, work_by_stream] * 2
    works.append(work_by_deleting)
    over = threading.Event()
    with ThreadPoolExecutor(len(works)) as pool:
        running = [pool.submit(work, address, feed, over) for work, feed in zip(works, feeds, strict=True)]
        try:
            yield feeds
        finally:
            over.set()
        for done in running:
            done.result(150)


def kill_again_and_again(servers: ServerFactory, server: Server, options: tuple[str, ...]) -> Server:
    """Kill servers while they serve, recover or start; return one that runs."""
    moments = random.Random(KILLS)
    for number in range(KILLS):
        time.sleep(moments.uniform(0.1, 1.5))
        server.kill()
        if number % 4 == 3:  # the next one does not live to serve, or not for long
            short = servers.begin(*options)
            time.sleep(moments.uniform(0.0, 0.5))
            short.kill()
        server = servers(*options)
    return server


def stored(servers: ServerFactory) -> tuple[dict[str, dict[int, float | None]], int, int]:
    """Return the journal's fold, with its history, by series and hour; how many rows are in it, and forecasts."""
    fold: dict[str, dict[int, float | None]] = {}
    issued = 0
    with closing(open_storage(str(servers.folder / "state"), "commit", "forecaster")) as storage:
        assert storage.journal.first_sequence() <= storage.journal.last_sequence()
        for _, record in storage.journal.read(0):
            if isinstance(record, Deletion):
                fold.pop(record.series_id, None)
            elif isinstance(record, Issued):
                issued += len(record)
            elif isinstance(record, Columns):
                hours = (record.time_us - int(START.timestamp() * 1e6)) // 3_600_000_000
                for code, hour, value in zip(
                    record.series.tolist(), hours.tolist(), record.values.tolist(), strict=True
                ):
                    rows = fold.setdefault(record.series_ids[code], {})
                    assert not rows or hour > max(rows), "a row stands twice, or out of order"
                    rows[hour] = None if np.isnan(value) else value
    return fold, sum(map(len, fold.values())), issued


def scores(client: ForecastClient) -> dict[str, list[tuple[object, ...]]]:
    """Return the live scores of each series; the error, which rests on the states' scale, in three digits."""
    found = {}
    for info in client.list_series():
        live = [(one.horizon, one.scored_count, one.coverage, one.calibrated_coverage) for one in info.live]
        found[info.unique_id] = [*live, *(f"{one.mase or 0:.3g}" for one in info.live)]
    return found


@pytest.mark.timeout(900)
def test_killed_again_and_again(servers: ServerFactory) -> None:
    server = servers(*OPTIONS)
    address = server.address
    options = (*OPTIONS, f"--serving.port={address.rsplit(':', 1)[1]}")
    began = time.monotonic()
    with clients(address) as feeds:
        server = kill_again_and_again(servers, server, options)
    server.kill()
    acknowledged = {name: rows for feed in feeds for name, rows in feed.acknowledged.items()}
    fold, count, issued = stored(servers)
    assert fold == acknowledged
    repeated = sum(feed.duplicates for feed in feeds)
    print(f"{KILLS} kills in {time.monotonic() - began:.0f} s: {count} rows, {issued} issued, {repeated} sent again")
    assert list((servers.folder / "state" / "forecaster" / "history").glob("*.parquet"))
    server = servers(*options)
    whole = frame([(name, hour, value) for name, rows in acknowledged.items() for hour, value in sorted(rows.items())])
    with ForecastClient(address, retry=RETRY) as client:
        assert {info.unique_id for info in client.list_series()} == set(acknowledged)
        for start in range(0, SERIES, 50):
            mine = whole.filter(pl.col("unique_id").is_in([f"s{k:03}" for k in range(start, start + 50)]))
            assert_forecasts_are_the_offline_models(client, servers.bundle, mine)
        before = scores(client)
        server.kill()
        server = servers(*options)
        assert scores(client) == before
        assert sum(live[0][1] > 0 for live in before.values()) > 10  # many more on an idle machine
    for log in (one.read_text() for one in servers.folder.glob("server-*.log")):
        assert not any(word in log for word in ("Traceback", "CRITICAL", "ERROR", "corrupted", "did not succeed")), log
