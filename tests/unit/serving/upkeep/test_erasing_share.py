"""A storm of deletions: what they left is erased in small parts, in time that grows as they do, beside the rounds."""

import asyncio
import pathlib
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from forecaster.config import ServingConfig
from forecaster.serving.engine.batcher import Batcher
from forecaster.serving.engine.engine import Engine
from forecaster.serving.storage.contract import Storage
from forecaster.serving.storage.records import Deletion
from forecaster.serving.storage.sqlite.storage import SqliteStorage
from forecaster.serving.upkeep.maintenance import Maintenance
from tests.unit.serving.folding import BUNDLE, columns
from tests.unit.serving.storages import Opener

PART = 256  # records, or series, of one transaction at most


def storm(storage: Storage, series: int) -> None:
    """Let series be observed together and then deleted, all of them but one."""
    names = [f"s{k}" for k in range(series)]
    for hour in range(3):
        storage.journal.append(columns([("kept", hour, 1.0), *((name, hour, 2.0) for name in names)]).columns)
    for start in range(0, series, 500):
        storage.journal.append(*(Deletion(name) for name in names[start : start + 500]))


def left(storage: Storage) -> set[str]:
    records = [record for _, record in storage.journal.read(0)]
    return {name for one in records for name in ([one.series_id] if isinstance(one, Deletion) else one.series_ids)}


def erased(storage: Storage) -> Iterator[int]:
    while part := storage.journal.erase():
        yield part


def test_no_part_of_a_storm_is_large(opener: Opener) -> None:
    with closing(opener()) as storage:
        storm(storage, 1200)
        parts = list(erased(storage))
        assert left(storage) == {"kept"}
    if isinstance(storage, SqliteStorage):
        assert max(parts) <= PART
    else:
        assert len(parts) < 60  # the records are looked through for many series at once, not for sixteen


def test_erasing_takes_as_long_as_there_is_to_erase(tmp_path: pathlib.Path) -> None:
    """By instructions of SQLite's machine: twice the series take about twice of them, not four times."""
    took = []
    for series in (1000, 2000):
        storage = SqliteStorage.open(tmp_path / str(series), "interval")
        with closing(storage):
            storm(storage, series)
            ticks = [0]
            connection: sqlite3.Connection = storage._database._connection
            connection.set_progress_handler(lambda ticks=ticks: ticks.__setitem__(0, ticks[0] + 1), 100)
            list(erased(storage))
            took.append(ticks[0])
            assert left(storage) == {"kept"}
    assert took[1] < 3 * took[0]


def test_deletions_are_erased_together_and_without_snapshots(tmp_path: pathlib.Path) -> None:
    """A deleted series is erased soon; no round is due for it, which would write every state that has changed."""

    async def scenario(storage: SqliteStorage, beside: SqliteStorage, pool: ThreadPoolExecutor) -> None:
        engine = Engine(BUNDLE, storage)
        defects: list[Exception] = []
        batcher = Batcher(engine, max_batch=1000, max_queued=1000, on_defect=defects.append)
        batcher.start()
        maintenance = Maintenance(engine, batcher, beside, pool, ServingConfig(snapshot_seconds=3600.0))
        began = maintenance.round_ended
        await batcher.observe(columns([(f"s{k}", 0, 1.0) for k in range(40)]))
        upkeep = asyncio.create_task(maintenance.run())
        for k in range(30):
            await batcher.call(lambda k=k: engine.delete(f"s{k}"))  # type: ignore[misc]
            maintenance.hasten()
        while left(beside) != {f"s{k}" for k in range(30, 40)}:
            await asyncio.sleep(0.01)
        assert maintenance.round_ended == began
        assert storage.snapshots.count(BUNDLE.fingerprint) == 0
        maintenance.stop()
        upkeep.cancel()
        await asyncio.gather(upkeep, return_exceptions=True)
        await batcher.drain()
        assert not defects

    with (
        closing(SqliteStorage.open(tmp_path, "interval")) as storage,
        closing(storage.beside()) as beside,
        ThreadPoolExecutor(1) as pool,
    ):
        asyncio.run(asyncio.wait_for(scenario(storage, beside, pool), 60))
