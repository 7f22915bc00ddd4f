"""Swaps of an engine's model: at any moment a forecast is the offline fold under the weights it is stamped with."""

import asyncio
import itertools
import math
import pathlib
from collections.abc import Callable, Iterator
from contextlib import closing

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import Phase, given, settings

from forecaster.errors import ForecasterError, StorageError, UnsupportedError
from forecaster.model.bundle import Bundle
from forecaster.serving.opening import open_storage
from forecaster.serving.rebuild import Staging
from forecaster.serving.records import Snapshot
from forecaster.serving.sqlite_snapshots import SqliteSnapshots
from forecaster.serving.storage import Storage
from forecaster.serving.volatile_storage import VolatileStorage
from forecaster.serving.work import ForecastWork, Sampling
from tests.unit.model.family import SPEC
from tests.unit.serving.storages import prune_all
from tests.unit.serving.swapping import GAP, HORIZON, Fleet, Hook, Row, Series, assert_same, make_bundle, run, walk

BUNDLE = make_bundle(1)
OTHERS: dict[str, Bundle] = {
    "other weights": make_bundle(2),
    "lstm, deeper and wider": make_bundle(2, cell="lstm", hidden_size=9, num_layers=2),
    "more memory": make_bundle(2, season_lengths=(5, 30)),
    "slow layers": make_bundle(2, cell="rnn_tanh", num_layers=2, layer_periods=(2, 5)),
    "attention, recurrent decoder": make_bundle(
        2, attention="dot", attention_steps=7, decoder="recurrent", sample_paths=4
    ),
}


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let few series make many parts."""
    monkeypatch.setattr("forecaster.serving.swap._SERIES_AT_ONCE", 3)
    monkeypatch.setattr("forecaster.serving.swap._MOVED_AT_FIRST", 1)
    monkeypatch.setattr("forecaster.serving.swap._MOST_MOVED", 2)
    monkeypatch.setattr("forecaster.serving.swap._SAVED_AT_ONCE", 3)


@pytest.fixture
def storage(tmp_path: pathlib.Path) -> Iterator[Storage]:
    with closing(open_storage(str(tmp_path / "state"), "interval")) as storage:
        yield storage


def history(series: int, steps: int, seed: int = 0, covariates: int = 0) -> list[Row]:
    """Return rows hour by hour; some series have gaps, one a gap so long that it starts afresh."""
    rows: list[Row] = []
    for k in range(series):
        hours = [hour for hour in range(steps) if k % 3 or hour % 11 not in (4, 5, 6)]
        if k % 5 == 1:
            hours = [hour + (GAP + 5 if hour > steps // 2 else 0) for hour in hours]
        rows += walk(f"s{k}", hours, seed + k, covariates)
    return sorted(rows, key=lambda row: row[1])


class Traffic:
    """What clients do meanwhile: new values, new series with an old past, deletions, series that come again."""

    def __init__(self, fleet: Fleet, seed: int = 0) -> None:
        self._fleet, self._rng, self._new, self._turn = fleet, np.random.default_rng(seed), 0, 0

    async def __call__(self) -> None:
        fleet, rng = self._fleet, self._rng
        names = sorted(fleet.series)
        some = rng.choice(names, min(len(names), 3), replace=False).tolist()
        steps = rng.choice([1, 1, 1, 2, GAP + 3], len(some))
        rows = [
            (name, fleet.series[name].steps[-1][0] + int(n), float(rng.normal(10, 3)), ())
            for name, n in zip(some, steps, strict=True)
        ]
        await fleet.observe(rows)
        what = rng.integers(6)
        if what == 0 and len(names) > 4:
            await fleet.delete(some[0])
        elif what == 1:
            self._new += 1
            first = int(rng.integers(-300, 30))
            for hour in range(first, first + 6, 2):  # its past comes in several requests
                await fleet.observe(
                    [(f"n{self._new % 3}-{self._new}", h, float(rng.normal(10, 3)), ()) for h in (hour, hour + 1)]
                )
        elif what == 2 and len(names) > 4:
            await fleet.delete(some[1])
            await fleet.observe(walk(some[1], range(5, 12), self._new))
        self._turn += 1
        if self._turn % 3 == 0:
            await fleet.check()


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_there_and_back_again_while_clients_go_on(name: str, storage: Storage) -> None:
    async def scenario() -> None:
        fleet = Fleet(storage, {"1": BUNDLE, "2": OTHERS[name]})
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
    fold = Staging.fold
    monkeypatch.setattr(Staging, "fold", lambda self: rows.append(fold(self)) or rows[-1])

    async def scenario() -> None:
        fleet = Fleet(storage, {"1": BUNDLE, "2": OTHERS["other weights"]})
        async with fleet.running():
            await fleet.observe(history(8, 40))
            fleet.engine.snapshot()
            await fleet.swap("2")
            assert sum(rows) > 200
            await fleet.observe([("s0", 41, 1.0, ())])  # others get nothing
            rows.clear()
            await fleet.swap("1")
            assert sum(rows) == 1
            await fleet.check()

    run(scenario)


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
        fleet = Fleet(storage, {"1": BUNDLE, "2": OTHERS["more memory"]}, max_resident=4)
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
        fleet = Fleet(storage, {"1": BUNDLE, "2": OTHERS["lstm, deeper and wider"]}, max_resident=max_resident)
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
        fleet = Fleet(storage, {"1": BUNDLE, "2": bundle})
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
            await fleet.observe(rows[20:], {} if pruned else {"s1": ({"area": 1.0}, {})})
            fleet.engine.snapshot()
            if pruned:  # the last static covariates outlive their records, former ones do not
                assert prune_all(storage, 2, keep_history=True)
            turn = 0

            async def traffic() -> None:
                nonlocal turn
                turn += 1
                rows = [
                    (k, one.steps[-1][0] + 1, turn / 3, (1.0 * turn, math.nan, 2.0)) for k, one in fleet.series.items()
                ]
                changed = (
                    {f"s{turn % 6}": ({"area": 3.0 * turn}, {"region": "south"})}
                    if turn % 3 == 0 and not pruned
                    else {}
                )
                await fleet.observe(
                    rows[turn % 3 :: 3] + [row for row in rows if row[0] in changed and row not in rows[turn % 3 :: 3]],
                    changed,
                )
                await fleet.check()

            for version in ("2", "1"):
                await fleet.swap(version, hook=traffic)
                await fleet.check()

    run(scenario)


@pytest.mark.parametrize("min_history", [1, 30])
def test_without_a_journal_the_rings_are_replayed(min_history: int) -> None:
    """A state remembers 24 values: shorter series move exactly, and what could be forecast still can."""

    async def scenario() -> None:
        bundle = make_bundle(2, cell="lstm", min_history=min_history)
        fleet = Fleet(VolatileStorage(), {"1": make_bundle(1, min_history=min_history), "2": bundle})
        async with fleet.running():
            await fleet.observe(
                [
                    (f"s{k}", hour, float((hour * k) % 7), ())
                    for hour in range(10 * 5)
                    for k in range(5)
                    if hour < 10 * (k + 1)
                ]
            )
            before = await fleet.forecast(sorted(fleet.series))
            await fleet.swap("2")
            answer = await fleet.forecast(sorted(fleet.series))
            assert answer.series_ids == before.series_ids
            assert len(answer.series_ids) == (5 if min_history == 1 else 3)
            for name, found, version in fleet.each(answer):
                assert version == "2"
                assert_same(found, fleet.series[name].forecast(bundle, last=24), name)

    run(scenario)


def test_a_journal_that_was_cut_short_leaves_the_rings(storage: Storage) -> None:
    async def scenario() -> None:
        bundle = OTHERS["other weights"]
        fleet = Fleet(storage, {"1": BUNDLE, "2": bundle})
        async with fleet.running():
            for hour in range(40):
                await fleet.observe([(name, hour, float(hour % 7), ()) for name in ("a", "b", "c")])
            fleet.engine.snapshot()
            assert prune_all(storage, 37, keep_history=False)  # three rows of each are left
            await fleet.observe(walk("new", range(8), 3))
            await fleet.swap("2")
            for name, found, _ in fleet.each(await fleet.forecast(["a", "b", "c", "new"])):
                assert_same(found, fleet.series[name].forecast(bundle, last=24), name)
            await fleet.swap("1")  # from its snapshots
            await fleet.check()

    run(scenario)


class StoppedError(StorageError):
    """The failure that a test brings about."""


def at_stage(stage: int, action: Callable[[], None], then: Hook) -> tuple[Hook, list[int]]:
    """Return a hook that does something at one stage and something else at all of them, and its count of stages."""
    count = [0]

    async def hook() -> None:
        count[0] += 1
        await then()
        if count[0] == stage:
            action()

    return hook, count


def test_without_a_journal_series_that_begin_during_a_swap_move_too() -> None:
    async def scenario() -> None:
        fleet, calls = Fleet(VolatileStorage(), {"1": BUNDLE, "2": OTHERS["other weights"]}), itertools.count()
        async with fleet.running():
            await fleet.observe([row for k in range(8) for row in walk(f"s{k}", range(10), k)])

            async def begin_one() -> None:
                number = next(calls)
                if number % 2:
                    await fleet.observe(walk(f"n{number}", range(5), number))

            await fleet.swap("2", hook=begin_one)
            fleet.batcher.hook = None
            assert next(calls) > 10
            await fleet.check()
            assert fleet.seen == {"2"}

    run(scenario)


def fail() -> None:
    raise StoppedError("the disk is full")


@pytest.mark.parametrize("how", ["fails", "cancelled"])
@pytest.mark.parametrize("durable", [True, False])
def test_whatever_stage_it_ends_at_the_old_version_serves_on(how: str, durable: bool, storage: Storage) -> None:
    async def nothing() -> None:
        """Do nothing."""

    async def scenario() -> None:
        # What was taken back without a journal is known by its ring: series are shorter than that.
        fleet = Fleet(storage if durable else VolatileStorage(), {"1": BUNDLE, "2": OTHERS["more memory"]})
        async with fleet.running():
            traffic = Traffic(fleet) if durable else nothing
            await fleet.observe(
                history(6, 30) if durable else [row for k in range(6) for row in walk(f"s{k}", range(20), k)]
            )
            for stage in range(1, 200):
                swaps: list[asyncio.Future[None]] = []

                def cancel(swaps: list[asyncio.Future[None]] = swaps) -> None:
                    asyncio.get_running_loop().call_soon(swaps[0].cancel)

                hook, _ = at_stage(stage, fail if how == "fails" else cancel, traffic if stage % 9 == 0 else nothing)
                swaps.append(asyncio.ensure_future(fleet.swap("2", hook=hook)))
                try:
                    await swaps[0]
                except (StoppedError, asyncio.CancelledError):
                    pass
                else:
                    break
                fleet.batcher.hook = None
                if fleet.engine.lanes.active.version == "2":  # it was just done
                    break
                assert fleet.engine.lanes.next is None
                fleet.seen.clear()
                await fleet.check()
                assert fleet.seen == {"1"}
            assert stage > 20
            await fleet.check()

    run(scenario)


@pytest.mark.parametrize("what", ["fold", "save"])
def test_a_failure_of_storage_takes_everything_back(
    what: str, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        other = OTHERS["lstm, deeper and wider"]
        fleet = Fleet(storage, {"1": BUNDLE, "2": other})
        async with fleet.running():
            await fleet.observe(history(8, 30))
            calls = [0]
            fold, save = Staging.fold, SqliteSnapshots.save

            def folded(self: Staging) -> int:
                calls[0] += self.lane.bundle is other
                if calls[0] == 4 and self.lane.bundle is other:
                    fail()
                return fold(self)

            def saved(self: SqliteSnapshots, fingerprint: str, snapshots: list[Snapshot]) -> None:
                calls[0] += fingerprint == other.fingerprint
                if calls[0] == 2 and fingerprint == other.fingerprint:
                    fail()
                save(self, fingerprint, snapshots)

            if what == "fold":
                monkeypatch.setattr(Staging, "fold", folded)
            else:
                monkeypatch.setattr(SqliteSnapshots, "save", saved)
            with pytest.raises(StoppedError, match="the disk is full"):
                await fleet.swap("2", hook=Traffic(fleet))
            fleet.seen.clear()
            await fleet.check()
            assert fleet.seen == {"1"}
            await fleet.swap("2")
            await fleet.check()

    run(scenario)


ops = st.lists(
    st.tuples(
        st.sampled_from(["observe", "observe", "observe", "delete", "save", "nothing"]),
        st.sampled_from(["a", "b", "c", "d", "e"]),
        st.integers(1, GAP + 4),
        st.one_of(st.floats(-50, 50), st.just(math.nan)),
    ),
    min_size=10,
    max_size=40,
)


@settings(max_examples=15, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(ops, ops, st.lists(st.integers(0, 60), max_size=2), st.sampled_from(sorted(OTHERS)), st.sampled_from([3, 100]))
def test_any_interleaving_is_the_offline_fold(
    tmp_path_factory: pytest.TempPathFactory,
    before: list[tuple[str, str, int, float]],
    during: list[tuple[str, str, int, float]],
    failures: list[int],
    name: str,
    max_resident: int,
) -> None:
    async def scenario() -> None:
        fleet = Fleet(storage, {"1": BUNDLE, "2": OTHERS[name]}, max_resident=max_resident)

        async def take(op: tuple[str, str, int, float]) -> None:
            what, series, step, value = op
            known = fleet.series.get(series)
            if what == "observe":
                await fleet.observe([(series, (known.steps[-1][0] if known else -step) + step, value, ())])
            elif what == "delete" and known:
                await fleet.delete(series)
            elif what == "save":
                for lane in fleet.engine.lanes:
                    await fleet.batcher.call(lambda lane=lane: lane.store.save(lane.store.dirty()))

        async with fleet.running():
            for op in before:
                await take(op)
            left = iter(during)
            for stage in [*failures, 0]:

                async def traffic() -> None:
                    for op in [op for op, _ in zip(left, range(2), strict=False)]:
                        await take(op)
                    await fleet.check()

                hook, _ = at_stage(stage, fail, traffic)
                other = "2" if fleet.engine.lanes.active.version == "1" else "1"
                try:
                    await fleet.swap(other, hook=hook)
                except StoppedError:
                    assert fleet.engine.lanes.next is None
                fleet.batcher.hook = None
                await fleet.check()

    folder = str(tmp_path_factory.mktemp("state"))
    with closing(open_storage(folder, "interval")) as storage:
        run(scenario)


def test_a_request_that_one_version_cannot_answer_fails_alone(storage: Storage) -> None:
    async def scenario() -> None:
        recurrent = make_bundle(3, decoder="recurrent", sample_paths=4)
        fleet = Fleet(storage, {"1": recurrent, "2": BUNDLE})
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
        fleet = Fleet(VolatileStorage(), {"1": BUNDLE, "2": OTHERS["other weights"]})
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
