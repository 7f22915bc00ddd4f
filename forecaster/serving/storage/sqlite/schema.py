"""What is in a journal's SQLite file: its tables, and how an older version's file becomes one of today."""

import json
import sqlite3
from typing import Any

from forecaster.errors import StorageError
from forecaster.serving.storage.records import Attributes, Columns, Deletion, Record, decode
from forecaster.serving.storage.sqlite.database import Database, ReadOnly

ALWAYS = (-(2**63), 2**63 - 1)  # the time range of a deletion
NEVER = (2**63 - 1, -(2**63))  # and of what holds no observation
# Marks: `last` sequence when rows were removed, `pruned` up to a sequence, `dropped` of them without a history.
LAST_SEQUENCE = (
    "SELECT max(coalesce((SELECT value FROM marks WHERE name = 'last'), 0),"
    " coalesce((SELECT max(sequence) FROM journal), 0))"
)
VERSION = 3
_TABLES = (
    "CREATE TABLE IF NOT EXISTS journal (sequence INTEGER PRIMARY KEY, committed_us INTEGER NOT NULL,"
    " first_us INTEGER NOT NULL, last_us INTEGER NOT NULL, payload BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS attributes (series_id TEXT NOT NULL, sequence INTEGER NOT NULL, named TEXT NOT NULL,"
    " PRIMARY KEY (series_id, sequence)) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS attributes_in_order ON attributes (sequence)",
    "CREATE TABLE IF NOT EXISTS erasures (sequence INTEGER PRIMARY KEY, series_id TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS marks (name TEXT PRIMARY KEY, value INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS active (version TEXT NOT NULL, fingerprint TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS history_files (name TEXT NOT NULL, digest BLOB NOT NULL, first INTEGER NOT NULL,"
    " last INTEGER NOT NULL, rows INTEGER NOT NULL, first_us INTEGER NOT NULL, last_us INTEGER NOT NULL,"
    " PRIMARY KEY (name, digest)) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS unerased (name TEXT NOT NULL, series_id TEXT NOT NULL, PRIMARY KEY (name, series_id))"
    " WITHOUT ROWID",
)

# Without it, to let go of a thousand deletions of sixty thousand takes seconds, in which nobody appends.
_ERASURES_OF = "CREATE INDEX IF NOT EXISTS erasures_of ON erasures (series_id)"


def prepare(database: Database) -> None:
    """Make the tables, or those that an earlier version's file lacks; of version 1 the snapshots, a cache, go."""
    with database.transaction() as connection:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version not in range(VERSION + 1):
            raise sqlite3.DatabaseError(f"schema version {version}, this server knows {VERSION}")
        if version == VERSION:
            connection.execute(_ERASURES_OF)  # files of before have none
            return
        for statement in (*_TABLES, _ERASURES_OF):
            connection.execute(statement)
        if version == 1:
            _take_over(database, connection)
        connection.execute(f"PRAGMA user_version={VERSION}")


def _take_over(database: Database, connection: sqlite3.Connection) -> None:
    query = "SELECT sequence, payload FROM journal WHERE first_us > last_us OR first_us = ? ORDER BY sequence"
    for sequence, payload in connection.execute(query, (ALWAYS[0],)).fetchall():
        note(connection, sequence, decoded(database, sequence, payload))
    connection.execute("DROP TABLE IF EXISTS snapshots")
    connection.execute("DROP TABLE IF EXISTS complete_snapshots")


def note(connection: sqlite3.Connection, sequence: int, record: Record) -> None:
    """Keep what outlives a record: static covariates, and which series wait for their erasure."""
    if isinstance(record, Deletion):
        connection.execute("DELETE FROM attributes WHERE series_id = ?", (record.series_id,))
        connection.execute("INSERT INTO erasures VALUES (?, ?)", (sequence, record.series_id))
    elif isinstance(record, Attributes):
        named = zip(record.series_ids, record.numbers, record.categories, strict=True)
        rows = [(name, sequence, json.dumps([numbers, categories])) for name, numbers, categories in named]
        connection.executemany("INSERT OR REPLACE INTO attributes VALUES (?, ?, ?)", rows)


def outdate(connection: sqlite3.Connection, after: int, through: int) -> None:
    """Remove static covariates that others replaced by the records behind `after` and up to `through`."""
    connection.execute(
        "DELETE FROM attributes WHERE (series_id, sequence) IN (SELECT old.series_id, old.sequence"
        " FROM attributes AS new CROSS JOIN attributes AS old ON old.series_id = new.series_id"
        " AND old.sequence < new.sequence WHERE new.sequence > ? AND new.sequence <= ?)",
        (after, through),
    )


def remember_last(connection: sqlite3.Connection) -> None:
    """Keep the last sequence, before rows go."""
    connection.execute(f"INSERT OR REPLACE INTO marks SELECT 'last', ({LAST_SEQUENCE})")


def raise_mark(connection: sqlite3.Connection, name: str, value: int) -> None:
    """Set a mark to a value, unless it is higher already."""
    query = "INSERT INTO marks VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)"
    connection.execute(query, (name, value))


def mark(database: Database, name: str) -> int:
    """Return a mark, 0 if it was never set."""
    found: list[Any] = database.rows("SELECT value FROM marks WHERE name = ?", (name,))
    return int(found[0][0]) if found else 0


def times(record: Record) -> tuple[int, int]:
    """Return the range of times that looking for observations has to read a record for, microseconds."""
    if isinstance(record, Columns):
        return (int(record.time_us.min()), int(record.time_us.max())) if len(record) else NEVER
    return ALWAYS if isinstance(record, Deletion) else NEVER


def decoded(database: Database | ReadOnly, sequence: int, payload: bytes) -> Record:
    """Return a record; raises StorageError if it is corrupted."""
    try:
        return decode(payload)
    except ValueError as error:
        raise StorageError(
            f"{database.path}: record {sequence} is corrupted ({error}): restore the file from a copy"
        ) from error
