"""Snapshots in a SQLite file of their own, so that writing many of them never holds the journal's lock.

The file is a cache: without it every state is rebuilt from the journal.
"""

import json
import shutil
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence

from forecaster.durable_files import UNFINISHED, make_folder, sync_folder, write_durably
from forecaster.errors import StorageError
from forecaster.serving.storage.contract import AMENDED, IDLE, RETURNED, Activation
from forecaster.serving.storage.records import Snapshot
from forecaster.serving.storage.sqlite.database import Database

SCHEMA_VERSION = 1
# `model` is short for a fingerprint, which would otherwise stand twice beside every series; NULL where it was dropped.
SCHEMA = (
    "CREATE TABLE IF NOT EXISTS models (model INTEGER PRIMARY KEY, fingerprint TEXT UNIQUE, complete_through INTEGER,"
    " highest INTEGER NOT NULL DEFAULT 0)",
    "CREATE TABLE IF NOT EXISTS snapshots (model INTEGER NOT NULL, series_id TEXT NOT NULL, sequence INTEGER NOT NULL,"
    " checksum INTEGER NOT NULL, state BLOB NOT NULL)",
    "CREATE UNIQUE INDEX IF NOT EXISTS snapshots_of_series ON snapshots (model, series_id)",
)
HIGHEST = "SELECT coalesce(max(max(highest, coalesce(complete_through, 0))), 0) FROM models"
_SAVE = (
    "INSERT INTO snapshots VALUES (?, ?, ?, ?, ?) ON CONFLICT (model, series_id) DO UPDATE SET"
    " sequence = excluded.sequence, checksum = excluded.checksum, state = excluded.state"
    " WHERE excluded.sequence >= sequence"
)
_NOTE = "INSERT INTO snapshots SELECT ?, series_id, sequence, ?, ? FROM snapshots WHERE model = ? AND series_id = ?"
_REMOVE = "DELETE FROM snapshots WHERE model = ? AND series_id = ?"
_REMOVE_OLDER = f"{_REMOVE} AND sequence <= ?"
_HIGHEST_OF = "UPDATE models SET highest = max(highest, ?) WHERE model = ?"
_PAGE = 1000  # snapshots of one query or of one transaction that removes some


class SqliteSnapshots:
    """See `Snapshots`.

    Args:
        database: where they are, with its schema.
        journal: the journal's file, which holds what must outlive the cache.
        deleted: for each deleted series that waits for its erasure the deletion's sequence; older snapshots of it do
            not count. Shared with the journal.
        before_save: called before snapshots are written: what they hold must be as durable as they may become.
    """

    def __init__(
        self, database: Database, journal: Database, deleted: Mapping[str, int], before_save: Callable[[], None]
    ) -> None:
        self._database, self._journal = database, journal
        self._bundles = database.path.parent / "bundles"
        self._deleted, self._before_save = deleted, before_save

    def save(self, fingerprint: str, snapshots: Sequence[Snapshot]) -> None:
        """See `Snapshots.save`."""
        kept = [s for s in snapshots if self._counts(s)]
        if not kept:
            return
        self._before_save()
        highest = max(s.sequence for s in kept)
        with self._database.transaction() as connection:
            model = _model(connection, fingerprint)
            connection.executemany(_SAVE, [_row(model, s) for s in kept])
            connection.execute(_HIGHEST_OF, (highest, model))

    def fetch(self, fingerprint: str, series_ids: Sequence[str]) -> list[Snapshot]:
        """See `Snapshots.fetch`."""
        query = (
            "SELECT s.series_id, s.sequence, s.state, s.checksum FROM json_each(?) AS wanted CROSS JOIN snapshots AS s"
            " ON s.model = (SELECT model FROM models WHERE fingerprint = ?) AND s.series_id = wanted.value"
        )
        found: list[Snapshot] = []
        different = list(dict.fromkeys(series_ids))
        for start in range(0, len(different), _PAGE):
            wanted = json.dumps(different[start : start + _PAGE])
            found += [Snapshot(*row) for row in self._database.rows(query, (wanted, fingerprint))]
        return [s for s in found if self._counts(s)]

    def read(self, fingerprint: str, after: str = "") -> Iterator[Snapshot]:
        """See `Snapshots.read`: by pages, so that no reader keeps the log from being written back."""
        query = (
            "SELECT series_id, sequence, state, checksum FROM snapshots WHERE series_id > ?"
            " AND model = (SELECT model FROM models WHERE fingerprint = ?) ORDER BY series_id LIMIT ?"
        )
        while page := [Snapshot(*row) for row in self._database.rows(query, (after, fingerprint, _PAGE))]:
            yield from (s for s in page if self._counts(s))
            after = page[-1].series_id

    def count(self, fingerprint: str) -> int:
        """See `Snapshots.count`."""
        query = "SELECT count(*) FROM snapshots WHERE model = (SELECT model FROM models WHERE fingerprint = ?)"
        return int(self._database.rows(query, (fingerprint,))[0][0])

    def set_idle(self, snapshots: Sequence[Snapshot]) -> None:
        """See `Snapshots.set_idle`."""
        kept = [s for s in snapshots if self._counts(s)]
        with self._database.transaction() as connection:
            idle = _model(connection, IDLE)
            models = [row[0] for row in connection.execute("SELECT model FROM models WHERE model != ?", (idle,))]
            connection.executemany(_REMOVE_OLDER, [(model, s.series_id, s.sequence) for s in kept for model in models])
            connection.executemany(_SAVE, [_row(idle, s) for s in kept])
            connection.execute(_HIGHEST_OF, (max((s.sequence for s in kept), default=0), idle))

    def end_idle(self, fingerprint: str, snapshots: Sequence[Snapshot], series_ids: Sequence[str]) -> None:
        """See `Snapshots.end_idle`."""
        kept = [s for s in snapshots if self._counts(s)]
        self._before_save()
        with self._database.transaction() as connection:
            idle, returned, model = (_model(connection, name) for name in (IDLE, RETURNED, fingerprint))
            connection.executemany(_SAVE, [_row(model, s) for s in kept])
            connection.execute(_HIGHEST_OF, (max((s.sequence for s in kept), default=0), model))
            under = fingerprint.encode()
            connection.executemany(_REMOVE, [(returned, name) for name in series_ids])
            connection.executemany(_NOTE, [(returned, zlib.crc32(under), under, idle, name) for name in series_ids])
            ((highest,),) = connection.execute("SELECT highest FROM models WHERE model = ?", (idle,))
            connection.execute(_HIGHEST_OF, (highest, returned))
            connection.executemany(_REMOVE, [(idle, name) for name in series_ids])

    def end_amended(self, fingerprint: str, snapshots: Sequence[Snapshot], through: int) -> None:
        """See `Snapshots.end_amended`."""
        kept = [s for s in snapshots if self._counts(s)]
        if not kept:
            return
        self._before_save()
        with self._database.transaction() as connection:
            amended, returned, own = (_model(connection, name) for name in (AMENDED, RETURNED, fingerprint))
            query = "SELECT model FROM models WHERE model NOT IN (?, ?)"
            models = [row[0] for row in connection.execute(query, (amended, own))]
            connection.executemany(_REMOVE_OLDER, [(model, s.series_id, s.sequence) for s in kept for model in models])
            connection.executemany(_SAVE, [_row(own, s) for s in kept])
            under = fingerprint.encode()
            notes = [Snapshot(s.series_id, s.sequence, under, zlib.crc32(under)) for s in kept]
            connection.executemany(_SAVE, [_row(returned, s) for s in notes])
            connection.executemany(_HIGHEST_OF, [(max(s.sequence for s in kept), model) for model in (own, returned)])
            connection.executemany(_REMOVE_OLDER, [(amended, s.series_id, through) for s in kept])

    def settle_returned(self, fingerprint: str) -> None:
        """See `Snapshots.settle_returned`: in short transactions."""
        some = (
            "DELETE FROM snapshots WHERE rowid IN (SELECT rowid FROM snapshots WHERE state != ?"
            " AND model = (SELECT model FROM models WHERE fingerprint = ?) LIMIT ?)"
        )
        removed = _PAGE
        while removed == _PAGE:
            with self._database.transaction() as connection:
                removed = connection.execute(some, (fingerprint.encode(), RETURNED, _PAGE)).rowcount

    def drop(self, fingerprint: str) -> None:
        """See `Snapshots.drop`: at once for readers; its rows go in short transactions."""
        with self._database.transaction() as connection:
            connection.execute("UPDATE models SET fingerprint = NULL WHERE fingerprint = ?", (fingerprint,))
        some = "DELETE FROM snapshots WHERE rowid IN (SELECT rowid FROM snapshots WHERE model = ? LIMIT ?)"
        for (model,) in self._database.rows("SELECT model FROM models WHERE fingerprint IS NULL"):
            removed = _PAGE
            while removed == _PAGE:
                with self._database.transaction() as connection:
                    removed = connection.execute(some, (model, _PAGE)).rowcount
            with self._database.transaction() as connection:
                connection.execute("DELETE FROM models WHERE model = ?", (model,))

    def fingerprints(self) -> list[str]:
        """See `Snapshots.fingerprints`."""
        query = (
            "SELECT fingerprint FROM models AS m WHERE fingerprint NOT IN (?, ?, ?)"
            " AND (complete_through IS NOT NULL OR EXISTS (SELECT 1 FROM snapshots AS s WHERE s.model = m.model))"
            " ORDER BY model"
        )
        return [str(row[0]) for row in self._database.rows(query, (IDLE, RETURNED, AMENDED))]

    def complete(self, fingerprint: str, sequence: int) -> None:
        """See `Snapshots.complete`."""
        with self._database.transaction() as connection:
            model = _model(connection, fingerprint)
            connection.execute("UPDATE models SET complete_through = ? WHERE model = ?", (sequence, model))

    def complete_through(self, fingerprint: str) -> int | None:
        """See `Snapshots.complete_through`."""
        query = "SELECT complete_through FROM models WHERE fingerprint = ?"
        found = self._database.rows(query, (fingerprint,))
        return None if not found or found[0][0] is None else int(found[0][0])

    def activate(self, activation: Activation) -> None:
        """See `Snapshots.activate`: in the journal's file, since nothing else could tell it again."""
        with self._journal.transaction() as connection:
            connection.execute("DELETE FROM active")
            connection.execute("INSERT INTO active VALUES (?, ?)", (activation.version, activation.fingerprint))
        self._journal.sync()
        for folder in self._bundles.iterdir() if self._bundles.is_dir() else ():
            if folder.name != activation.fingerprint:
                shutil.rmtree(folder, ignore_errors=True)

    def keep_bundle(self, fingerprint: str, files: Mapping[str, bytes]) -> None:
        """See `Snapshots.keep_bundle`: in a folder of its own; what a crash cuts short is not a whole one."""
        folder = self._bundles / fingerprint
        try:
            make_folder(folder)
            for name, content in files.items():
                write_durably(folder / name, lambda file, content=content: file.write(content))  # type: ignore[misc]
            sync_folder(folder)
        except OSError as error:
            raise StorageError(f"{folder}: cannot be written: {error.strerror}; check disk space") from error

    def kept_bundle(self, fingerprint: str) -> dict[str, bytes] | None:
        """See `Snapshots.kept_bundle`."""
        folder = self._bundles / fingerprint
        try:
            paths = [path for path in folder.iterdir() if not path.name.endswith(UNFINISHED)]
            return {path.name: path.read_bytes() for path in paths} or None
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"{folder}: cannot be read: {error.strerror}; check permissions") from error

    def active(self) -> Activation | None:
        """See `Snapshots.active`."""
        found = self._journal.rows("SELECT version, fingerprint FROM active")
        return Activation(*found[0]) if found else None

    def sync(self) -> None:
        """See `Snapshots.sync`: and writes the log back, so that no `save` has to."""
        self._database.sync()
        self._database.checkpoint()

    def forget(self, deleted: Mapping[str, int]) -> None:
        """Remove the snapshots of series that are older than their deletion, of all models."""
        older = "DELETE FROM snapshots WHERE model = ? AND series_id = ? AND sequence < ?"
        models = [row[0] for row in self._database.rows("SELECT model FROM models")]
        items = list(deleted.items())
        for start in range(0, len(items), _PAGE):
            with self._database.transaction() as connection:
                rows = [(model, *item) for item in items[start : start + _PAGE] for model in models]
                connection.executemany(older, rows)

    def forget_after(self, sequence: int) -> None:
        """Remove what a journal that ends with record `sequence` cannot have led to: its end was lost."""
        query = (
            "SELECT model, complete_through, fingerprint FROM models WHERE highest > ? OR complete_through > ?"
            " ORDER BY fingerprint IN (?, ?, ?)"
        )
        beside = (IDLE, RETURNED, AMENDED)
        for model, complete, fingerprint in self._database.rows(query, (sequence, sequence, *beside)):
            with self._database.transaction() as connection:
                of_model = "WHERE model = ?"
                gone = connection.execute(f"DELETE FROM snapshots {of_model} AND sequence > ?", (model, sequence))
                # A series without its snapshot needs all of the journal; the others stand at its end at most.
                whole = None if gone.rowcount or complete is None else min(complete, sequence)
                values = (sequence, whole, model)
                connection.execute(f"UPDATE models SET highest = ?, complete_through = ? {of_model}", values)
                if gone.rowcount and fingerprint in beside:  # some model has no snapshot of those either
                    connection.execute("UPDATE models SET complete_through = NULL")

    def highest(self) -> int:
        """Return the last sequence that any of them knows of, 0 if there are none."""
        return int(self._database.rows(HIGHEST)[0][0])

    def complete_all(self, sequence: int) -> None:
        """Note that those that were complete hold all up to a record: nothing before it is left to be replayed."""
        with self._database.transaction() as connection:
            query = "UPDATE models SET complete_through = ? WHERE complete_through IS NOT NULL"
            connection.execute(query, (sequence,))

    def _counts(self, snapshot: Snapshot) -> bool:
        return snapshot.sequence >= self._deleted.get(snapshot.series_id, 0)


def _row(model: int, snapshot: Snapshot) -> tuple[int, str, int, int, bytes]:
    return model, snapshot.series_id, snapshot.sequence, snapshot.checksum, snapshot.state


def _model(connection: sqlite3.Connection, fingerprint: str) -> int:
    """Return what is short for a fingerprint, noted if need be."""
    connection.execute("INSERT INTO models (fingerprint) VALUES (?) ON CONFLICT DO NOTHING", (fingerprint,))
    found = connection.execute("SELECT model FROM models WHERE fingerprint = ?", (fingerprint,)).fetchone()
    return int(found[0])
