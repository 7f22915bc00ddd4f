"""What one turn takes on: requests are weighed, cut, and gone on with between others' turns; nothing else changes."""

import asyncio
import contextlib
import pathlib
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from forecaster.errors import ConflictError, OutOfOrderError, StorageError
from forecaster.serving.engine.batcher import Batcher
from forecaster.serving.engine.engine import Engine
from forecaster.serving.engine.turns import HELD_BACK, Pace, Turn
from forecaster.serving.lanes.joining import joined
from forecaster.serving.rebuilding.census import take_census
from forecaster.serving.rebuilding.starts import Source, from_windows
from forecaster.serving.storage.contract import Journal
from forecaster.serving.storage.records import Columns
from forecaster.serving.storage.sqlite.storage import SqliteStorage
from forecaster.serving.storage.volatile import VolatileStorage
from forecaster.serving.work.forecasting import Forecasts, ForecastWork
from forecaster.serving.work.observing import Chain, Observed, ObserveWork
from tests.unit.serving.folding import BUNDLE, GAP, HORIZON, HOUR_US, columns, make_bundle

LEVELS = (0.1, 0.5, 0.9)


class Steady(Pace):
    """A pace that stays, tells who watches after each turn, and knows what each took on."""

    def __init__(
        self, rows: int = 2**40, steps: int = 2**40, forecasts: int = 2**40, clock: Callable[[], float] = lambda: 0.0
    ) -> None:
        super().__init__(2**40, clock=clock)
        self.rows, self.steps, self.forecasts = rows, steps, forecasts
        self.forecast: list[int] = []  # by turn
        self.turns: list[Turn] = []
        self.watch: Callable[[int], None] = lambda turns: None

    def length(self) -> int:
        return 1

    def note(self, turn: Turn) -> None:
        self.turns.append(turn)
        self.watch(len(self.turns))

    def note_forecasts(self, weight: int, seconds: float, *, was_cut: bool) -> None:
        self.forecast.append(weight)


class Server:
    """An engine behind its batcher, whose next turn can be held."""

    def __init__(self, pace: Steady, storage: Any = None, beside: Journal | None = None) -> None:
        self.engine, self.pace = Engine(BUNDLE, storage or VolatileStorage()), pace
        self.defects: list[Exception] = []
        defect = self.defects.append
        self.batcher = Batcher(
            self.engine, max_batch=10_000, max_queued=100_000, on_defect=defect, beside=beside, pace=pace
        )
        self.ended: list[str] = []

    @contextlib.asynccontextmanager
    async def held(self) -> Any:
        """Let all that is asked for in the block wait for the same turn."""
        go = threading.Event()
        call = asyncio.ensure_future(self.batcher.call(go.wait))
        await asyncio.sleep(0.02)
        yield
        await asyncio.sleep(0.02)
        go.set()
        await call

    def begin(self, name: str, request: ObserveWork) -> "asyncio.Future[Observed]":
        """Ask, and note when the answer came."""
        future = self.batcher.begin(request)
        future.add_done_callback(lambda _: self.ended.append(name))
        return future

    async def until_ended(self, count: int) -> None:
        """Wait until so many answers were noted, which is a moment after they came."""
        while len(self.ended) < count:
            await asyncio.sleep(0.001)


def serve(server: Server, scenario: Callable[[Server], Awaitable[None]]) -> None:
    async def whole() -> None:
        server.batcher.start()
        await scenario(server)
        await server.batcher.drain()
        assert not server.defects
        assert server.batcher.queued == 0

    asyncio.run(asyncio.wait_for(whole(), 20))


def skipping(name: str, rows: int, first: int = 0, step: int = GAP + 1) -> ObserveWork:
    """Return a request of one series whose clock jumps."""
    return columns([(name, first + k * step, 1.0 + k % 7) for k in range(rows)])


def forecasts(engine: Engine, names: tuple[str, ...]) -> np.ndarray:
    return engine.forecast([ForecastWork(names, HORIZON, LEVELS)])[0].quantiles


def test_a_long_walk_is_cut_and_others_are_served_between() -> None:
    """A clock that jumps for one series delays nobody by more than one part of its steps."""

    async def scenario(server: Server) -> None:
        loop, arrived = asyncio.get_running_loop(), threading.Event()

        def arrive() -> None:
            server.begin("later", columns([("polite", 1, 2.0)]))
            loop.call_soon(loop.call_soon, arrived.set)

        def watch(turns: int) -> None:
            if turns == 3:  # amid the walk
                loop.call_soon_threadsafe(arrive)
                arrived.wait(180)

        server.pace.watch = watch
        async with server.held():
            walk = server.begin("walk", skipping("clock", 60))
            server.begin("at once", columns([("polite", 0, 1.0)]))
            forecast = asyncio.ensure_future(server.batcher.forecast(ForecastWork(("polite",), HORIZON, LEVELS)))
        assert (await walk).outcomes.tolist() == [1] * 60
        assert (await forecast).series_ids == ("polite",)
        await server.until_ended(3)
        assert server.ended == ["at once", "later", "walk"]
        steps = [turn.steps_done for turn in server.pace.turns]
        assert sum(steps) == 59 * GAP
        assert max(steps) <= 3 * GAP
        assert server.engine.describe("clock").length == 59 * (GAP + 1) + 1

    serve(Server(Steady(steps=3 * GAP + 1)), scenario)


def test_one_row_that_skips_more_than_a_turn_walks_gets_on() -> None:
    async def scenario(server: Server) -> None:
        await server.batcher.observe(columns([("a", 0, 1.0), ("b", 0, 1.0)]))
        async with server.held():
            asked = [server.begin(name, skipping(name, 3, GAP + 1)) for name in "ab"]
        assert [(await one).outcomes.tolist() for one in asked] == [[1, 1, 1]] * 2
        assert max(turn.steps_done for turn in server.pace.turns) <= 2 * GAP

    serve(Server(Steady(steps=1)), scenario)


def test_many_rows_are_cut_too() -> None:
    """What is refused row by row costs as much as what is applied."""

    async def scenario(server: Server) -> None:
        await server.batcher.observe(columns([("old", 1000, 1.0)]))
        async with server.held():
            refused = server.begin("refused", columns([("old", k, 1.0) for k in range(500)]))
            fresh = server.begin("fresh", columns([(f"s{k}", 0, 1.0) for k in range(500)]))
            server.begin("small", columns([("polite", 0, 1.0)]))
        assert set((await refused).outcomes.tolist()) == {3}
        assert len((await refused).errors) == 500
        assert (await fresh).outcomes.tolist() == [1] * 500
        await server.until_ended(3)
        assert server.ended[0] == "small"
        assert max(turn.rows_done for turn in server.pace.turns) <= 50

    serve(Server(Steady(rows=50)), scenario)


def test_nothing_overtakes_a_request_that_is_cut() -> None:
    """Neither a request that goes on with one of its series, nor what follows it in its chain."""

    async def scenario(server: Server) -> None:
        chain = Chain()
        first = skipping("a", 10)
        async with server.held():
            server.begin("cut", ObserveWork(first.columns, chain=chain))
            server.begin("same series", skipping("a", 10, 10 * (GAP + 1)))
            server.begin("behind it", columns([("a", 20 * (GAP + 1), 1.0), ("b", 0, 1.0)]))
            server.begin("behind that", columns([("b", 1, 1.0)]))
            server.begin("same chain", ObserveWork(columns([("c", 0, 1.0)]).columns, chain=chain))
            server.begin("other", columns([("d", 0, 1.0)]))
        await server.until_ended(6)
        assert server.ended.index("other") == 0
        assert server.ended.index("same chain") > server.ended.index("cut")
        rest = [name for name in server.ended if name not in ("other", "same chain")]
        assert rest == ["cut", "same series", "behind it", "behind that"]
        assert server.engine.describe("a").observed_length == 21
        assert server.engine.describe("b").length == 2

    serve(Server(Steady(steps=2 * GAP)), scenario)


def test_a_caller_who_goes_away_amid_a_long_walk_drops_what_is_left_and_may_come_again() -> None:
    async def scenario(server: Server) -> None:
        loop, gone = asyncio.get_running_loop(), threading.Event()
        request = skipping("clock", 40)

        def watch(turns: int) -> None:
            if turns == 4:
                loop.call_soon_threadsafe(lambda: (walk.cancel(), gone.set()))
                gone.wait(180)

        server.pace.watch = watch
        async with server.held():
            walk = server.begin("walk", request)
            behind = server.begin("behind", columns([("clock", 40 * (GAP + 1), 1.0)]))
        assert (await behind).outcomes.tolist() == [1]
        assert 3 <= server.engine.done.applied < 40
        assert walk.cancelled()

    serve(Server(Steady(steps=2 * GAP)), scenario)


def test_many_forecasts_are_cut_and_are_the_same() -> None:
    """Of a request, and behind the observations of a stream's message; what fails is told as ever."""
    names = tuple(f"s{k}" for k in range(40))
    fleet, later = ([(name, hour, 1.0 + k) for k, name in enumerate(names)] for hour in (0, 1))

    async def scenario(server: Server) -> None:
        await server.batcher.observe(columns(fleet))
        expected = forecasts(server.engine, names)
        async with server.held():
            every = asyncio.ensure_future(server.batcher.forecast(ForecastWork((*names, "nobody"), HORIZON, LEVELS)))
            every.add_done_callback(lambda _: server.ended.append("every"))
            one = asyncio.ensure_future(server.batcher.forecast(ForecastWork(("s3",), HORIZON, LEVELS)))
            one.add_done_callback(lambda _: server.ended.append("one"))
        answer = await every
        assert (answer.series_ids, set(answer.failures)) == (names, {"nobody"})
        np.testing.assert_allclose(answer.quantiles, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose((await one).quantiles, expected[3:4], rtol=1e-5, atol=1e-6)
        await server.until_ended(2)
        assert server.ended == ["one", "every"]
        then = ForecastWork(names, HORIZON, LEVELS)
        told = await server.batcher.observe(ObserveWork(columns(later).columns, then=then))
        assert told.outcomes.tolist() == [1] * 40
        assert told.forecasts is not None
        np.testing.assert_allclose(told.forecasts.quantiles, forecasts(server.engine, names), rtol=1e-5, atol=1e-6)
        assert max(server.pace.forecast) <= 5

    serve(Server(Steady(rows=7, forecasts=5)), scenario)


def test_parts_of_forecasts_keep_each_series_version() -> None:
    """While a version is being replaced, a part's series have different ones."""

    def part(names: str, *versions: str) -> Forecasts:
        n = len(names)
        values = np.arange(n, dtype=np.float64)[:, None]
        return Forecasts(tuple(names), np.zeros(n, np.int64), values, values[..., None], {}, versions=versions)

    parts = [part("ab", "1", "2"), part("c", "2"), part("de", "1")]
    places = [np.array([0, 1]), np.array([2]), np.array([3, 4])]
    whole = joined(ForecastWork(tuple("abcde"), 1, (0.5,)), list(zip(places, parts, strict=True)))
    assert whole.versions == ("1", "2", "2", "1", "1")


rows_of = st.tuples(
    st.sampled_from("abc"),
    st.sampled_from([*range(-42, -37), *range(-3, 9), 15, 30, 31, 55, 90]),
    st.sampled_from([1, 2]),
)


@settings(max_examples=25, deadline=None)
@given(
    requests=st.lists(st.lists(rows_of, min_size=1, max_size=12), min_size=1, max_size=4),
    rows=st.integers(1, 6),
    steps=st.integers(1, 30),
)
def test_parts_are_the_whole(requests: list[list[tuple[str, int, int]]], rows: int, steps: int) -> None:
    """Outcomes, reasons and states are those of requests that nobody cuts, whatever the states have forgotten."""
    begun = columns([(name, hour, 1.0) for name in "ab" for hour in (-40, -39, -20, 0)])
    asked = [columns([(name, hour, float(value)) for name, hour, value in request]) for request in requests]
    with tempfile.TemporaryDirectory() as folder, sqlite(folder) as plain, sqlite(f"{folder}/cut") as storage:
        whole = Engine(BUNDLE, plain)
        expected = [whole.observe([request])[0] for request in (begun, *asked)][1:]
        server = Server(Steady(rows, steps), storage, storage.beside().journal)

        async def scenario(server: Server) -> None:
            await server.batcher.observe(begun)
            async with server.held():
                answers = [server.begin("", request) for request in asked]
            for answer, whole_answer in zip(answers, expected, strict=True):
                assert (await answer).outcomes.tolist() == whole_answer.outcomes.tolist()
                reasons = [
                    {row: type(error) for row, error in one.errors.items()} for one in (await answer, whole_answer)
                ]
                assert reasons[0] == reasons[1]

        serve(server, scenario)
        names = tuple(name for name in "abc" if name in whole.lanes.active.store.resident)
        for name in names:
            assert [describe(engine, name) for engine in (server.engine, whole)] == [describe(whole, name)] * 2
        np.testing.assert_allclose(forecasts(server.engine, names), forecasts(whole, names), rtol=1e-5, atol=1e-6)
        restarted = Engine(BUNDLE, storage)
        restarted.recover()
        np.testing.assert_allclose(forecasts(restarted, names), forecasts(whole, names), rtol=1e-5, atol=1e-6)


def describe(engine: Engine, name: str) -> tuple[int, int, int]:
    info = engine.describe(name)
    return info.clock_us, info.length, info.observed_length


@contextlib.contextmanager
def sqlite(folder: str) -> Iterator[SqliteStorage]:
    storage = SqliteStorage.open(pathlib.Path(folder), "interval")
    try:
        yield storage
    finally:
        storage.close()


class Gated:
    """A journal in which nothing is found before the gate opens."""

    def __init__(self, inner: Journal, error: Exception | None = None) -> None:
        self._inner, self._error, self.gate, self.asked = inner, error, threading.Event(), threading.Event()

    def last_sequence(self) -> int:
        return self._inner.last_sequence()

    def find(self, wanted: Columns, give_way: Callable[[], None]) -> Any:
        self.asked.set()
        assert self.gate.wait(180)
        if self._error is not None:
            raise self._error
        return self._inner.find(wanted, give_way)


OLD = [(name, hour, float(hour)) for name in "ab" for hour in range(60)]


def test_who_asks_for_old_rows_waits_alone_and_one_look_answers_all_who_wait(tmp_path: pathlib.Path) -> None:
    """Old rows are looked up beside the engine: it goes on, on the same series too."""
    with sqlite(str(tmp_path)) as storage:
        journal = Gated(storage.beside().journal)

        async def scenario(server: Server) -> None:
            await server.batcher.observe(columns(OLD))
            first = server.begin("first", columns([("a", 3, 3.0), ("a", 60, 60.0)]))
            await asyncio.to_thread(journal.asked.wait, 20)
            known = [server.begin("known", columns(OLD[k : k + 3])) for k in range(20)]
            mixed = server.begin("mixed", columns([("b", 2, 2.0), ("b", 1, 7.0), ("a", -5, 1.0), ("a", 61, 61.0)]))
            assert (await server.batcher.observe(columns([("b", 60, 1.0)]))).outcomes.tolist() == [1]
            assert server.ended == []
            assert server.engine.describe("a").clock_us == 61 * HOUR_US  # what advances a series does not wait
            assert server.batcher.queued > 60  # and what waits counts
            journal.gate.set()
            assert (await first).outcomes.tolist() == [2, 1]
            assert [(await one).outcomes.tolist() for one in known] == [[2] * 3] * 20
            answer = await mixed
            assert answer.outcomes.tolist() == [2, 3, 3, 1]
            assert [type(error) for error in answer.errors.values()] == [ConflictError, OutOfOrderError]
            assert server.batcher.look_ups.looks == 2  # type: ignore[union-attr]
            done = server.batcher.done
            assert (sum(one.duplicate for one in done), sum(one.rejected for one in done)) == (62, 2)

        serve(Server(Steady(), storage, journal), scenario)  # type: ignore[arg-type]


def test_a_look_that_fails_concerns_those_who_asked(tmp_path: pathlib.Path) -> None:
    with sqlite(str(tmp_path)) as storage:
        journal = Gated(storage.beside().journal, StorageError("history/1-2.parquet: cannot be read"))
        journal.gate.set()

        async def scenario(server: Server) -> None:
            await server.batcher.observe(columns(OLD))
            asked, other = server.begin("old", columns(OLD[:1])), server.begin("new", columns([("a", 60, 1.0)]))
            assert (await other).outcomes.tolist() == [1]
            with pytest.raises(StorageError):
                await asked

        serve(Server(Steady(), storage, journal), scenario)  # type: ignore[arg-type]


def test_a_forecast_that_has_to_wait_for_its_turn_is_answered_amid_a_swap_too() -> None:
    """A turn has room for one series: the second request begins nothing in the first one, of neither version."""

    async def scenario(server: Server) -> None:
        await server.batcher.observe(columns([(name, 0, 1.0) for name in ("a", "b")]))
        engine = server.engine
        await server.batcher.upkeep(lambda: engine.lanes.begin(engine.make_lane(make_bundle(8), "8", empty=True)))
        async with server.held():
            asked = [asyncio.ensure_future(server.batcher.forecast(ForecastWork((name,), 5, LEVELS))) for name in "ab"]
        assert [(await one).series_ids for one in asked] == [("a",), ("b",)]

    serve(Server(Steady(forecasts=1)), scenario)


def test_calls_leave_room_for_others() -> None:
    """Six hundred deletions at once: who asks amid them waits for those of one turn, by a clock that they move."""

    async def scenario(server: Server) -> None:
        await server.batcher.observe(columns([("a", 0, 1.0)]))
        loop, arrived, now, called = asyncio.get_running_loop(), threading.Event(), 0.0, 0
        seen: list[int] = []
        server.pace.wall_clock = lambda: now
        server.pace.watch = lambda turns: seen.append(called)

        def arrive() -> None:
            server.begin("polite", columns([("a", 1, 1.0)]))
            loop.call_soon(loop.call_soon, arrived.set)

        def call() -> None:
            nonlocal now, called
            now, called = now + server.pace.seconds / 3, called + 1
            if called == 100:
                loop.call_soon_threadsafe(arrive)
                arrived.wait(180)

        await asyncio.gather(*(server.batcher.call(call) for _ in range(600)))
        assert len(seen) == 1
        assert 100 <= seen[0] <= 103

    serve(Server(Steady()), scenario)


def test_a_pace_finds_out_what_takes_its_time() -> None:
    """Whatever a row and a step cost, a turn comes to take about as long as it is to."""
    for row_seconds, step_seconds in ((1e-6, 1e-6), (8e-6, 1e-4), (1e-3, 1e-5)):
        pace = Pace(65_536, seconds=0.016)
        for _ in range(40):
            turn = pace.turn()
            turn.spend(turn.rows, turn.steps)
            turn.cut_by_rows = turn.cut_by_steps = True
            turn.seconds = turn.rows * row_seconds + turn.steps * step_seconds
            pace.note(turn)
        assert turn.seconds <= 0.032 + 512 * row_seconds + 256 * step_seconds
        assert pace.rows >= 512
        assert pace.steps >= 256


def test_a_slow_turn_leaves_no_small_ones_behind() -> None:
    """As one of new series, or one in which another process had the memory to itself."""
    pace, row_seconds = Pace(65_536, seconds=0.016), 2e-6
    for seconds in (0.2, *[0.0] * 8):
        turn = pace.turn()
        turn.spend(turn.rows, 0)
        turn.cut_by_rows = True
        turn.seconds = seconds or turn.rows * row_seconds
        pace.note(turn)
    assert pace.rows * row_seconds > 0.9 * pace.seconds


def test_little_work_does_not_make_turns_longer() -> None:
    """A turn of an eighth tells what a whole one takes, whatever the rounding."""
    pace, row_seconds = Pace(65_536, seconds=0.016), 1.05 * 0.016 / 8192
    for _ in range(20):
        turn = pace.turn()
        counts = turn.by_rows([columns([(f"s{k}", 1, 1.0) for k in range(3000)])], lambda _: None)
        turn.spend(sum(counts), 0)
        turn.seconds = turn.rows_done * row_seconds
        pace.note(turn)
    assert pace.rows <= 2 * 8192


def test_a_turn_that_is_ended_by_the_most_is_not_taken_for_a_long_one() -> None:
    pace, now = Pace(8192, seconds=0.016), 1e9
    pace.wall_clock = lambda: now
    for _ in range(20):
        turn = pace.turn()
        turn.spend(turn.rows, 0)
        turn.cut_by_rows = True
        turn.seconds = turn.rows * 8e-6
        pace.note(turn)
    assert pace.rows * 8e-6 <= 0.032


def test_a_failed_try_of_a_turn_leaves_nobody_held_back() -> None:
    turn, request = Turn(rows=4096), columns([(f"s{k}", 1, 1.0) for k in range(5000)])

    def fail() -> None:
        with turn.attempt():
            assert turn.by_rows([request], lambda _: None) == [512]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert turn.by_rows([request], lambda _: None) == [512]
    with turn.attempt():
        assert turn.by_rows([request], lambda _: None) == [HELD_BACK]


def test_who_loads_alone_has_longer_turns() -> None:
    """Until somebody comes who needs little of a turn; what a turn takes on is learned all the same."""
    pace, now, row_seconds = Pace(65_536, seconds=0.016), 1e9, 2e-6
    pace.wall_clock = lambda: now
    bulk = columns([(f"s{k}", 1, 1.0) for k in range(30_000)])
    for _ in range(20):
        turn = pace.turn()
        turn.spend(turn.rows, 0)
        turn.cut_by_rows = True
        turn.seconds = turn.rows * row_seconds
        pace.note(turn)
        pace.meet([bulk])
    assert 7_900 <= pace.rows <= 16_000
    assert pace.turn().rows == pace.gathered_rows == 4 * pace.rows
    assert pace.turn().steps == pace.steps
    for other in (columns([("s", 1, 1.0)]), ForecastWork(("s",), HORIZON, LEVELS), lambda: None):
        now += 10
        assert pace.turn().rows == 4 * pace.rows
        pace.meet([bulk, other])
        assert (pace.turn().rows, pace.gathered_rows) == (pace.rows, 65_536)
        now += 0.5
        assert pace.turn().rows == pace.rows


def test_what_is_left_to_fold_while_the_engine_waits_weighs_its_steps(tmp_path: pathlib.Path) -> None:
    """In a swap few rows may be left for the engine's thread, but each of them may skip many steps."""
    with sqlite(str(tmp_path)) as storage:
        engine = Engine(BUNDLE, storage)
        engine.observe([skipping("a", 3)])
        lane = engine.lanes.active
        census = take_census(
            lane, storage.snapshots, lambda: None, lane.store.inventory(), engine.storage.journal.last_sequence(), ()
        )
        fold = from_windows(make_bundle(4), census, Source(storage.journal), replay_steps=10_000)
        assert fold.advance() == 2 * (GAP + 1) + 1
        engine.observe([skipping("a", 2, 3 * (GAP + 1))])
        assert fold.advance() == 2 * (GAP + 1)
        assert fold.advance() == 0
