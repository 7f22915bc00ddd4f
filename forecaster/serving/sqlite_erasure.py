"""Removes what deleted series left: in journal and history, in the cache, and in what deleting leaves in files.

The deletion's record stays to the end, so that a crash at any moment leaves the series deleted.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from forecaster.serving.history import History
from forecaster.serving.records import Columns, Deletion, Record, encode
from forecaster.serving.sqlite_database import Database
from forecaster.serving.sqlite_schema import decoded, remember_last, times

_PAGE_RECORDS = 64
_FINISHED_AT_ONCE = 1000


class Erasure:
    """One journal's erasing, a part at a time.

    Args:
        database: the journal's file.
        history: what was pruned.
        deleted: for each series that waits the deletion's sequence; shared with journal and snapshots.
        forget: removes the series' snapshots older than their deletion, durably.
        truncate_logs: empties the write-ahead logs, returns whether it could.
    """

    def __init__(
        self,
        database: Database,
        history: History,
        deleted: dict[str, int],
        forget: Callable[[Mapping[str, int]], None],
        truncate_logs: Callable[[], bool],
    ) -> None:
        self._database, self._history, self._deleted = database, history, deleted
        self._forget, self._truncate_logs = forget, truncate_logs
        self._under_way: Iterator[int] | None = None
        self._logs_hold_some = False

    def erase(self) -> int:
        """See `Journal.erase`."""
        done = self._next_part() or self._next_part()  # another series may be waiting behind the last ones
        if not done and self._logs_hold_some:  # else again at the next call: a reader keeps them
            self._logs_hold_some = not self._truncate_logs()
        return done

    def _next_part(self) -> int:
        if self._under_way is None:
            self._under_way = self._parts(dict(self._deleted))
        done = 0
        try:
            done = next(self._under_way, 0)
        finally:
            if not done:
                self._under_way = None
        return done

    def _parts(self, deleted: dict[str, int]) -> Iterator[int]:
        """Erase these series, yielding how much was done since the last time."""
        if not deleted:
            return
        yield from self._in_journal(deleted)
        yield from self._in_history(deleted)
        self._forget(deleted)
        items = list(deleted.items())
        for start in range(0, len(items), _FINISHED_AT_ONCE):
            self._finish(items[start : start + _FINISHED_AT_ONCE])
            self._logs_hold_some = True
            yield len(items[start : start + _FINISHED_AT_ONCE])

    def _in_journal(self, deleted: Mapping[str, int]) -> Iterator[int]:
        query = "SELECT sequence, payload FROM journal WHERE sequence > ? AND sequence < ? ORDER BY sequence LIMIT ?"
        after, before = 0, max(deleted.values())
        while page := self._database.rows(query, (after, before, _PAGE_RECORDS)):
            changed = []
            for sequence, payload in page:
                record = decoded(self._database, sequence, payload)
                rest = _without(record, {name for name in _names(record) if sequence < deleted.get(name, 0)})
                if rest is not record:
                    changed.append((sequence, rest))
            after = page[-1][0]
            if changed:
                self._replace(changed)
                yield len(changed)

    def _replace(self, changed: list[tuple[int, Record | None]]) -> None:
        with self._database.transaction() as connection:
            remember_last(connection)
            for sequence, record in changed:
                if record is None:
                    connection.execute("DELETE FROM journal WHERE sequence = ?", (sequence,))
                    continue
                values = (*times(record), encode(record), sequence)
                connection.execute(
                    "UPDATE journal SET first_us = ?, last_us = ?, payload = ? WHERE sequence = ?", values
                )

    def _in_history(self, deleted: Mapping[str, int]) -> Iterator[int]:
        """Rewrite the files that have some of the series: what is pruned is older than every waiting deletion."""
        seen: set[str] = set()
        while new := [file for file in self._history.files() if file.path.name not in seen]:  # some may be merged
            seen.add(new[0].path.name)
            if self._history.erase(new[0], deleted):
                yield 1

    def _finish(self, items: list[tuple[str, int]]) -> None:
        """Remove the deletions themselves."""
        with self._database.transaction() as connection:
            remember_last(connection)
            connection.executemany("DELETE FROM journal WHERE sequence = ?", [(sequence,) for _, sequence in items])
            wanted = (json.dumps(dict(items)),)
            connection.execute(
                "DELETE FROM erasures WHERE EXISTS (SELECT 1 FROM json_each(?) AS done"
                " WHERE done.key = series_id AND erasures.sequence <= done.value)",
                wanted,
            )
        with self._database.lock:
            for name, sequence in items:
                if self._deleted.get(name) == sequence:
                    del self._deleted[name]


def _names(record: Record) -> tuple[str, ...]:
    return (record.series_id,) if isinstance(record, Deletion) else record.series_ids


def _without(record: Record, gone: set[str]) -> Record | None:
    """Return what is left of a record without some series, the same one if it has none of them, None if nothing."""
    if not gone:
        return record
    if isinstance(record, Deletion):
        return None
    kept = [k for k, name in enumerate(record.series_ids) if name not in gone]
    if not kept:
        return None
    if not isinstance(record, Columns):
        return record.of(kept)
    place = np.full(len(record.series_ids), -1, dtype=np.int32)
    place[kept] = np.arange(len(kept), dtype=np.int32)
    rows = record.rows(place[record.series] >= 0)
    names = tuple(record.series_ids[k] for k in kept)
    return dataclasses.replace(rows, series_ids=names, series=place[rows.series]) if len(rows) else None
