"""Swaps of an engine's model: at any moment a forecast is the offline fold under the weights it is stamped with."""

import asyncio
import math
import threading

import pytest

from forecaster.errors import ForecasterError, UnsupportedError
from forecaster.model.bundle import Bundle
from forecaster.serving.engine.courtesy import Courtesy
from forecaster.serving.rebuilding.fold import Fold
from forecaster.serving.storage.contract import Storage
from forecaster.serving.storage.records import Snapshot
from forecaster.serving.storage.sqlite.snapshots import SqliteSnapshots
from forecaster.serving.storage.volatile import VolatileStorage
from forecaster.serving.work.forecasting import ForecastWork, Sampling
from tests.unit.model.family import SPEC
from tests.unit.serving.folding import HORIZON, Series, assert_same, make_bundle, walk
from tests.unit.serving.storages import prune_all
from tests.unit.serving.swapping import OTHERS, A, Fleet, Traffic, history, run

pytestmark = pytest.mark.usefixtures("small_parts")


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_there_and_back_again_while_clients_go_on(name: str, storage: Storage) -> None:
    async def scenario() -> None:
        fleet = Fleet(storage, {"1": A, "2": OTHERS[name]})
        async with fleet.running():
            traffic = Traffic(fleet)
            await fleet.observe(history(8, 40))
            await fleet.delete("s3")
            await fleet.observe(walk("s3", range(30), 5))  # comes again, at times that it had before
            await fleet.check()
            for version in ("2", "1"):
                fleet.seen.clear()
                await fleet.swap(version, hook=traffic)
                assert fleet.seen == {"1", "2"}
                fleet.seen.clear()
                await fleet.check()
                assert fleet.seen == {version}
                fleet.engine.snapshot()
                await traffic()

    run(scenario)


def test_a_reversal_goes_on_from_snapshots(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    advance = Fold.advance
    monkeypatch.setattr(Fold, "advance", lambda self, **how: rows.append(advance(self, **how)) or rows[-1])

    async def scenario() -> None:
        fleet = Fleet(storage, {"1": A, "2": OTHERS["other weights"]})
        async with fleet.running():
            await fleet.observe(history(8, 40))
            fleet.engine.snapshot()
            await fleet.swap("2")
            assert sum(rows) > 200
            await fleet.observe([("s0", 41, 1.0, ())])  # others get nothing
            rows.clear()
            await fleet.swap("1")
            assert sum(rows) == 5  # steps: four before it are missing
            await fleet.check()

    run(scenario)


def test_only_the_rebuilding_thread_gives_way(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    rested: list[str] = []
    monkeypatch.setattr(Courtesy, "give_way", lambda _: rested.append(threading.current_thread().name))

    async def scenario() -> None:
        fleet = Fleet(storage, {"1": A, "2": OTHERS["other weights"]})
        async with fleet.running():
            for row in history(8, 40):
                await fleet.observe([row])
            await fleet.swap("2", hook=Traffic(fleet))  # what comes meanwhile is folded in by the engine's thread too
            await fleet.check()

    run(scenario)
    assert len(rested) >= 8 * 40
    assert "engine" not in rested


def corrupt(monkeypatch: pytest.MonkeyPatch, broken: set[str]) -> None:
    """Let some series' snapshots be read as something else than was written."""

    def changed(one: Snapshot) -> Snapshot:
        return Snapshot(one.series_id, one.sequence, one.state[:-1], one.checksum) if one.series_id in broken else one

    fetch, read = SqliteSnapshots.fetch, SqliteSnapshots.read
    monkeypatch.setattr(SqliteSnapshots, "fetch", lambda self, f, ids: [changed(one) for one in fetch(self, f, ids)])
    monkeypatch.setattr(SqliteSnapshots, "read", lambda self, f, after="": map(changed, read(self, f, after)))


def test_corrupted_snapshots_are_rebuilt(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a reversal, of cold series of the version that goes, and of cold series of the one that came."""

    async def scenario() -> None:
        fleet = Fleet(storage, {"1": A, "2": OTHERS["more memory"]}, max_resident=4)
        async with fleet.running():
            fleet.engine.recover()
            for row in history(8, 40):
                await fleet.observe([row])
            fleet.engine.snapshot()
            corrupt(monkeypatch, {"s1", "s2"})
            for version in ("2", "1"):
                await fleet.swap(version)
                await fleet.check()
                await fleet.check()
                await fleet.observe([(name, one.steps[-1][0] + 1, 3.0, ()) for name, one in fleet.series.items()][:4])
                fleet.engine.snapshot()

    run(scenario)


@pytest.mark.parametrize("max_resident", [4, 6, 100])
def test_cold_series_move_too(storage: Storage, max_resident: int) -> None:
    async def scenario() -> None:
        fleet = Fleet(storage, {"1": A, "2": OTHERS["lstm, deeper and wider"]}, max_resident=max_resident)
        async with fleet.running():
            for row in history(20, 15):
                await fleet.observe([row])
            traffic = Traffic(fleet)
            for version in ("2", "1"):
                fleet.seen.clear()
                await fleet.swap(version, hook=traffic)
                assert fleet.seen == {"1", "2"}
                await fleet.check()
                for lane in fleet.engine.lanes:
                    assert len(lane.store.resident) <= max_resident

    run(scenario)


def window(series: Series, bundle: Bundle, replay_steps: int) -> int:
    """Return how many of the last steps a series is rebuilt from; all of them if it has not seen more."""
    memory = bundle.model.memory  # type: ignore[union-attr]
    period = math.lcm(memory, *(bundle.model.config.layer_periods or ()))
    n = len(series.steps)
    return n - max(n - max(replay_steps, memory + 1), 0) // period * period


@pytest.mark.parametrize("name", sorted(OTHERS))
@pytest.mark.parametrize("pruned", [False, True])
def test_long_series_are_rebuilt_from_their_last_steps(name: str, pruned: bool, storage: Storage) -> None:
    async def scenario() -> None:
        bundle = OTHERS[name]
        fleet = Fleet(storage, {"1": A, "2": bundle})
        async with fleet.running():
            await fleet.observe(history(6, 150) + walk("short", range(30), 9))
            for k in range(10):
                await fleet.observe(
                    [(name, one.steps[-1][0] + 1, float(k % 7), ()) for name, one in fleet.series.items()]
                )
            if pruned:
                fleet.engine.snapshot()
                assert prune_all(storage, 5, keep_history=True)
            counted = {k: window(one, bundle, 40) for k, one in fleet.series.items()}
            assert sum(counted[k] < len(one.steps) for k, one in fleet.series.items()) > 2
            await fleet.swap("2", replay_steps=40)
            for later in range(3):
                for one, found, version in fleet.each(await fleet.forecast(sorted(fleet.series))):
                    series, last = fleet.series[one], counted[one] + later
                    cut = last < len(series.steps)
                    assert version == "2"
                    assert_same(found, series.forecast(bundle, last=last, first_is_missing=cut), one)
                    info = await fleet.batcher.call(lambda one=one: fleet.engine.describe(one))
                    assert (info.length, info.version) == (len(series.steps), "2")
                    assert info.observed_length == sum(math.isfinite(value) for _, value, _, _ in series.steps)
                await fleet.observe([(k, one.steps[-1][0] + 1, 5.0, ()) for k, one in fleet.series.items()])

    run(scenario)


@pytest.mark.parametrize("pruned", [False, True])
def test_covariates_of_all_kinds(pruned: bool, storage: Storage) -> None:
    async def scenario() -> None:
        fleet = Fleet(
            storage, {"1": make_bundle(1, SPEC), "2": make_bundle(2, SPEC, cell="lstm", season_lengths=(5, 30))}
        )
        async with fleet.running():
            static = {f"s{k}": ({"area": 10.0 * k}, {"region": "north", "kind": "a"}) for k in range(6)}
            rows = history(6, 30, covariates=3)
            await fleet.observe(rows[:20], static)
            await fleet.observe(rows[20:], {"s1": ({"area": 1.0}, {})})
            fleet.engine.snapshot()
            if pruned:  # what held at each of their rows is known all the same
                assert prune_all(storage, 4, keep_history=True) == 4
            turn = 0

            async def traffic() -> None:
                nonlocal turn
                turn += 1
                rows = [
                    (k, one.steps[-1][0] + 1, turn / 3, (1.0 * turn, math.nan, 2.0)) for k, one in fleet.series.items()
                ]
                changed = {f"s{turn % 6}": ({"area": 3.0 * turn}, {"region": "south"})} if turn % 3 == 0 else {}
                await fleet.observe(
                    rows[turn % 3 :: 3] + [row for row in rows if row[0] in changed and row not in rows[turn % 3 :: 3]],
                    changed,
                )
                await fleet.check()

            for version in ("2", "1"):
                await fleet.swap(version, hook=traffic)
                await fleet.check()

    run(scenario)


def test_a_request_that_one_version_cannot_answer_fails_alone(storage: Storage) -> None:
    async def scenario() -> None:
        recurrent = make_bundle(3, decoder="recurrent", sample_paths=4)
        fleet = Fleet(storage, {"1": recurrent, "2": A})
        async with fleet.running():
            await fleet.observe(history(6, 20))
            names = tuple(sorted(fleet.series))
            outcomes: set[tuple[int, int]] = set()

            async def ask() -> None:
                paths = ForecastWork(names, HORIZON, (0.5,), drawing=Sampling(3, 0))
                drawn, plain = await asyncio.gather(fleet.batcher.forecast(paths), fleet.forecast(names))
                assert not plain.failures
                assert all(isinstance(error, UnsupportedError) for error in drawn.failures.values())
                assert drawn.drawn is None or len(drawn.drawn.values) == len(drawn.series_ids)
                outcomes.add((len(drawn.series_ids), len(drawn.failures)))

            await fleet.swap("2", hook=ask)
            await ask()
            assert {(6, 0), (0, 6)} <= outcomes

    run(scenario)


def test_a_full_queue_does_not_end_a_swap() -> None:
    async def scenario() -> None:
        fleet = Fleet(VolatileStorage(), {"1": A, "2": OTHERS["other weights"]})
        async with fleet.running():
            await fleet.observe(walk("a", range(20), 1))
            fleet.batcher.max_queued = 1  # one request, and there is room for none

            async def ask() -> None:
                while fleet.engine.lanes.active.version == "1":
                    await asyncio.gather(*(fleet.forecast(["a"]) for _ in range(4)))

            _, *answers = await asyncio.gather(fleet.swap("2"), ask(), ask(), return_exceptions=True)
            assert fleet.engine.lanes.active.version == "2"
            assert any(isinstance(error, ForecasterError) for error in answers)

    run(scenario)
