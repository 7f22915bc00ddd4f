"""Swaps that end at whatever stage: the old version serves on, and every forecast is the offline fold."""

import asyncio
import math
from collections.abc import Callable
from contextlib import closing
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import Phase, given, settings

from forecaster.errors import StorageError
from forecaster.serving.rebuilding.fold import Fold
from forecaster.serving.storage.contract import Storage
from forecaster.serving.storage.opening import open_storage
from forecaster.serving.storage.records import Snapshot
from forecaster.serving.storage.sqlite.snapshots import SqliteSnapshots
from forecaster.serving.storage.volatile import VolatileStorage
from tests.unit.serving.folding import GAP, walk
from tests.unit.serving.swapping import OTHERS, A, Fleet, Hook, Traffic, history, run

pytestmark = pytest.mark.usefixtures("small_parts")


class StoppedError(StorageError):
    """The failure that a test brings about."""


def fail() -> None:
    raise StoppedError("the disk is full")


def at_stage(stage: int, action: Callable[[], None], then: Hook) -> tuple[Hook, list[int]]:
    """Return a hook that does something at one stage and something else at all of them, and its count of stages."""
    count = [0]

    async def hook() -> None:
        count[0] += 1
        await then()
        if count[0] == stage:
            action()

    return hook, count


@pytest.mark.parametrize("how", ["fails", "cancelled"])
@pytest.mark.parametrize("durable", [True, False])
def test_whatever_stage_it_ends_at_the_old_version_serves_on(how: str, durable: bool, storage: Storage) -> None:
    async def nothing() -> None:
        """Do nothing."""

    async def scenario() -> None:
        # What was taken back without a journal is known by its ring: series are shorter than that.
        fleet = Fleet(storage if durable else VolatileStorage(), {"1": A, "2": OTHERS["more memory"]})
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
        fleet = Fleet(storage, {"1": A, "2": other})
        async with fleet.running():
            await fleet.observe(history(8, 30))
            calls = [0]
            advance, save = Fold.advance, SqliteSnapshots.save

            def folded(self: Fold, **how: Any) -> int:
                calls[0] += self.lane.bundle is other
                if calls[0] == 4 and self.lane.bundle is other:
                    fail()
                return advance(self, **how)

            def saved(self: SqliteSnapshots, fingerprint: str, snapshots: list[Snapshot]) -> None:
                calls[0] += fingerprint == other.fingerprint
                if calls[0] == 2 and fingerprint == other.fingerprint:
                    fail()
                save(self, fingerprint, snapshots)

            if what == "fold":
                monkeypatch.setattr(Fold, "advance", folded)
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
        fleet = Fleet(storage, {"1": A, "2": OTHERS[name]}, max_resident=max_resident)

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
