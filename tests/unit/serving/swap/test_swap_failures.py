"""Swaps that storage fails, that are told to stop, or beside which the journal is pruned: no series may be lost."""

import asyncio
import dataclasses
import pathlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from forecaster.config import ServingConfig, TrackingConfig
from forecaster.errors import FailedPreconditionError, StorageError
from forecaster.model.bundle import Bundle
from forecaster.registry import registry
from forecaster.registry.registry import RegisteredModel
from forecaster.serving.engine.engine import Engine
from forecaster.serving.host import Host, ModelSource
from forecaster.serving.rebuilding.fold import Fold
from forecaster.serving.storage.contract import Storage
from forecaster.serving.storage.records import Columns, Record, Snapshot
from forecaster.serving.storage.sqlite.snapshots import SqliteSnapshots
from forecaster.serving.storage.volatile import VolatileStorage
from forecaster.serving.swap import versions as versions_module
from forecaster.serving.swap.version import ModelState
from forecaster.serving.swap.versions import Versions
from forecaster.serving.upkeep.maintenance import Maintenance
from forecaster.serving.work.observing import ObserveWork
from tests.unit.serving.folding import HOUR_US, walk
from tests.unit.serving.storages import prune_all
from tests.unit.serving.swapping import A, B, Fleet, run

CONFIG = ServingConfig(journal_seconds=0.0, durability="interval", replay_steps=10_000)
pytestmark = pytest.mark.usefixtures("small_parts")


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0.01)


class Outage:
    """Folds that fail from the fourth one on, as long as it lasts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lasts, self.folds, advance = True, 0, Fold.advance

        def broken(fold: Fold, **how: Any) -> int:
            self.folds += 1
            if self.lasts and self.folds >= 4:
                raise StorageError("the disk cannot be read for a while")
            return advance(fold, **how)

        monkeypatch.setattr(Fold, "advance", broken)


@pytest.mark.parametrize("saved", [True, False])
def test_what_could_not_be_taken_back_stays_until_it_is(
    saved: bool, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        fleet = Fleet(storage, {"1": A, "2": B})
        async with fleet.running():
            await fleet.observe([row for k in range(8) for row in walk(f"s{k}", range(30), k)])
            if saved:
                fleet.engine.snapshot()
            await fleet.observe([(f"s{k}", 30, 5.0, ()) for k in range(8)])
            outage, lanes = Outage(monkeypatch), fleet.engine.lanes
            swap = fleet.prepared()
            with pytest.raises(StorageError, match="cannot be read"):
                await swap.run(B, "2")
            assert isinstance(swap.left, StorageError)
            assert lanes.next is not None
            assert 0 < lanes.moved.sum() < len(lanes.moved)
            outage.lasts = False
            await fleet.check()
            with pytest.raises(FailedPreconditionError, match="version 2 is not gone yet"):
                await fleet.swap("2")
            fleet.seen.clear()
            await fleet.check()
            assert "2" in fleet.seen
            await swap.take_back()
            assert swap.left is None
            assert lanes.next is None
            fleet.seen.clear()
            await fleet.check()
            assert fleet.seen == {"1"}
            await fleet.swap("2")
            await fleet.check()

    run(scenario)


def test_a_full_disk_leaves_nothing_half_moved(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Series that move make others leave, whose snapshots cannot be written: there and on the way back."""
    save, room = SqliteSnapshots.save, [10**6]

    def saved(self: SqliteSnapshots, fingerprint: str, snapshots: list[Snapshot]) -> None:
        room[0] -= len(snapshots)
        if room[0] < 0:
            raise StorageError("the disk is full")
        save(self, fingerprint, snapshots)

    async def scenario() -> None:
        fleet = Fleet(storage, {"1": A, "2": B}, max_resident=4)
        async with fleet.running():
            for k in range(16):
                await fleet.observe(walk(f"s{k}", range(20), k))
            swap, room[0] = fleet.prepared(), 5
            with pytest.raises(StorageError, match="full"):
                await swap.run(B, "2")
            for _ in range(30):
                if swap.left is None:
                    break
                room[0] = 3  # too little for a part of those that are to go back
                assert len(fleet.engine.lanes) == 16
                await swap.take_back()
                monkeypatch.setattr("forecaster.serving.swap.swap._SERIES_AT_ONCE", 1)
            room[0] = 10**6
            await swap.take_back()
            assert fleet.engine.lanes.next is None
            await fleet.check()

    monkeypatch.setattr(SqliteSnapshots, "save", saved)
    monkeypatch.setattr("forecaster.serving.swap.swap._SERIES_AT_ONCE", 5)
    run(scenario)


def registry_of(bundles: Mapping[str, Bundle], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the registry be a dictionary whose alias stands at version 1."""

    def resolve(_: TrackingConfig, version: str) -> RegisteredModel:
        return RegisteredModel("load", version if version.isdigit() else "1", "", "")

    monkeypatch.setattr(registry, "resolve", resolve)
    monkeypatch.setattr(registry, "load_bundle", lambda _, version: (resolve(_, version), bundles[version]))


def test_the_server_tries_again_until_it_has_been_taken_back(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions_module, "_TAKE_BACK_SECONDS", 0.05)
    registry_of({"1": A, "2": B}, monkeypatch)

    async def scenario() -> None:
        fleet = Fleet(storage, {"1": A, "2": B})
        with ThreadPoolExecutor(1) as pool, ThreadPoolExecutor(1) as upkeep, closing(storage.beside()) as beside:
            async with fleet.running():
                await fleet.observe([row for k in range(8) for row in walk(f"s{k}", range(30), k)])
                maintenance = Maintenance(fleet.engine, fleet.batcher, beside, upkeep, CONFIG)
                registered = RegisteredModel("load", "1", "", "")
                engine, batcher = fleet.engine, fleet.batcher
                versions = Versions(TrackingConfig(model="load"), CONFIG, registered, engine, batcher, beside, pool)
                outage = Outage(monkeypatch)
                version = await versions.activate("2")
                await until(lambda: version.state is ModelState.FAILED and outage.folds > 7)  # after some attempts
                assert "cannot be given back" in str(version.failure)
                ended = maintenance.round_ended
                await maintenance.round()
                assert maintenance.round_ended == ended  # an alert can tell
                with pytest.raises(FailedPreconditionError, match=r"cannot be given back .* cannot use its storage"):
                    await versions.activate("2")
                await fleet.check()
                outage.lasts = False
                await until(lambda: fleet.engine.lanes.next is None)
                await until(lambda: str(version.failure) == "the server cannot use its storage now, see its log")
                await maintenance.round()
                assert maintenance.round_ended > ended
                version = await versions.activate("2")
                await until(lambda: version.state is ModelState.ACTIVE)
                await fleet.check()
                await versions.close()

    run(scenario)


@pytest.mark.parametrize("when", ["before it reads", "while it reads"])
def test_nothing_that_is_still_to_be_read_is_pruned(
    when: str, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a history; of a reversal, and of the first activation of a version."""
    config = dataclasses.replace(CONFIG, history=False)
    rounds: list[float] = []
    past, concerned = Fold._past, Fold._concerned

    async def scenario() -> None:
        loop, fleet = asyncio.get_running_loop(), Fleet(storage, {"1": A, "2": B})
        with ThreadPoolExecutor(1) as upkeep, closing(storage.beside()) as beside:
            async with fleet.running():
                maintenance = Maintenance(fleet.engine, fleet.batcher, beside, upkeep, config)

                def go_round() -> None:  # on the rebuilding thread
                    asyncio.run_coroutine_threadsafe(maintenance.round(), loop).result(60)
                    rounds.append(maintenance.round_ended)

                def later(fold: Fold) -> Iterator[tuple[int, Record]]:
                    go_round()
                    return past(fold)

                def overtaken(fold: Fold, records: Iterator[tuple[int, Record]]) -> Iterator[tuple[int, Record]]:
                    for k, item in enumerate(concerned(fold, records)):
                        if k == 10:
                            go_round()
                        yield item

                if when == "before it reads":
                    monkeypatch.setattr(Fold, "_past", later)
                else:
                    monkeypatch.setattr(Fold, "_concerned", overtaken)
                names = [f"s{k}" for k in range(4)]
                for hour in range(150):
                    await fleet.observe([(name, hour, float(hour % 7), ()) for name in names])
                fleet.engine.snapshot()
                await fleet.swap("2")
                await fleet.check()
                for hour in range(150, 180):
                    await fleet.observe([(name, hour, float(hour % 7), ()) for name in names])
                fleet.engine.snapshot()
                await fleet.swap("1")
                await fleet.check()
                assert len(rounds) >= 2
                assert storage.journal.first_sequence() == 1
                await maintenance.round()
                assert storage.journal.first_sequence() > 180  # pruning goes on afterwards

    run(scenario)


def test_a_swap_waits_for_a_pruning_that_is_under_way() -> None:
    lanes = Fleet(VolatileStorage(), {"1": A}).engine.lanes
    began, may_end = threading.Event(), threading.Event()
    told: list[str] = []

    def prune() -> int:
        began.set()
        assert may_end.wait(180)
        told.append("pruned")
        return 1

    with ThreadPoolExecutor(2) as pool:
        pruned = pool.submit(lanes.prune, prune)
        assert began.wait(180)
        lanes.begin(lanes.active)
        waited = pool.submit(lambda: (lanes.await_pruning(), told.append("read")))
        assert not waited.done()
        may_end.set()
        waited.result(30)
        assert pruned.result() == 1
    assert told == ["pruned", "read"]
    assert lanes.prune(prune) == 0


def test_a_reader_that_is_overtaken_says_so(storage: Storage) -> None:
    fleet = Fleet(storage, {"1": A})

    async def scenario() -> None:
        async with fleet.running():
            for hour in range(150):
                await fleet.observe([("a", hour, 1.0, ())])

    run(scenario)
    reader = storage.journal.read(0)
    assert next(reader)[0] == 1
    assert prune_all(storage, 100, keep_history=False)
    with pytest.raises(StorageError, match="records 65 to 100 were dropped"):
        list(reader)
    assert [sequence for sequence, _ in storage.journal.read(0)] == list(range(101, 151))


def test_a_stop_amid_a_rebuild_is_soon(
    tmp_path: pathlib.Path, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rebuilding would take a minute; the event loop goes on meanwhile, and the next start has every series."""
    registry_of({"1": A, "2": B}, monkeypatch)
    concerned, read = Fold._concerned, [0]

    def slow(fold: Fold, records: Iterator[tuple[int, Record]]) -> Iterator[tuple[int, Record]]:
        def slowed() -> Iterator[tuple[int, Record]]:
            for one in records:
                read[0] += 1
                time.sleep(0.3)
                yield one

        yield from concerned(fold, slowed())

    monkeypatch.setattr(Fold, "_concerned", slow)

    async def scenario() -> None:
        registered = RegisteredModel("load", "1", "", "")
        host = Host(ModelSource(TrackingConfig(model="load"), registered, A, storage), CONFIG, lambda error: None)
        host.start()
        await host.recover(lambda: False)
        async with host.kept_up():
            for hour in range(200):
                columns = Columns(
                    ("a",), np.zeros(1, np.int32), np.array([hour * HOUR_US]), np.array([float(hour % 7)])
                )
                await host.served.batcher.observe(ObserveWork(columns))
            await host.served.versions.activate("2")
            await until(lambda: read[0] > 2)
            before = read[0]
        is_free = threading.Event()
        waited = host._pool.submit(is_free.wait, 60)
        asyncio.get_running_loop().call_later(0.1, is_free.set)  # if the loop does not stand still
        assert await host.drain(10)
        assert waited.result()
        assert read[0] < before + 20
        host.snapshot()
        host.close()

    run(scenario)
    engine = Engine(A, storage, version="1")
    assert engine.recover()[0] == 1
    assert engine.describe("a").length == 200


def test_a_version_serves_though_others_could_not_be_removed(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(self: SqliteSnapshots) -> list[str]:
        raise RuntimeError("a defect")

    async def scenario() -> None:
        fleet = Fleet(storage, {"1": A, "2": B})
        async with fleet.running():
            await fleet.observe(walk("a", range(20), 1))
            monkeypatch.setattr(SqliteSnapshots, "fingerprints", broken)
            await fleet.swap("2")
            fleet.seen.clear()
            await fleet.check()
            assert fleet.seen == {"2"}
            assert "RuntimeError: a defect" in caplog.text  # with its traceback

    run(scenario)
