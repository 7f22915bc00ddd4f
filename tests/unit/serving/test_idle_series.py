"""Series that were not observed for long have no state, and come back with all of it; any interleaving with a swap is
in `test_swap_beside`."""

import asyncio
import contextlib
import pathlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from forecaster.errors import LimitReachedError, ReturningError, SeriesNotFoundError, StateLostError
from forecaster.serving.history import History
from forecaster.serving.idle_series import IdleSeries
from forecaster.serving.idling import Idling
from forecaster.serving.opening import open_storage
from forecaster.serving.records import Columns
from forecaster.serving.returning import Returning
from forecaster.serving.storage import IDLE, Storage
from tests.unit.serving.folding import Row, walk, work
from tests.unit.serving.storages import Opener, prune_all
from tests.unit.serving.swapping import A, B, Fleet, run

BUNDLES = {"1": A, "2": B}
AT_ONCE, NEVER = 1e-6, 1e6  # seconds after which a series is idle


class Idle:
    """A fleet whose series become idle and come back.

    Args:
        fleet: it.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet, self._beside = fleet, fleet.storage.beside()
        self._pool = ThreadPoolExecutor(1)

    @contextlib.asynccontextmanager
    async def running(self, *, replay_steps: int = 10_000) -> AsyncIterator["Idle"]:
        fleet = self._fleet
        returning = Returning(fleet.engine, fleet.batcher, self._beside, self._pool, replay_steps)
        task = asyncio.create_task(returning.run())
        await asyncio.sleep(0)  # it begins
        try:
            yield self
        finally:
            returning.stop()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self._pool.shutdown()
            if self._beside is not fleet.storage:
                self._beside.close()

    async def let_go(self, seconds: float = AT_ONCE) -> int:
        """Let everything go that was not observed for so long, behind a round of snapshots."""
        fleet = self._fleet
        await fleet.batcher.upkeep(fleet.engine.snapshot)
        with ThreadPoolExecutor(1) as pool:
            return await Idling(fleet.engine, fleet.batcher, self._beside, pool, seconds).round()

    async def observe(self, rows: list[Row]) -> None:
        """Observe rows, and come again while their series come back."""
        await until_back(lambda: self._fleet.observe(rows))


async def until_back(attempt: Callable[[], object]) -> None:
    while True:
        with contextlib.suppress(ReturningError):
            await attempt()  # type: ignore[misc]
            return
        await asyncio.sleep(0.002)


def play(opener: Callable[[], Storage], scenario: Callable[[Fleet, Idle], object], **limits: int) -> None:
    """Run a scenario on a fresh fleet."""

    async def scene() -> None:
        with closing(opener()) as storage:
            fleet = Fleet(storage, BUNDLES, **limits)
            async with fleet.running(), Idle(fleet).running() as idle:
                await scenario(fleet, idle)  # type: ignore[misc]

    run(scene)


def test_an_idle_series_is_not_there_and_comes_back_when_observed(opener: Opener) -> None:
    async def scenario(fleet: Fleet, idle: Idle) -> None:
        for k in range(5):
            await fleet.observe(walk(f"s{k}", range(40), k))
        assert await idle.let_go(NEVER) == 0
        assert await idle.let_go() == 5
        assert len(fleet.engine.lanes) == len(fleet.engine.lanes.active.store.resident) == 0
        assert await fleet.batcher.call(lambda: fleet.engine.page("", 10)) == ([], 0)
        with pytest.raises(SeriesNotFoundError, match=r"'s1' is idle.*observe it"):
            await fleet.batcher.call(lambda: fleet.engine.describe("s1"))
        answer = await fleet.forecast(["s1", "nobody"])
        assert "is idle" in str(answer.failures["s1"])
        assert "no series" in str(answer.failures["nobody"])
        await idle.observe([("s1", 40, 3.0, ()), ("new", 3, 1.0, ())])
        await fleet.check()
        assert len(fleet.engine.lanes) == 2
        prune_all(fleet.storage, 10**6)  # the others come back from files
        for k in (0, 2, 3, 4):
            await idle.observe([(f"s{k}", 41, 3.0, ())])
        await fleet.check()
        assert len(fleet.engine.idle) == 0

    play(opener, scenario)


def test_a_repetition_of_what_an_idle_series_has_is_known(opener: Opener) -> None:
    async def scenario(fleet: Fleet, idle: Idle) -> None:
        rows = walk("a", range(12), 1)
        await fleet.observe(rows)
        await idle.let_go()

        async def again() -> None:
            answer = await fleet.batcher.observe(work(rows[-3:]))
            assert answer.outcomes.tolist() == [2, 2, 2]

        await until_back(again)
        await fleet.check()

    play(opener, scenario)


def test_an_idle_series_that_is_deleted_is_gone(opener: Opener) -> None:
    async def scenario(fleet: Fleet, idle: Idle) -> None:
        await fleet.observe([*walk("a", range(12), 1), *walk("b", range(12), 2)])
        await idle.let_go()
        await fleet.delete("a")
        with pytest.raises(SeriesNotFoundError, match="no series 'a'"):
            await fleet.batcher.call(lambda: fleet.engine.delete("a"))
        await fleet.observe([("a", 3, 1.0, ())])  # begins anew, at a time that it had
        with pytest.raises(ReturningError):
            await fleet.observe([("b", 12, 1.0, ())])
        await fleet.delete("b")  # while it is on its way
        await fleet.observe([("b", 1, 1.0, ())])
        await fleet.check()
        assert await idle.let_go() == 2
        await idle.observe([("a", 4, 1.0, ()), ("b", 2, 1.0, ())])
        await fleet.check()

    play(opener, scenario)


def test_idle_series_leave_room_for_others(opener: Opener) -> None:
    async def scenario(fleet: Fleet, idle: Idle) -> None:
        await fleet.observe([(f"s{k}", 0, 1.0, ()) for k in range(3)])
        answer = await fleet.batcher.observe(work([("t0", 0, 1.0, ())]))
        assert isinstance(answer.errors[0], LimitReachedError)
        await idle.let_go()
        await fleet.observe([(f"t{k}", 0, 1.0, ()) for k in range(3)])
        await idle.observe([("s0", 1, 1.0, ())])  # it was acknowledged once
        await fleet.check()

    play(opener, scenario, max_series=3)


@pytest.mark.parametrize("cut", ["whole", "not noted", "not durable"])
def test_a_series_that_came_back_is_there_after_a_crash(opener: Opener, cut: str) -> None:
    """Its snapshot is written before it is no longer idle; a power cut may lose the snapshot, not what came then."""

    async def scenario() -> None:
        with closing(opener()) as storage:
            fleet = Fleet(storage, BUNDLES)
            async with fleet.running(), Idle(fleet).running() as idle:
                await fleet.observe([*walk("a", range(12), 1), *walk("b", range(30), 2), *walk("c", range(9), 3)])
                await fleet.forecast(["a", "c"])  # is journaled with what comes next, and brings nobody back
                await idle.let_go()
                kept = storage.snapshots.fetch(IDLE, ["a", "b"])
                await idle.observe([("a", 12, 5.0, ()), ("b", 33, 5.0, ())])
                await fleet.observe([("a", 13, 6.0, ())])
                if cut != "whole":
                    storage.snapshots.save(IDLE, kept)
                if cut == "not durable":
                    storage.snapshots.remove(A.fingerprint, ["a", "b"])
            again = Fleet(storage, BUNDLES)
            again.series = fleet.series
            async with again.running(), Idle(again).running() as idle:
                await again.batcher.upkeep(again.engine.recover)
                assert len(again.engine.lanes) == 2
                assert len(again.engine.idle) == 1
                await again.check()
                await idle.observe([("c", 9, 1.0, ())])
                await again.check()

    run(scenario)


def test_a_journal_that_lost_its_end_has_what_is_left(
    opener: Opener, accepting: Opener, lose: Callable[[Storage, int], None]
) -> None:
    """An idle series whose last records are gone with others' is a fold of those that are there."""

    async def scenario() -> None:
        storage = opener()
        fleet = Fleet(storage, BUNDLES)
        async with fleet.running(), Idle(fleet).running() as idle:
            for hour in range(8):
                await fleet.observe([("a", hour, float(hour), ()), ("b", hour, float(hour), ())])
            assert await idle.let_go() == 2
        lose(storage, 4)
        with closing(accepting()) as storage:
            again = Fleet(storage, BUNDLES)
            async with again.running(), Idle(again).running() as idle:
                for hour in range(4):
                    for name in "ab":
                        again.series.setdefault(name, type(fleet.series["a"])()).observe(hour, float(hour), ())
                await again.batcher.upkeep(again.engine.recover)
                await idle.observe([("a", 4, 1.0, ()), ("b", 4, 2.0, ())])
                await again.check()

    run(scenario)


def test_a_damaged_history_is_said_and_is_tried_again(tmp_path: pathlib.Path) -> None:
    async def scenario(fleet: Fleet, idle: Idle) -> None:
        await fleet.observe(walk("a", range(40), 1))
        await idle.let_go()
        prune_all(fleet.storage, 10**6)
        (file,) = (tmp_path / "state").rglob("history/*.parquet")
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(StateLostError, match="history"):
            await idle.observe([("a", 40, 1.0, ())])
        await fleet.observe([("b", 0, 1.0, ())])  # others go on
        file.write_bytes(whole)
        await until_back(lambda: fleet.observe([("a", 40, 1.0, ())]))
        await fleet.check()

    play(lambda: open_storage(str(tmp_path / "state"), "interval"), scenario)


def test_a_long_past_is_folded_from_its_end_and_counted_whole(opener: Opener) -> None:
    async def scene() -> None:
        with closing(opener()) as storage:
            fleet = Fleet(storage, BUNDLES)
            async with fleet.running(), Idle(fleet).running(replay_steps=20) as idle:
                await fleet.observe(walk("a", range(400), 1))
                before = await fleet.batcher.call(lambda: fleet.engine.describe("a"))
                await idle.let_go()
                await until_back(lambda: fleet.observe([("a", 400, 1.0, ())]))
                info = await fleet.batcher.call(lambda: fleet.engine.describe("a"))
                assert info.length == before.length + 1 == 401
                assert info.observed_length == before.observed_length + 1

    run(scene)


def test_a_dead_fleet_costs_a_swap_nothing(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its windows, which lie far back, the swap reads only the end of the history."""
    rows, read = [0], History.read

    def counted(self: History, *values: object) -> object:
        for sequence, record in read(self, *values):  # type: ignore[arg-type]
            rows[0] += len(record) if isinstance(record, Columns) else 0
            yield sequence, record

    monkeypatch.setattr(History, "read", counted)
    monkeypatch.setattr("forecaster.serving.history._MOST_ROWS_MERGED", 400)
    monkeypatch.setattr("forecaster.serving.sqlite_pruning._MOST_ROWS", 200)
    found = {}

    async def scenario(fleet: Fleet, idle: Idle, are_let_go: bool) -> None:
        for k in range(8):
            await fleet.observe(walk(f"dead{k}", range(10), k))
        if are_let_go:
            await idle.let_go()
        alive = [walk(f"s{k}", range(2000, 2600), k) for k in range(4)]
        for hour in range(0, 600, 20):
            await fleet.observe([row for one in alive for row in one[hour : hour + 20]])
        await fleet.batcher.upkeep(fleet.engine.snapshot)
        prune_all(fleet.storage, 10**6)
        rows[0] = 0
        await fleet.swap("2", replay_steps=50)
        found[are_let_go] = rows[0]

    for are_let_go in (False, True):
        state = str(tmp_path / str(are_let_go))
        play(
            lambda state=state: open_storage(state, "interval"),
            lambda fleet, idle, are_let_go=are_let_go: scenario(fleet, idle, are_let_go),
        )
    assert found[True] <= 4 * 50 + 400 < found[False]


def test_a_swap_is_no_observation(opener: Opener) -> None:
    """Who was not observed for long is idle, however often the version changed meanwhile."""

    async def scenario(fleet: Fleet, idle: Idle) -> None:
        await fleet.observe(walk("a", range(12), 1))
        store = fleet.engine.lanes.active.store
        before = store.mirrors.touched_us[store.resident["a"]]
        await fleet.swap("2")
        store = fleet.engine.lanes.active.store
        assert store.mirrors.touched_us[store.resident["a"]] == before
        await idle.let_go(NEVER)  # cold or not
        await fleet.swap("1")
        assert (await fleet.batcher.call(lambda: fleet.engine.describe("a"))).age_seconds > 0
        store = fleet.engine.lanes.active.store
        assert store.mirrors.touched_us[store.resident["a"]] == before

    play(opener, scenario)


def test_what_is_kept_is_what_comes_back() -> None:
    one = IdleSeries("é", 7, -3_600_000_000, 12, 11, 2**52)
    assert IdleSeries.of(one.snapshot()) == one
    damaged = IdleSeries.of(type(one.snapshot())("é", 7, b"half", 1))
    assert (damaged.series_id, damaged.sequence, damaged.position) == ("é", 7, 0)
