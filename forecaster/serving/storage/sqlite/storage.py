"""Journal, snapshots and history of one model in a folder, owned by one process.

journal.db      the journal                    journal.db.lock   held by the server that owns the folder
journal.mark    its last sequence              history/          Parquet files of what left the journal
snapshots.db    a cache, rebuilt if need be    bundles/          the served model's files
"""

import contextlib
import fcntl
import io
import logging
import pathlib
import sqlite3
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from forecaster.config import DurabilityName
from forecaster.durable_files import make_folder, sync_folder
from forecaster.errors import StorageError
from forecaster.serving.storage.sqlite import schema as sqlite_schema
from forecaster.serving.storage.sqlite.database import Database
from forecaster.serving.storage.sqlite.end import check_folder, settle
from forecaster.serving.storage.sqlite.erasure import Erasure
from forecaster.serving.storage.sqlite.high_water_mark import HighWaterMark
from forecaster.serving.storage.sqlite.history import History
from forecaster.serving.storage.sqlite.history_ledger import Ledger
from forecaster.serving.storage.sqlite.journal import SqliteJournal
from forecaster.serving.storage.sqlite.pruning import Pruning
from forecaster.serving.storage.sqlite.snapshots import SCHEMA, SCHEMA_VERSION, SqliteSnapshots

_LOG = logging.getLogger(__name__)
# Snapshots of a few kilobytes, three to a page; `sync` writes the log back before it is as large.
_CACHE = {"page_bytes": 8192, "cache_bytes": 8 << 20, "checkpoint_bytes": 4 << 20}
_BROKEN = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


@dataclass(frozen=True, slots=True)
class _Shared:
    """What all connections of the process to one folder have in common."""

    folder: pathlib.Path
    durability: DurabilityName
    owned: io.TextIOBase
    high_water: HighWaterMark
    accepted_loss: int = 0
    journal_lock: threading.Lock = field(default_factory=threading.Lock)
    snapshots_lock: threading.Lock = field(default_factory=threading.Lock)
    deleted: dict[str, int] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)


class SqliteStorage:
    """See `Storage`. Made by `SqliteStorage.open`."""

    def __init__(self, shared: _Shared, *, is_owner: bool) -> None:
        self._shared, self._is_owner = shared, is_owner
        folder, is_synced = shared.folder, shared.durability == "commit"
        with contextlib.ExitStack() as undo:
            self._database = Database(folder / "journal.db", is_synced=is_synced, lock=shared.journal_lock)
            undo.callback(self._database.close)
            if is_owner:
                sqlite_schema.prepare(self._database)
            open_cache = _prepared_cache if is_owner else _cache
            self._cache = open_cache(folder / "snapshots.db", shared.snapshots_lock)
            undo.callback(self._cache.close)
            before_save = _nothing if is_synced else self._database.sync_own
            self._history = History(folder / "history", Ledger(self._database), shared.damaged)
            self._snapshots = SqliteSnapshots(self._cache, self._database, shared.deleted, before_save)
            erasing = (self._forget_durably, self._truncate_logs)
            erasure = Erasure(self._database, self._history, shared.deleted, *erasing)
            self._pruning = Pruning(self._database, self._history, shared.deleted, self._cache.sync)
            beside = (self._history, shared.deleted, self._forget, self._pruning, erasure, shared.high_water)
            self._journal = SqliteJournal(self._database, *beside)
            if is_owner:
                self._recover()
            undo.pop_all()

    @classmethod
    def open(
        cls, folder: pathlib.Path, durability: DurabilityName, *, accepted_loss: int | None = None
    ) -> "SqliteStorage":
        """Open a folder, made if need be.

        Raises StorageError if another process has it, a file is broken, or the journal ends before what was
        acknowledged and `accepted_loss` is not the last sequence that was.
        """
        with contextlib.ExitStack() as undo:
            owned = undo.enter_context(own(folder / "journal.db"))
            high_water = undo.enter_context(contextlib.closing(HighWaterMark(folder / "journal.mark")))
            check_folder(folder, high_water, durability=durability, accepted=accepted_loss)
            storage = cls(_Shared(folder, durability, owned, high_water, accepted_loss or 0), is_owner=True)
            undo.pop_all()
        return storage

    @property
    def journal(self) -> SqliteJournal:
        """See `Storage.journal`."""
        return self._journal

    @property
    def snapshots(self) -> SqliteSnapshots:
        """See `Storage.snapshots`."""
        return self._snapshots

    @property
    def keeps_records(self) -> bool:
        """See `Storage.keeps_records`."""
        return True

    @property
    def accepted_loss(self) -> int:
        """See `Storage.accepted_loss`."""
        return self._shared.accepted_loss

    def beside(self) -> "SqliteStorage":
        """See `Storage.beside`."""
        return SqliteStorage(self._shared, is_owner=False)

    def check(self) -> None:
        """Do nothing: the lock file is held for as long as the process lives."""

    def damaged(self) -> list[str]:
        """See `Storage.damaged`."""
        return list(self._shared.damaged.values())

    def close(self) -> None:
        """See `Storage.close`."""
        self._cache.close()
        self._database.close()
        if self._is_owner:
            with contextlib.suppress(StorageError):  # it lags then, which is all that a power cut may do to it
                self._shared.high_water.sync()
            self._shared.high_water.close()
            self._shared.owned.close()

    def _recover(self) -> None:
        """Finish what a crash interrupted, and drop the snapshots of what the journal lost."""
        self._history.repair()
        self._pruning.finish()
        waiting = "SELECT series_id, max(sequence) FROM erasures GROUP BY series_id"
        self._shared.deleted.update(self._database.rows(waiting))
        end = self._journal.last_sequence()
        settle(self._database, self._snapshots, self._shared.high_water, end=end)
        self._shared.high_water.reach(self._journal.last_sequence())
        self._snapshots.forget(self._shared.deleted)
        self._truncate_logs()  # they may hold what was erased
        sync_folder(self._shared.folder)

    def _forget(self, deleted: Mapping[str, int]) -> None:
        """Remove snapshots of deleted series; they do not count any more, so that it may fail: `erase` comes again."""
        try:
            self._snapshots.forget(deleted)
        except StorageError as error:
            _LOG.warning("the snapshots of %d deleted series stay for now: %s", len(deleted), error)

    def _forget_durably(self, deleted: Mapping[str, int]) -> None:
        self._snapshots.forget(deleted)
        self._cache.sync()
        for path in self._shared.folder.glob("snapshots.db.broken-*"):
            path.unlink(missing_ok=True)

    def _truncate_logs(self) -> bool:
        return all([self._database.truncate_log(), self._cache.truncate_log()])


def own(path: pathlib.Path) -> io.TextIOBase:
    """Own a journal's file until what is returned is closed; raises StorageError if another process does."""
    try:
        make_folder(path.parent)
        lock = path.with_name(path.name + ".lock").open("w")
    except OSError as error:
        raise StorageError(f"{path}: cannot be opened: {error.strerror}; check the path and permissions") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise StorageError(
            f"{path} is in use by another server: stop that one or choose another --serving.state"
        ) from error
    return lock


def _prepared_cache(path: pathlib.Path, lock: threading.Lock) -> Database:
    """Open the snapshots' file; one that is broken, or of another version, is set aside."""
    try:
        return _checked_cache(path, lock)
    except StorageError as error:
        cause = error.__cause__
        code = getattr(cause, "sqlite_errorcode", None)  # none: another version
        if not isinstance(cause, sqlite3.DatabaseError) or (code is not None and code & 0xFF not in _BROKEN):
            raise
        aside = path.with_name(f"{path.name}.broken-{time.time_ns()}")
        _LOG.warning("%s; it is set aside as %s and rebuilt from the journal", error, aside.name)
    path.rename(aside)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    return _checked_cache(path, lock)


def _checked_cache(path: pathlib.Path, lock: threading.Lock) -> Database:
    database = _cache(path, lock)
    try:
        with database.transaction() as connection:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, SCHEMA_VERSION):
                raise sqlite3.DatabaseError(f"schema version {version}, this server knows {SCHEMA_VERSION}")
            for statement in SCHEMA if version == 0 else ():
                connection.execute(statement)
            if version == 0:
                connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        database.rows("SELECT max(rowid) FROM snapshots")
    except StorageError:
        database.close()
        raise
    return database


def _cache(path: pathlib.Path, lock: threading.Lock) -> Database:
    return Database(path, is_synced=False, lock=lock, **_CACHE)


def _nothing() -> None:
    """Do nothing."""
