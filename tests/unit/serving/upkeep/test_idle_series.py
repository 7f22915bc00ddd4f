"""Series that were not observed for long have no state, and come back with all of it; any interleaving with a swap is
in `test_swap_beside`."""

import asyncio
import contextlib
import dataclasses
import pathlib
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from forecaster.errors import LimitReachedError, ReturningError, SeriesNotFoundError, StateLostError, UnavailableError
from forecaster.serving.lanes.lane import Lane
from forecaster.serving.rebuilding.census import Census
from forecaster.serving.states.idle_series import IdleSeries
from forecaster.serving.storage.contract import Storage
from forecaster.serving.storage.opening import open_storage
from forecaster.serving.storage.records import Columns
from forecaster.serving.storage.sqlite.history import History
from forecaster.serving.upkeep.idling import Idling
from forecaster.serving.upkeep.returning import Returning
from forecaster.serving.work.observing import Chain
from tests.unit.serving.folding import Row, make_bundle, walk, work
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
            return await Idling(fleet.engine, fleet.batcher, self._beside, pool, seconds=seconds).round()

    async def observe(self, rows: list[Row]) -> None:
        """Observe rows, and come again while their series come back."""
        await until_back(lambda: self._fleet.observe(rows))


@pytest.fixture
def folds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many series were folded again, each time."""
    counts, fold = list[int](), Returning._fold

    def counted(self: Returning, lane: Lane, census: Census) -> object:
        counts.append(len(census))
        return fold(self, lane, census)

    monkeypatch.setattr(Returning, "_fold", counted)
    return counts


async def until_back(attempt: Callable[[], object]) -> None:
    while True:
        with contextlib.suppress(ReturningError):
            await attempt()  # type: ignore[misc]
            return
        await asyncio.sleep(0.002)


def play(
    opener: Callable[[], Storage],
    scenario: Callable[[Fleet, Idle], object],
    *,
    replay_steps: int = 10_000,
    **limits: int,
) -> None:
    """Run a scenario on a fresh fleet."""

    async def scene() -> None:
        with closing(opener()) as storage:
            fleet = Fleet(storage, BUNDLES, **limits)
            async with fleet.running(), Idle(fleet).running(replay_steps=replay_steps) as idle:
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


def test_a_series_that_came_back_is_there_after_a_crash(opener: Opener) -> None:
    async def scenario() -> None:
        with closing(opener()) as storage:
            fleet = await came_back(storage)
            await recovered(storage, fleet)

    run(scenario)


@pytest.mark.parametrize("beside", ["nothing", "another broken snapshot", "a damaged history"])
def test_a_power_cut_may_lose_that_a_series_came_back_and_not_what_came_then(
    tmp_path: pathlib.Path, beside: str
) -> None:
    """SQLite's snapshots are a cache that is synced now and then, its journal is not."""
    state = tmp_path / "state"

    async def scenario() -> None:
        copy = tmp_path / "copy"

        def keep() -> None:
            storage.snapshots.sync()
            shutil.copyfile(next(state.rglob("snapshots.db")), copy)

        with closing(open_storage(str(state), "interval")) as storage:
            fleet = await came_back(storage, keep)
            prune_all(storage, 3)
        for path in state.rglob("snapshots.db*"):
            path.unlink()
        (folder,) = (path.parent for path in state.rglob("journal.db"))
        shutil.copyfile(copy, folder / "snapshots.db")
        if beside == "another broken snapshot":
            with closing(sqlite3.connect(folder / "snapshots.db")) as database, database:
                database.execute("UPDATE snapshots SET checksum = 1 WHERE series_id = 'd'")
        if beside == "a damaged history":
            for file in state.rglob("history/*.parquet"):
                file.write_bytes(file.read_bytes()[:100])
        with closing(open_storage(str(state), "interval")) as storage:
            if beside != "a damaged history":
                await recovered(storage, fleet)
                return
            again = Fleet(storage, BUNDLES)
            async with again.running():
                await again.batcher.upkeep(again.engine.recover)  # the others are served
                assert (await again.batcher.call(lambda: again.engine.describe("d"))).length == 8
                with pytest.raises(StateLostError):
                    await again.batcher.observe(work([("a", 14, 1.0, ())]))

    run(scenario)


async def came_back(storage: Storage, keep: Callable[[], object] = lambda: None) -> Fleet:
    """Return a fleet of which two idle series were observed again; `keep` is called when they were idle."""
    fleet = Fleet(storage, BUNDLES)
    async with fleet.running(), Idle(fleet).running() as idle:
        await fleet.observe([*walk("a", range(12), 1), *walk("b", range(30), 2), *walk("c", range(9), 3)])
        await fleet.forecast(["a", "c"])  # is journaled with what comes next, and brings nobody back
        assert await idle.let_go() == 3
        await fleet.observe(walk("d", range(8), 4))
        await fleet.batcher.upkeep(fleet.engine.snapshot)
        await fleet.batcher.upkeep(keep)
        await idle.observe([("a", 12, 5.0, ()), ("b", 33, 5.0, ())])
        await fleet.observe([("a", 13, 6.0, ())])
    return fleet


async def recovered(storage: Storage, fleet: Fleet) -> None:
    """A new engine has what the former had, and what is idle still comes back."""
    again = Fleet(storage, BUNDLES)
    again.series = fleet.series
    async with again.running(), Idle(again).running() as idle:
        await again.batcher.upkeep(again.engine.recover)
        await again.check()
        await idle.observe([("c", 9, 1.0, ())])
        await again.check()
        assert len(again.engine.lanes) == 4


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


def test_what_is_damaged_is_said_of_the_series_it_concerns_and_tried_again(
    tmp_path: pathlib.Path, folds: list[int]
) -> None:
    async def scenario(fleet: Fleet, idle: Idle) -> None:
        now = [0.0]
        fleet.engine.idle._clock = lambda: now[0]
        await fleet.observe(walk("a", range(40), 1))
        prune_all(fleet.storage, 10**6)
        (file,) = (tmp_path / "state").rglob("history/*.parquet")
        await fleet.observe(walk("b", range(100_000, 100_020), 2))  # behind all that is damaged
        await idle.let_go()
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])

        async def both() -> list[object]:
            rows = ([("a", 40, 1.0, ())], [("b", 100_020, 1.0, ())])
            answers = (fleet.batcher.observe(work(one)) for one in rows)  # in one turn
            return await asyncio.gather(*answers, return_exceptions=True)

        while isinstance((found := await both())[1], ReturningError) or isinstance(found[0], ReturningError):
            await asyncio.sleep(0.002)
        assert isinstance(found[0], StateLostError)
        assert not isinstance(found[1], Exception)
        before = len(folds)
        for _ in range(5):
            assert isinstance((await both())[0], StateLostError)
        assert len(folds) == before  # it is not folded again each time
        file.write_bytes(whole)
        now[0] += 60.0
        await until_back(lambda: fleet.observe([("a", 40, 1.0, ())]))

    play(lambda: open_storage(str(tmp_path / "state"), "interval"), scenario, replay_steps=100)


def test_one_idle_series_refuses_only_those_that_want_it(tmp_path: pathlib.Path) -> None:
    """The others are journaled together; of its chain those before it are applied, those behind it are not."""

    async def scenario(fleet: Fleet, idle: Idle) -> None:
        await fleet.observe([("old", 0, 1.0, ()), ("older", 0, 1.0, ())])
        await idle.let_go()
        before, chain = fleet.storage.journal.last_sequence(), Chain()
        works = [work([(f"n{k}", 0, 1.0, ())]) for k in range(50)]
        works[10] = work([("n10", 0, 1.0, ()), ("old", 1, 1.0, ())])
        works[30] = work([("older", 1, 1.0, ())])
        chained = {k: dataclasses.replace(works[k], chain=chain) for k in (9, 10, 11)}
        requests = [chained.get(k, one) for k, one in enumerate(works)]
        answers = await fleet.batcher.call(lambda: fleet.engine.observe(requests))
        refused = {k: str(answer.refused) for k, answer in enumerate(answers) if answer.refused is not None}
        assert sorted(refused) == [10, 11, 30]
        assert "'old'" in refused[10]
        assert "older" not in refused[10]
        assert refused[11] == refused[10]  # it stands behind it
        assert "'older'" in refused[30]
        assert fleet.storage.journal.last_sequence() == before + 1

    play(lambda: open_storage(str(tmp_path / "state"), "interval"), scenario)


def test_all_series_of_a_request_come_back_together(tmp_path: pathlib.Path, folds: list[int]) -> None:
    """Also where a turn takes on a few of its rows only."""

    async def scenario(fleet: Fleet, idle: Idle) -> None:
        rows = [(f"s{k}", 0, 1.0, ()) for k in range(3000)]
        await fleet.observe(rows)
        assert await idle.let_go() == 3000

        async def all_of_them() -> None:
            answer = await fleet.batcher.observe(work([(name, 1, 2.0, ()) for name, *_ in rows]))
            assert answer.outcomes.all()
            assert not answer.errors

        await until_back(all_of_them)
        assert folds == [3000]

    play(lambda: open_storage(str(tmp_path / "state"), "interval"), scenario)


def test_the_live_scores_are_those_of_a_recovery(tmp_path: pathlib.Path) -> None:
    """A forecast that was issued before a series became idle is in the journal before it comes back."""

    async def scenario(fleet: Fleet, idle: Idle) -> None:
        await fleet.observe(walk("a", range(12), 1))
        await fleet.forecast(["a"])
        await idle.let_go()
        await idle.observe([("a", 12, 5.0, ())])
        await fleet.observe([("a", k, 5.0 + k, ()) for k in range(13, 18)])
        live = (await fleet.batcher.call(lambda: fleet.engine.describe("a"))).live
        assert live[0].scored == 1
        again = Fleet(fleet.storage, BUNDLES)
        async with again.running():
            await again.batcher.upkeep(again.engine.recover)
            assert repr((await again.batcher.call(lambda: again.engine.describe("a"))).live) == repr(live)

    play(lambda: open_storage(str(tmp_path / "state"), "interval"), scenario)


def test_a_version_that_was_not_cleaned_up_does_not_go_on_without_a_series(storage: Storage) -> None:
    async def scenario() -> None:
        fleet = Fleet(storage, {**BUNDLES, "3": make_bundle(3)})
        async with fleet.running(), Idle(fleet).running() as idle:
            await fleet.observe([*walk("x", range(12), 1), *walk("y", range(12), 2)])
            await fleet.batcher.upkeep(fleet.engine.snapshot)
            await fleet.swap("2")
            await idle.let_go()
            await idle.observe([("x", 12, 5.0, ())])
            await idle.observe([("y", 12, 5.0, ())])
            swap = fleet.prepared()

            def end(*values: object) -> None:
                raise UnavailableError("it was killed")

            swap._clean_up = end  # type: ignore[method-assign]
            await swap.run(fleet.bundles["3"], "3")
            await fleet.observe([("x", 13, 5.0, ())])
            await fleet.check()
            await fleet.swap("1")
            await fleet.check()

    run(scenario)


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
    monkeypatch.setattr("forecaster.serving.storage.sqlite.history._MOST_ROWS_MERGED", 400)
    monkeypatch.setattr("forecaster.serving.storage.sqlite.pruning._MOST_ROWS", 200)
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
