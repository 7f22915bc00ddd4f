"""The durable journal: every acknowledged observation, in order, and each series' latest snapshot.

`Journal` is the interface; `SqliteJournal` keeps it in one SQLite file in WAL mode, one row for each committed
micro-batch; `VolatileJournal` keeps nothing. A journal knows series ids, times and values; it does not
know models (a snapshot is bytes with a fingerprint) or gRPC.
"""

import contextlib
import fcntl
import pathlib
import sqlite3
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from forecaster.config import DurabilityName
from forecaster.errors import StorageError
from forecaster.serving.records import Columns, Deletion, Record, Snapshot, decode, encode, find

_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS journal (
    sequence INTEGER PRIMARY KEY, committed_us INTEGER NOT NULL,
    first_us INTEGER NOT NULL, last_us INTEGER NOT NULL, payload BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS snapshots (
    series_id TEXT PRIMARY KEY, sequence INTEGER NOT NULL, fingerprint TEXT NOT NULL, state BLOB NOT NULL,
    checksum INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS complete_snapshots (fingerprint TEXT PRIMARY KEY, sequence INTEGER NOT NULL);
"""
_ALWAYS = (-(2**63), 2**63 - 1)  # the time range of a deletion
_NEVER = (2**63 - 1, -(2**63))  # and of what holds no observation
_MOST_ROWS_LOOKED_AT = 4_000_000  # for rows older than the states remember: about a second


class Journal(Protocol):
    """What the engine needs of a journal. One thread at a time calls it."""

    def append(self, *records: Record) -> int:
        """Write records, all or none, and return the last one's sequence; they are then as durable as promised.

        Raises StorageError if they could not be written; then nothing of them is kept.
        """
        ...

    def read(self, after: int) -> Iterator[tuple[int, Record]]:
        """Yield the records behind sequence `after`, in order; raises StorageError at a corrupted one."""
        ...

    def last_sequence(self) -> int:
        """Return the last record's sequence, 0 if there is none."""
        ...

    def save_snapshots(self, fingerprint: str, snapshots: Iterable[Snapshot]) -> None:
        """Keep these snapshots instead of the older ones of the same series."""
        ...

    def complete_snapshots(self, fingerprint: str, sequence: int) -> None:
        """Note that every series has a snapshot as of record `sequence` or a later one; replay starts there."""
        ...

    def complete_through(self, fingerprint: str) -> int:
        """Return what `complete_snapshots` noted last for the model with this fingerprint, 0 without."""
        ...

    def read_snapshots(self, fingerprint: str) -> Iterator[Snapshot]:
        """Yield the snapshots that the model with this fingerprint made."""
        ...

    def find(self, wanted: Columns) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
        """Look rows up by series and time, the newest records first: whether found, and the value."""
        ...

    def sync(self) -> None:
        """Make everything appended so far survive a power cut."""
        ...

    def close(self) -> None:
        """Release the journal; another process may open it."""
        ...


def open_journal(state: str, durability: DurabilityName) -> Journal:
    """Open the journal at a folder or `sqlite:///` URL, made if need be.

    Raises StorageError if it is in use by another process, cannot be written, or is not a journal.
    """
    if durability == "none":
        return VolatileJournal()
    if "://" in state and not state.startswith("sqlite:///"):
        raise StorageError(f"state {state!r} is not supported: give a folder or a sqlite:/// URL")
    path = pathlib.Path(state.removeprefix("sqlite:///"))
    if not state.startswith("sqlite:///"):
        path = path / "journal.db"
    return SqliteJournal(path, durability)


class SqliteJournal:
    """The journal in one SQLite file (with its -wal and -shm beside it) and a lock file.

    Args:
        path: the file.
        durability: `commit` syncs at every append, `interval` when `sync` is called.
    """

    def __init__(self, path: pathlib.Path, durability: DurabilityName = "commit") -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = path.with_name(path.name + ".lock").open("w")
        except OSError as error:
            raise StorageError(f"{path}: cannot be opened: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise StorageError(
                f"{path} is in use by another server: stop that one or choose another --serving.state"
            ) from error
        try:
            self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute(f"PRAGMA synchronous={'FULL' if durability == 'commit' else 'NORMAL'}")
            self._prepare()
        except sqlite3.Error as error:
            self._lock.close()
            raise self._failed("opened", error) from error

    def _prepare(self) -> None:
        version = self._database.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, _SCHEMA_VERSION):
            raise sqlite3.DatabaseError(f"schema version {version}, this server knows {_SCHEMA_VERSION}")
        self._database.executescript(_SCHEMA)
        self._database.execute(f"PRAGMA user_version={_SCHEMA_VERSION}")

    def append(self, *records: Record) -> int:
        """See `Journal.append`."""
        query = "INSERT INTO journal (committed_us, first_us, last_us, payload) VALUES (?, ?, ?, ?)"
        rows = [(time.time_ns() // 1000, *_times(record), encode(record)) for record in records]
        with self._transaction():
            for record, row in zip(records, rows, strict=True):
                cursor = self._database.execute(query, row)
                if isinstance(record, Deletion):
                    self._database.execute("DELETE FROM snapshots WHERE series_id = ?", (record.series_id,))
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def read(self, after: int) -> Iterator[tuple[int, Record]]:
        """See `Journal.read`."""
        yield from self._read("WHERE sequence > ? ORDER BY sequence", (after,))

    def find(self, wanted: Columns) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
        """See `Journal.find`."""
        overlap = "WHERE first_us <= ? AND last_us >= ? ORDER BY sequence DESC"
        times = (int(wanted.time_us.max()), int(wanted.time_us.min()))
        newest_first = (record for _, record in self._read(overlap, times))
        return find(wanted, newest_first, most_rows=_MOST_ROWS_LOOKED_AT)

    def _read(self, which: str, values: tuple[int, ...]) -> Iterator[tuple[int, Record]]:
        try:
            for sequence, payload in self._database.execute(f"SELECT sequence, payload FROM journal {which}", values):
                try:
                    record = decode(payload)
                except ValueError as error:
                    raise StorageError(
                        f"{self._path}: record {sequence} is corrupted ({error}): restore the file from a copy"
                    ) from error
                yield sequence, record
        except sqlite3.Error as error:
            raise self._failed("read", error) from error

    def last_sequence(self) -> int:
        """See `Journal.last_sequence`."""
        found = self._database.execute("SELECT max(sequence) FROM journal").fetchone()[0]
        return int(found or 0)

    def save_snapshots(self, fingerprint: str, snapshots: Iterable[Snapshot]) -> None:
        """See `Journal.save_snapshots`."""
        rows = ((s.series_id, s.sequence, fingerprint, s.state, s.checksum) for s in snapshots)
        with self._transaction():
            # The series' snapshots of other models go, so that those are no longer complete.
            self._database.execute("DELETE FROM complete_snapshots WHERE fingerprint <> ?", (fingerprint,))
            self._database.executemany("INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?, ?, ?)", rows)

    def complete_snapshots(self, fingerprint: str, sequence: int) -> None:
        """See `Journal.complete_snapshots`."""
        with self._transaction():
            self._database.execute("INSERT OR REPLACE INTO complete_snapshots VALUES (?, ?)", (fingerprint, sequence))

    def complete_through(self, fingerprint: str) -> int:
        """See `Journal.complete_through`."""
        query = "SELECT sequence FROM complete_snapshots WHERE fingerprint = ?"
        found = self._database.execute(query, (fingerprint,)).fetchone()
        return int(found[0]) if found else 0

    def read_snapshots(self, fingerprint: str) -> Iterator[Snapshot]:
        """See `Journal.read_snapshots`."""
        query = "SELECT series_id, sequence, state, checksum FROM snapshots WHERE fingerprint = ?"
        try:
            yield from (Snapshot(*row) for row in self._database.execute(query, (fingerprint,)))
        except sqlite3.Error as error:
            raise self._failed("read", error) from error

    def sync(self) -> None:
        """See `Journal.sync`: a checkpoint syncs the write-ahead log before it copies it."""
        try:
            self._database.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except sqlite3.Error as error:
            raise self._failed("written", error) from error

    def close(self) -> None:
        """See `Journal.close`."""
        self._database.close()
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """Commit what the block did, all of it or nothing."""
        try:
            self._database.execute("BEGIN IMMEDIATE")
            yield
            self._database.execute("COMMIT")
        except sqlite3.Error as error:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise self._failed("written", error) from error

    def _failed(self, verb: str, error: sqlite3.Error) -> StorageError:
        return StorageError(f"{self._path}: cannot be {verb}: {error}; check disk space, permissions and the file")


def _times(record: Record) -> tuple[int, int]:
    """Return the range of times that looking for observations has to read a record for, microseconds."""
    if isinstance(record, Columns):
        return int(record.time_us.min()), int(record.time_us.max())
    return _ALWAYS if isinstance(record, Deletion) else _NEVER


class VolatileJournal:
    """A journal that keeps nothing: durability `none`."""

    def __init__(self) -> None:
        self._sequence = 0

    def append(self, *records: Record) -> int:
        """Count the records."""
        self._sequence += len(records)
        return self._sequence

    def read(self, after: int) -> Iterator[tuple[int, Record]]:
        """Yield nothing."""
        return iter(())

    def last_sequence(self) -> int:
        """Return how many records were appended in this process."""
        return self._sequence

    def save_snapshots(self, fingerprint: str, snapshots: Iterable[Snapshot]) -> None:
        """Keep nothing."""

    def complete_snapshots(self, fingerprint: str, sequence: int) -> None:
        """Keep nothing."""

    def complete_through(self, fingerprint: str) -> int:
        """Return 0."""
        return 0

    def read_snapshots(self, fingerprint: str) -> Iterator[Snapshot]:
        """Yield nothing."""
        return iter(())

    def find(self, wanted: Columns) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
        """Find nothing."""
        return np.zeros(len(wanted), dtype=bool), np.full(len(wanted), np.nan)

    def sync(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""
