"""One SQLite file in WAL mode: transactions of one writer at a time, syncing, and errors that say what to do.

Knows nothing of what is in it.
"""

import contextlib
import os
import pathlib
import sqlite3
import threading
import urllib.parse
from collections.abc import Iterator, Sequence
from typing import Any

from forecaster.errors import StorageError

_BUSY_SECONDS = 10.0  # writers of this process wait for each other's lock; this is for SQLite's own short ones


class Database:
    """A connection to a SQLite file.

    Args:
        path: the file, made if need be; its folder exists.
        is_synced: whether every commit reaches the disk before it returns; else `sync` does.
        lock: shared by all connections of the process to the file; held while one of them writes.
        page_bytes: of a new file's pages.
        cache_bytes: of pages in memory.
        checkpoint_bytes: write the log back into the file when it has grown to this.
    """

    def __init__(
        self,
        path: pathlib.Path,
        *,
        is_synced: bool,
        lock: threading.Lock,
        page_bytes: int = 4096,
        cache_bytes: int = 2 << 20,
        checkpoint_bytes: int = 4 << 20,
    ) -> None:
        self.path, self.lock, self.is_synced = path, lock, is_synced
        self._log = path.with_name(path.name + "-wal")
        self._synced = -1  # rows that this connection had changed
        try:
            self._connection = sqlite3.connect(
                path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
        except sqlite3.Error as error:
            raise self.failed("opened", error) from error
        try:
            self._connection.execute(f"PRAGMA page_size={page_bytes}")
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute(f"PRAGMA synchronous={'FULL' if is_synced else 'NORMAL'}")
            self._connection.execute("PRAGMA secure_delete=ON")  # what is deleted is overwritten by zeros
            self._connection.execute(f"PRAGMA cache_size=-{cache_bytes >> 10}")
            self._connection.execute(f"PRAGMA wal_autocheckpoint={checkpoint_bytes // page_bytes}")
        except sqlite3.Error as error:
            self._connection.close()
            raise self.failed("opened", error) from error

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        """Return all rows of a query."""
        try:
            return self._connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise self.failed("read", error) from error

    def commit(self, statement: str, values: Sequence[Any]) -> list[Any]:
        """Run a statement as a transaction of its own and return its rows.

        As such it takes one call, and the lock of the interpreter is given away once; `transaction` does so five times.
        """
        with self.lock:
            try:
                return self._connection.execute(statement, values).fetchall()
            except sqlite3.Error as error:
                self._roll_back()
                raise self.failed("written", error) from error

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Commit what the block did, all of it or nothing."""
        with self.lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield self._connection
                self._connection.execute("COMMIT")
            except sqlite3.Error as error:
                self._roll_back()
                raise self.failed("written", error) from error
            except BaseException:
                self._roll_back()
                raise

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):  # the first error is the one to be told
                self._connection.execute("ROLLBACK")

    def sync(self) -> None:
        """Make everything committed so far survive a power cut.

        What is in the file already was synced by the checkpoint that put it there; the rest is in the log. A passive
        checkpoint would sync the log too, but not while another connection's checkpoint runs.
        """
        try:
            with self._log.open("rb") as log:
                os.fsync(log.fileno())
        except FileNotFoundError:
            pass
        except OSError as error:
            raise StorageError(f"{self._log}: cannot be synced: {error.strerror}; check the disk") from error

    def sync_own(self) -> None:
        """Do what `sync` does, unless this connection has written nothing since it last did."""
        changes = self._connection.total_changes
        if changes != self._synced:
            self.sync()
            self._synced = changes

    def checkpoint(self) -> None:
        """Write the log back into the file, as far as readers allow; waits for nobody."""
        self.rows("PRAGMA wal_checkpoint(PASSIVE)")

    def truncate_log(self) -> bool:
        """Write the log back and empty it; return whether no reader kept a part of it."""
        with self.lock:
            try:
                self._connection.execute("PRAGMA busy_timeout=20")  # others write in the meantime
                busy, _, _ = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            except sqlite3.Error as error:
                if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                    raise self.failed("written", error) from error
                return False
            finally:
                self._connection.execute(f"PRAGMA busy_timeout={int(1000 * _BUSY_SECONDS)}")
        return not busy

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def failed(self, verb: str, error: sqlite3.Error) -> StorageError:
        """Return the error that says so."""
        return _failed(self.path, verb, error)


class ReadOnly:
    """A connection that only reads a file, whoever writes it meanwhile.

    Args:
        path: the file, which is there.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        address = f"file:{urllib.parse.quote(str(path.absolute()))}?mode=ro"
        try:
            self._connection = sqlite3.connect(address, uri=True, timeout=_BUSY_SECONDS, isolation_level=None)
        except sqlite3.Error as error:
            raise _failed(path, "opened", error) from error

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        """Return all rows of a query."""
        try:
            return self._connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise _failed(self.path, "read", error) from error

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def _failed(path: pathlib.Path, verb: str, error: sqlite3.Error) -> StorageError:
    return StorageError(f"{path}: cannot be {verb}: {error}; check disk space, permissions and the file")
