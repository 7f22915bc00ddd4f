"""What runs beside a swap, in any interleaving: deletions and their erasure, snapshots, pruning, evictions, retries,
new static covariates, series that become idle and come back. At any moment a forecast is the offline fold, and who was
deleted stays deleted."""

import asyncio
import contextlib
import math
import pathlib
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import hypothesis.strategies as st
import pytest
from hypothesis import Phase, given, settings

from forecaster.config import ServingConfig
from forecaster.errors import ReturningError, StorageError
from forecaster.serving.storage.contract import Storage
from forecaster.serving.storage.opening import open_storage
from forecaster.serving.storage.postgres.storage import open_postgres
from forecaster.serving.upkeep.idling import Idling
from forecaster.serving.upkeep.maintenance import Maintenance
from forecaster.serving.upkeep.returning import Returning
from tests.postgres import Cluster
from tests.unit.model.family import SPEC
from tests.unit.serving.folding import GAP, Row, Static, make_bundle, walk, work
from tests.unit.serving.swapping import AmidRecords, Fleet, Hook, history, run

pytestmark = pytest.mark.usefixtures("small_parts", "small_pages")

BUNDLES = {
    "1": make_bundle(1, SPEC),
    "2": make_bundle(2, SPEC, cell="lstm", hidden_size=9, season_lengths=(5, 30)),
}
NAMES = BUNDLES["1"].model.covariates.dynamic
OPS = ["observe", "observe", "describe", "retry", "retry", "delete", "round", "idle", "idle", "erase", "again"]
Op = tuple[str, str, int, float]
ops = st.lists(
    st.tuples(
        st.sampled_from(
            ["observe", "observe", "describe", "retry", "retry", "delete", "round", "idle", "idle", "erase", "again"]
        ),
        st.sampled_from(["a", "b", "c", "d"]),
        st.integers(1, GAP + 4),
        st.one_of(st.floats(-50, 50), st.just(math.nan)),
    ),
    min_size=10,
    max_size=60,
)


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a few records be many pages, and something happen between any two of them."""
    monkeypatch.setattr("forecaster.serving.storage.sqlite.journal._PAGE_RECORDS", 2)
    monkeypatch.setattr("forecaster.serving.storage.sqlite.erasure._PAGE_RECORDS", 2)
    monkeypatch.setattr("forecaster.serving.swap.swap.Courtesy", AmidRecords)


class Beside:
    """What clients and the upkeep's thread do to a fleet, one thing after the other.

    Args:
        fleet: that is being swapped.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet, self._keeping = fleet, fleet.storage.beside()
        self._pool, self._sent = ThreadPoolExecutor(1), list[tuple[list[Row], dict[str, Static]]]()
        config = ServingConfig(journal_seconds=0.0, max_resident_series=100_000)
        self._upkeep = Maintenance(fleet.engine, fleet.batcher, self._keeping, self._pool, config)
        self._idling = Idling(fleet.engine, fleet.batcher, self._keeping, self._pool, seconds=1e-6)
        self._folding, self._folder = fleet.storage.beside(), ThreadPoolExecutor(1)
        self._returning = Returning(fleet.engine, fleet.batcher, self._folding, self._folder, 10_000)
        self._is_under_way = False
        self.returned = self.became_idle = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Beside"]:
        """Bring idle series back while the block runs."""
        task = asyncio.create_task(self._returning.run())
        await asyncio.sleep(0)  # it begins
        try:
            yield self
        finally:
            self._returning.stop()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            for pool, storage in ((self._pool, self._keeping), (self._folder, self._folding)):
                pool.shutdown()
                if storage is not self._fleet.storage:
                    storage.close()

    async def all_back(self) -> None:
        """Observe every idle series once more."""
        for name in sorted(await self._fleet.batcher.call(self._fleet.idle)):
            hour = self._fleet.series[name].steps[-1][0] + 1
            while True:
                try:
                    await self._observe([(name, hour, 1.5, (0.0,) * 3)])
                except ReturningError:
                    await asyncio.sleep(0.002)
                else:
                    break
            self.returned += 1

    def hook(self, left: Iterator[Op]) -> Hook:
        """Return a hook that does the next two things at each stage; what it does itself is no stage."""
        stages = 0

        async def hook() -> None:
            nonlocal stages
            if self._is_under_way:
                return
            self._is_under_way = True
            try:
                stages += 1
                for op in [op for op, _ in zip(left, range(2), strict=False)]:
                    await self.attempt(op)
                if stages % 3 == 0:
                    await self._fleet.check()
            finally:
                self._is_under_way = False

        return hook

    async def quiet(self) -> None:
        """Wait for what a hook began that is not the swap's: series come back in a task of their own."""
        while self._is_under_way:
            await asyncio.sleep(0.001)

    async def attempt(self, op: Op) -> None:
        """Do something; of a series that is idle it is refused, and the series comes back behind the swap."""
        with contextlib.suppress(ReturningError):
            await self.do(op)

    async def do(self, op: Op) -> None:
        what, name, step, value = op
        fleet, known = self._fleet, self._fleet.series.get(name)
        if what == "observe":
            hour = (known.steps[-1][0] if known else -step) + step
            await self._observe([(name, hour, value, (value, math.nan, 1.0 * step))])
        elif what == "describe":
            hour = (known.steps[-1][0] if known else -step) + 1
            await self._observe([(name, hour, value, (0.0,) * 3)], {name: ({"area": 3.0 * step}, {"region": "south"})})
        elif what == "retry" and self._sent:
            rows, static = self._sent[step % len(self._sent)]
            answer = await fleet.batcher.observe(work(rows, static, NAMES))
            assert not answer.errors
            assert (answer.outcomes == 2).all()
        elif what == "round":
            await self._upkeep.round()
        elif what == "idle":
            await self._upkeep.round()
            self.became_idle += await self._idling.round()
        elif what in ("delete", "erase", "again") and known:
            await fleet.delete(name)
            self._sent = [one for one in self._sent if all(row[0] != name for row in one[0])]
            if what != "delete":  # as the upkeep does within a second or two
                await self._upkeep.round()
            if what == "again":  # at times that it had before, too
                await self._observe(walk(name, range(step, step + 4), step, 3))

    async def _observe(self, rows: Sequence[Row], static: dict[str, Static] | None = None) -> None:
        await self._fleet.observe(rows, static)
        self._sent.append((list(rows), static or {}))


async def swaps(storage: Storage, before: Sequence[Op], during: Sequence[Op], max_resident: int, fails: int) -> None:
    """Swap there and back again while all of it happens; the first swap fails at a stage, if there is such a one."""
    fleet = Fleet(storage, BUNDLES, max_resident=max_resident)
    async with fleet.running(), Beside(fleet).running() as beside:
        for k, name in enumerate("abcd"):
            await fleet.observe(walk(name, range(12), k, 3))
        for op in before:
            await beside.attempt(op)
        left = iter(during)
        for stage in (fails, 0, 0):
            hook = failing(stage, beside.hook(left))
            with contextlib.suppress(StoppedError):
                await fleet.swap("2" if fleet.engine.lanes.active.version == "1" else "1", hook=hook)
            fleet.batcher.hook = None
            await beside.quiet()
            assert fleet.engine.lanes.next is None
            await fleet.check()
            if fails % 2:
                await beside.all_back()
                await fleet.check()
        if fails % 3:  # else it ends as if it was killed
            await fleet.batcher.upkeep(fleet.engine.snapshot)
    again = Fleet(storage, BUNDLES, fleet.engine.lanes.active.version, max_resident=max_resident)
    again.series = fleet.series
    async with again.running():  # as a restart finds it
        await again.batcher.upkeep(again.engine.recover)
        await again.check()
        async with Beside(again).running() as beside:
            await beside.all_back()
            await again.check()


class StoppedError(StorageError):
    """The failure that a test brings about."""


def failing(stage: int, then: Hook) -> Hook:
    """Return a hook that fails at one stage."""
    count = 0

    async def hook() -> None:
        nonlocal count
        count += 1
        await then()
        if count == stage:
            raise StoppedError("the disk is full")

    return hook


@settings(max_examples=6, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(ops, ops, st.sampled_from([3, 100]), st.integers(0, 60))
def test_any_interleaving_is_the_offline_fold(
    tmp_path_factory: pytest.TempPathFactory, before: list[Op], during: list[Op], max_resident: int, fails: int
) -> None:
    folder = str(tmp_path_factory.mktemp("state"))
    with closing(open_storage(folder, "interval")) as storage:
        run(lambda: swaps(storage, before, during, max_resident, fails))


@settings(max_examples=2, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(ops, ops, st.sampled_from([3, 100]), st.integers(0, 60))
def test_any_interleaving_in_postgres(
    postgres: Cluster, before: list[Op], during: list[Op], max_resident: int, fails: int
) -> None:
    url = postgres.url(postgres.create_database())
    with closing(open_postgres(url, "interval", "a model", lease_wait_seconds=0)) as storage:
        run(lambda: swaps(storage, before, during, max_resident, fails))


@pytest.mark.parametrize("then", ["gone", "again"])
def test_at_whatever_stage_a_series_is_deleted_and_erased_it_does_not_come_back(
    then: str, tmp_path: pathlib.Path
) -> None:
    """At each stage of a swap and between any two records that it reads."""

    async def is_done(storage: Storage, wanted: int) -> bool:
        fleet, count = Fleet(storage, BUNDLES), 0
        async with fleet.running():
            rows = history(6, 30, covariates=3)
            for start in range(0, len(rows), 30):
                await fleet.observe(rows[start : start + 30])

            async def hook() -> None:
                nonlocal count
                count += 1
                if count == wanted:
                    await beside.do(("erase", "s3", 0, 0.0))
                    if then != "gone":
                        await fleet.observe(walk("s3", range(5), 5, 3))

            async with Beside(fleet).running() as beside:
                await fleet.swap("2", hook=hook)
                fleet.batcher.hook = None
                await fleet.check()
        return count < wanted

    async def every() -> None:
        for stage in range(1, 1000, 7):
            with closing(open_storage(str(tmp_path / str(stage)), "interval")) as storage:
                if await is_done(storage, stage):
                    assert stage > 60
                    return

    run(every)
