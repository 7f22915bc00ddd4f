"""What the journal's database knows of the history's files: each one's digest, and what is yet to be erased from it.

A file's digest is noted before the file is there, and a former one is let go of when it is not there any more: whoever
finds a file finds its digest. Knows SQL; knows nothing of what is in the files.
"""

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass

from forecaster.serving.storage.sqlite.database import Database, ReadOnly


@dataclass(frozen=True, slots=True)
class Entry:
    """One file as it was written; a file that is being rewritten has two.

    Args:
        name: of the file.
        digest: of its bytes.
        first: sequence of the first record that it covers.
        last: of the last one.
        rows: in it.
        first_us: the earliest time of a row, microseconds.
        last_us: the latest.
    """

    name: str
    digest: bytes
    first: int
    last: int
    rows: int
    first_us: int
    last_us: int


def digest_of(data: bytes) -> bytes:
    """Return the digest of a file's bytes."""
    return hashlib.sha256(data).digest()


class Ledger:
    """The entries of one journal's history.

    Args:
        database: the journal's file; only one that may write can `note`.
    """

    def __init__(self, database: Database | ReadOnly) -> None:
        self._database = database

    def entries(self) -> tuple[list[Entry], int]:
        """Return all entries, and up to which record the journal was pruned when they were read, or a little more."""
        rows = self._database.rows("SELECT * FROM history_files ORDER BY first, last")
        pruned = self._database.rows("SELECT value FROM marks WHERE name = 'pruned'")
        return [Entry(*row) for row in rows], int(pruned[0][0]) if pruned else 0

    def digests(self, name: str) -> set[bytes]:
        """Return the digests that a file may have."""
        return {row[0] for row in self._database.rows("SELECT digest FROM history_files WHERE name = ?", (name,))}

    def note(self, entry: Entry) -> None:
        """Keep an entry, durably."""
        assert isinstance(self._database, Database)
        with self._database.transaction() as connection:
            values = (entry.name, entry.digest, entry.first, entry.last, entry.rows, entry.first_us, entry.last_us)
            connection.execute("INSERT OR REPLACE INTO history_files VALUES (?, ?, ?, ?, ?, ?, ?)", values)
        if not self._database.is_synced:
            self._database.sync()

    def settle(self, name: str, digest: bytes) -> None:
        """Let a file have no other digest than the one that it has."""
        assert isinstance(self._database, Database)
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM history_files WHERE name = ? AND digest != ?", (name, digest))

    def paid(self, name: str) -> None:
        """Note that nothing is left to be erased from a file."""
        assert isinstance(self._database, Database)
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM unerased WHERE name = ?", (name,))

    def forget(self, names: Collection[str]) -> None:
        """Let files go that are in others."""
        assert isinstance(self._database, Database)
        with self._database.transaction() as connection:
            for table in ("history_files", "unerased"):
                connection.executemany(f"DELETE FROM {table} WHERE name = ?", [(name,) for name in names])

    def owe(self, name: str, series_ids: Collection[str]) -> bool:
        """Note that series are to be erased from a file as soon as it can be read; return whether that is new."""
        assert isinstance(self._database, Database)
        with self._database.transaction() as connection:
            query = "INSERT OR IGNORE INTO unerased SELECT ?, value FROM json_each(?)"
            return bool(connection.execute(query, (name, json.dumps(list(series_ids)))).rowcount > 0)

    def owed(self, name: str) -> list[str]:
        """Return the series that are to be erased from a file: what it holds of them does not count."""
        return [row[0] for row in self._database.rows("SELECT series_id FROM unerased WHERE name = ?", (name,))]

    def owing(self) -> list[str]:
        """Return the names of files from which something is to be erased."""
        return [row[0] for row in self._database.rows("SELECT DISTINCT name FROM unerased ORDER BY name")]
