"""The snapshots in PostgreSQL: a row for each series and fingerprint.

A deletion only notes that it was; snapshots of before it are hidden from then on and removed by `erase`. So an append
changes nothing that could not be undone.
"""

import zlib
from collections.abc import Iterator, Mapping, Sequence

from forecaster.serving.storage.contract import AMENDED, IDLE, RETURNED, Activation
from forecaster.serving.storage.postgres.fenced_session import Session
from forecaster.serving.storage.postgres.head import JournalHead
from forecaster.serving.storage.records import Snapshot

_PART = 1024  # snapshots that `read` takes at once

_OF_FINGERPRINT = ("complete_snapshots", "snapshots")

_SAVE = """
INSERT INTO forecaster.snapshots (shard, fingerprint, series_id, sequence, state, checksum)
SELECT %s, %s, series_id, sequence, state, checksum
FROM unnest(%b::text[], %b::bigint[], %b::bytea[], %b::bigint[]) AS one (series_id, sequence, state, checksum)
ON CONFLICT (shard, series_id, fingerprint)
DO UPDATE SET sequence = excluded.sequence, state = excluded.state, checksum = excluded.checksum
WHERE snapshots.sequence <= excluded.sequence
"""
_REPLACED = """
DELETE FROM forecaster.snapshots AS one USING unnest(%b::text[], %b::bigint[]) AS idle (series_id, sequence)
WHERE shard = %s AND one.series_id = idle.series_id AND one.sequence <= idle.sequence
AND fingerprint != ALL(%b::text[])
"""
_END_AMENDED = """
DELETE FROM forecaster.snapshots
WHERE shard = %s AND fingerprint = %s AND series_id = ANY(%b::text[]) AND sequence <= %s
"""
_REMOVE = "DELETE FROM forecaster.snapshots WHERE shard = %s AND fingerprint = %s AND series_id = ANY(%b::text[])"
_NOTE = """
INSERT INTO forecaster.snapshots (shard, fingerprint, series_id, sequence, state, checksum)
SELECT shard, %s, series_id, sequence, %b, %s FROM forecaster.snapshots
WHERE shard = %s AND fingerprint = %s AND series_id = ANY(%b::text[])
ON CONFLICT (shard, series_id, fingerprint)
DO UPDATE SET sequence = excluded.sequence, state = excluded.state, checksum = excluded.checksum
"""
_SETTLE = "DELETE FROM forecaster.snapshots WHERE shard = %s AND fingerprint = %s AND state != %b"
_UNAWAITED = "SET LOCAL synchronous_commit = off"
_COMPLETE = """
INSERT INTO forecaster.complete_snapshots (shard, fingerprint, sequence) VALUES (%s, %s, %s)
ON CONFLICT (shard, fingerprint) DO UPDATE SET sequence = excluded.sequence
"""
_ACTIVATE = """
INSERT INTO forecaster.active (shard, version, fingerprint) VALUES (%s, %s, %s)
ON CONFLICT (shard) DO UPDATE SET version = excluded.version, fingerprint = excluded.fingerprint
"""
_KEEP_BUNDLE = """
INSERT INTO forecaster.bundles (shard, fingerprint, name, content)
SELECT %s, %s, name, content FROM unnest(%b::text[], %b::bytea[]) AS one (name, content)
ON CONFLICT (shard, fingerprint, name) DO UPDATE SET content = excluded.content
"""
_FORGET_BUNDLES = "DELETE FROM forecaster.bundles WHERE shard = %s AND fingerprint != %s"
_VISIBLE = """
FROM forecaster.snapshots AS one WHERE shard = %s AND NOT EXISTS (
    SELECT FROM forecaster.erasures AS gone WHERE gone.shard = one.shard AND gone.series_id = one.series_id
    AND gone.sequence > one.sequence AND gone.sequence <= %s)
"""
_STATES = f"SELECT series_id, sequence, state, checksum {_VISIBLE} AND fingerprint = %s"
_FETCH = f"""
SELECT found.* FROM (SELECT DISTINCT unnest(%b::text[]) COLLATE "C" AS series_id) AS wanted
CROSS JOIN LATERAL ({_STATES} AND one.series_id = wanted.series_id OFFSET 0) AS found
"""


class PostgresSnapshots:
    """See `forecaster.serving.storage.contract.Snapshots`.

    Args:
        session: of the thread that uses it.
        head: the end of the journal.
    """

    def __init__(self, session: Session, head: JournalHead) -> None:
        self._session, self._head = session, head

    def save(self, fingerprint: str, snapshots: Sequence[Snapshot]) -> None:
        """See `Snapshots.save`."""
        if snapshots:
            self._send(False, _SAVE, *self._parts(fingerprint, snapshots))

    def set_idle(self, snapshots: Sequence[Snapshot]) -> None:
        """See `Snapshots.set_idle`."""
        replaced = ([snapshot.series_id for snapshot in snapshots], [snapshot.sequence for snapshot in snapshots])
        replace = (_REPLACED, (*replaced, self._session.shard, [IDLE]))
        self._session.send((_UNAWAITED, None), replace, (_SAVE, self._parts(IDLE, snapshots)))

    def end_idle(self, fingerprint: str, snapshots: Sequence[Snapshot], series_ids: Sequence[str]) -> None:
        """See `Snapshots.end_idle`."""
        shard, names, under = self._session.shard, list(series_ids), fingerprint.encode()
        save = [(_SAVE, self._parts(fingerprint, snapshots))] if snapshots else []
        note = (_NOTE, (RETURNED, under, zlib.crc32(under), shard, IDLE, names))
        remove = (_REMOVE, (shard, IDLE, names))
        self._session.send((_UNAWAITED, None), *save, note, remove)

    def end_amended(self, fingerprint: str, snapshots: Sequence[Snapshot], through: int) -> None:
        """See `Snapshots.end_amended`."""
        if not snapshots:
            return
        shard, under = self._session.shard, fingerprint.encode()
        names, sequences = [s.series_id for s in snapshots], [s.sequence for s in snapshots]
        notes = [Snapshot(s.series_id, s.sequence, under, zlib.crc32(under)) for s in snapshots]
        self._session.send(
            (_UNAWAITED, None),
            (_REPLACED, (names, sequences, shard, [AMENDED, fingerprint])),
            (_SAVE, self._parts(fingerprint, snapshots)),
            (_SAVE, self._parts(RETURNED, notes)),
            (_END_AMENDED, (shard, AMENDED, names, through)),
        )

    def settle_returned(self, fingerprint: str) -> None:
        """See `Snapshots.settle_returned`."""
        self._send(False, _SETTLE, self._session.shard, RETURNED, fingerprint.encode())

    def fetch(self, fingerprint: str, series_ids: Sequence[str]) -> list[Snapshot]:
        """See `Snapshots.fetch`."""
        values = (list(series_ids), *self._visible(), fingerprint)
        return [Snapshot(*row) for row in self._session.rows(_FETCH, values)]

    def read(self, fingerprint: str, after: str = "") -> Iterator[Snapshot]:
        """See `Snapshots.read`."""
        query = f"{_STATES} AND series_id > %s ORDER BY series_id LIMIT {_PART}"
        while True:
            part = [Snapshot(*row) for row in self._session.rows(query, (*self._visible(), fingerprint, after))]
            yield from part
            if len(part) < _PART:
                return
            after = part[-1].series_id

    def count(self, fingerprint: str) -> int:
        """See `Snapshots.count`."""
        query = f"SELECT count(*) {_VISIBLE} AND fingerprint = %s"
        return int(self._session.rows(query, (*self._visible(), fingerprint))[0][0])

    def drop(self, fingerprint: str) -> None:
        """See `Snapshots.drop`."""
        values = (self._session.shard, fingerprint)
        deletes = (f"DELETE FROM forecaster.{table} WHERE shard = %s AND fingerprint = %s" for table in _OF_FINGERPRINT)
        self._session.send(*((delete, values) for delete in deletes))

    def fingerprints(self) -> list[str]:
        """See `Snapshots.fingerprints`."""
        noted = "SELECT fingerprint FROM forecaster.complete_snapshots WHERE shard = %s"
        models = f"{_VISIBLE} AND fingerprint NOT IN (%s, %s, %s)"
        query = f"SELECT fingerprint {models} UNION {noted} ORDER BY 1"
        values = (*self._visible(), IDLE, RETURNED, AMENDED, self._session.shard)
        return [str(row[0]) for row in self._session.rows(query, values)]

    def complete(self, fingerprint: str, sequence: int) -> None:
        """See `Snapshots.complete`."""
        self._send(False, _COMPLETE, self._session.shard, fingerprint, sequence)

    def complete_through(self, fingerprint: str) -> int | None:
        """See `Snapshots.complete_through`."""
        query = "SELECT sequence FROM forecaster.complete_snapshots WHERE shard = %s AND fingerprint = %s"
        found = self._session.rows(query, (self._session.shard, fingerprint))
        return int(found[0][0]) if found else None

    def activate(self, activation: Activation) -> None:
        """See `Snapshots.activate`."""
        shard, awaited = self._session.shard, ("SET LOCAL synchronous_commit = on", None)
        activate = (_ACTIVATE, (shard, activation.version, activation.fingerprint))
        self._session.send(awaited, activate, (_FORGET_BUNDLES, (shard, activation.fingerprint)))

    def keep_bundle(self, fingerprint: str, files: Mapping[str, bytes]) -> None:
        """See `Snapshots.keep_bundle`."""
        parts = (list(files), list(files.values()))
        self._send(True, _KEEP_BUNDLE, self._session.shard, fingerprint, *parts)

    def kept_bundle(self, fingerprint: str) -> dict[str, bytes] | None:
        """See `Snapshots.kept_bundle`."""
        query = "SELECT name, content FROM forecaster.bundles WHERE shard = %s AND fingerprint = %s"
        return dict(self._session.rows(query, (self._session.shard, fingerprint))) or None

    def active(self) -> Activation | None:
        """See `Snapshots.active`."""
        query = "SELECT version, fingerprint FROM forecaster.active WHERE shard = %s"
        found = self._session.rows(query, (self._session.shard,))
        return Activation(*found[0]) if found else None

    def sync(self) -> None:
        """See `Snapshots.sync`: one commit that is waited for takes all before it to the disk."""
        self._session.send(("SET LOCAL synchronous_commit = on", None))

    def _send(self, is_awaited: bool, query: str, *values: object) -> None:
        """Write, and wait for the disk or leave that to `sync`."""
        self._session.send((f"SET LOCAL synchronous_commit = {'on' if is_awaited else 'off'}", None), (query, values))

    def _parts(self, fingerprint: str, snapshots: Sequence[Snapshot]) -> tuple[object, ...]:
        """Return the values of the statement that saves snapshots."""
        latest = list({snapshot.series_id: snapshot for snapshot in snapshots}.values())
        parts = ([getattr(one, name) for one in latest] for name in ("series_id", "sequence", "state", "checksum"))
        return self._session.shard, fingerprint, *parts

    def _visible(self) -> tuple[str, int]:
        return self._session.shard, self._head.last
