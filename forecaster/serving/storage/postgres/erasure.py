"""Removing what deleted series left in a PostgreSQL database, a part at a time.

The rows of `forecaster.erasures` say what waits, and how far the records were looked through for it.
"""

import json
from dataclasses import dataclass

import psycopg

from forecaster.serving.storage.postgres.fenced_session import Session
from forecaster.serving.storage.postgres.head import NOTE_REMOVED
from forecaster.serving.storage.records import Columns, Deletion, Record, decode, encode, surviving

_MOST_SERIES = 1024  # looked for at once
_FEW_SERIES = 16  # that the database looks for in the bytes of records; more ids are looked for in records themselves
_PART_BYTES, _PART_BYTES_OF_MANY = 16 << 20, 1 << 20  # of records that are looked through at once
_FULL_BELOW_BYTES = 16 << 20  # about a tenth of a second, in which nothing else reads or writes the table
_TABLES = ("journal", "history", "attributes", "snapshots", "erasures")
_ALWAYS = (-(2**63), 2**63 - 1)  # the time range of a deletion
_NEVER = (2**63 - 1, -(2**63))  # and of what holds no observation

_WAITING = """
SELECT series_id, sequence, scanned FROM forecaster.erasures WHERE shard = %s AND sequence <= %s
ORDER BY scanned, sequence LIMIT %s
"""
_FORGET = """
DELETE FROM {table} WHERE ctid = ANY (ARRAY(
    SELECT old.ctid FROM unnest(%b::text[], %b::bigint[]) AS gone (series_id, sequence)
    CROSS JOIN LATERAL (
        SELECT ctid FROM {table} AS one WHERE shard = %s AND one.series_id = gone.series_id COLLATE "C"
        AND one.sequence < gone.sequence OFFSET 0) AS old))
"""
_PART_END = """
SELECT max(sequence) FROM (
    SELECT sequence, sum(octet_length(payload)) OVER (ORDER BY sequence) - octet_length(payload) AS before
    FROM (SELECT sequence, payload FROM forecaster.records WHERE shard = %s AND sequence > %s AND sequence <= %s
          ORDER BY sequence LIMIT 1024) AS one) AS part
WHERE before < %s
"""
_MENTIONING = """
SELECT sequence, payload FROM forecaster.records WHERE shard = %s AND sequence > %s AND sequence <= %s
AND EXISTS (SELECT FROM unnest(%b::bytea[]) AS needle WHERE position(needle IN payload) > 0)
"""
_BETWEEN = "SELECT sequence, payload FROM forecaster.records WHERE shard = %s AND sequence > %s AND sequence <= %s"
_BOTH = ("forecaster.journal", "forecaster.history")


@dataclass(frozen=True, slots=True)
class _Group:
    """Deletions that were looked through equally far."""

    gone: dict[str, int]
    sequences: list[int]
    scanned: int

    def needles(self) -> list[bytes]:
        """Return the bytes of the ids: as columns hold them, and as attributes do."""
        return [needle for name in self.gone for needle in {name.encode(), json.dumps(name)[1:-1].encode()}]


class Erasure:
    """Rewrites the records that hold something of deleted series, and vacuums when the last one is done.

    PostgreSQL leaves deleted bytes in its files until something overwrites them. Tables below 16 MiB are therefore
    written anew (`VACUUM FULL`, during which others wait); in larger ones the space is only marked as free, and
    `VACUUM FULL forecaster.journal, forecaster.history, forecaster.snapshots` at a quiet time removes what is in it.
    The write-ahead log, replicas, archives and backups keep what they have for as long as they are kept.

    Args:
        session: of the thread that uses it.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def waiting(self, last: int) -> set[str]:
        """Return the series whose deletions up to sequence `last` have left something."""
        query = "SELECT series_id FROM forecaster.erasures WHERE shard = %s AND sequence <= %s"
        return {str(row[0]) for row in self._session.rows(query, (self._session.shard, last))}

    def deletions(self, last: int) -> list[tuple[int, str]]:
        """Return those deletions, sequence and series, in order."""
        query = (
            "SELECT sequence, series_id FROM forecaster.erasures WHERE shard = %s AND sequence <= %s ORDER BY sequence"
        )
        return [(int(row[0]), str(row[1])) for row in self._session.rows(query, (self._session.shard, last))]

    def run(self, last: int) -> int:
        """Do a part of the work that deletions up to sequence `last` left; return 0 if there was none."""
        group = self._next_group(last)
        if group is None:
            return self._vacuum()
        return self._session.write(lambda connection: self._rewrite(connection, group))

    def _next_group(self, last: int) -> _Group | None:
        rows = self._session.rows(_WAITING, (self._session.shard, last, _MOST_SERIES))
        if not rows:
            return None
        alike = [(name, sequence) for name, sequence, scanned in rows if scanned == rows[0][2]]
        return _Group(dict(sorted(alike, key=lambda one: one[1])), [sequence for _, sequence in alike], rows[0][2])

    def _rewrite(self, connection: psycopg.Connection, group: _Group) -> int:
        shard, ends = self._session.shard, list(group.gone.values())
        if group.scanned == 0:
            for table in ("forecaster.snapshots", "forecaster.attributes"):
                connection.execute(_FORGET.format(table=table), (list(group.gone), ends, shard))
        few = len(ends) <= _FEW_SERIES
        most_bytes = _PART_BYTES if few else _PART_BYTES_OF_MANY
        found = connection.execute(_PART_END, (shard, group.scanned, max(ends), most_bytes)).fetchone()
        if found is None or found[0] is None:
            return self._finish(connection, group)
        part = (shard, group.scanned, found[0])
        changed = 0
        query, values = (_MENTIONING, (*part, group.needles())) if few else (_BETWEEN, part)
        for sequence, payload in connection.execute(query, values, binary=True).fetchall():
            record = decode(payload)
            # Deletions go last, when nothing is left that they hide.
            rest = record if isinstance(record, Deletion) else surviving(record, sequence, group.gone)
            if rest is not record:
                changed += 1
                self._replace(connection, sequence, rest)
        scanned = "UPDATE forecaster.erasures SET scanned = %s WHERE shard = %s AND sequence = ANY(%s)"
        connection.execute(scanned, (found[0], shard, group.sequences))
        return max(changed, 1)

    def _replace(self, connection: psycopg.Connection, sequence: int, record: Record | None) -> None:
        at = (self._session.shard, sequence)
        for table in _BOTH:
            if record is None:
                connection.execute(f"DELETE FROM {table} WHERE shard = %s AND sequence = %s", at)
            else:
                update = (
                    f"UPDATE {table} SET first_us = %s, last_us = %s, payload = %b WHERE shard = %s AND sequence = %s"
                )
                connection.execute(update, (*times_us(record), encode(record), *at))
        if record is None:
            connection.execute(NOTE_REMOVED, (sequence, self._session.shard))

    def _finish(self, connection: psycopg.Connection, group: _Group) -> int:
        """Remove the deletions themselves; then nothing names their series any more."""
        shard = self._session.shard
        for table in (*_BOTH, "forecaster.erasures"):
            connection.execute(f"DELETE FROM {table} WHERE shard = %s AND sequence = ANY(%s)", (shard, group.sequences))
        connection.execute(NOTE_REMOVED, (max(group.sequences), shard))
        connection.execute("UPDATE forecaster.leases SET vacuum_due = true WHERE shard = %s", (shard,))
        return len(group.sequences)

    def _vacuum(self) -> int:
        is_due = "SELECT vacuum_due FROM forecaster.leases WHERE shard = %s"
        if not self._session.rows(is_due, (self._session.shard,))[0][0]:
            return 0
        tables = [f"forecaster.{name}" for name in _TABLES]
        self._session.vacuum(tables, full_below_bytes=_FULL_BELOW_BYTES)
        done = "UPDATE forecaster.leases SET vacuum_due = false WHERE shard = %s"
        self._session.send((done, (self._session.shard,)))
        return 1


def times_us(record: Record) -> tuple[int, int]:
    """Return the range of times that looking for observations has to read a record for."""
    if isinstance(record, Columns):
        return (int(record.time_us.min()), int(record.time_us.max())) if len(record) else _NEVER
    return _ALWAYS if isinstance(record, Deletion) else _NEVER
