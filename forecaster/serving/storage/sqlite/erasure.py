"""Removes what deleted series left: in journal and history, in the cache, and in what deleting leaves in files.

The deletion's record stays to the end, so that a crash at any moment leaves the series deleted.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from forecaster.serving.storage.records import encode, surviving
from forecaster.serving.storage.sqlite.database import Database
from forecaster.serving.storage.sqlite.history import History
from forecaster.serving.storage.sqlite.schema import decoded, remember_last, times

# Of one part, whose transaction keeps whoever appends waiting: some milliseconds.
_PAGE_RECORDS, _PAGE_BYTES = 256, 512 << 10
_SERIES_AT_ONCE = 128


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
        items = list(deleted.items())
        some = [items[start : start + _SERIES_AT_ONCE] for start in range(0, len(items), _SERIES_AT_ONCE)]
        for part in some:
            self._forget(dict(part))
            yield len(part)
        for part in some:
            self._finish(part)
            self._logs_hold_some = True
            yield len(part)

    def _in_journal(self, deleted: Mapping[str, int]) -> Iterator[int]:
        """Look through the records before the last deletion, some at a time."""
        query = "SELECT sequence, payload FROM journal WHERE sequence > ? AND sequence <= ? ORDER BY sequence"
        after, before = 0, max(deleted.values())
        while through := self._page_end(after, before):
            changed = []
            for sequence, payload in self._database.rows(query, (after, through)):
                record = decoded(self._database, sequence, payload)
                rest = surviving(record, sequence, deleted)
                if rest is not record:
                    changed.append((sequence, None if rest is None else (*times(rest), encode(rest), sequence)))
            after = through
            if changed:
                self._replace(changed)
            yield max(len(changed), 1)

    def _page_end(self, after: int, before: int) -> int:
        """Return the last record that may be looked at together with those behind `after`, 0 if there is none."""
        between = "SELECT sequence, length(payload) FROM journal WHERE sequence > ? AND sequence < ?"
        through = size = 0
        for sequence, length in self._database.rows(
            f"{between} ORDER BY sequence LIMIT ?", (after, before, _PAGE_RECORDS)
        ):
            size += length
            if through and size > _PAGE_BYTES:
                break
            through = int(sequence)
        return through

    def _replace(self, changed: list[tuple[int, tuple[Any, ...] | None]]) -> None:
        update = "UPDATE journal SET first_us = ?, last_us = ?, payload = ? WHERE sequence = ?"
        with self._database.transaction() as connection:
            remember_last(connection)
            for sequence, values in changed:
                if values is None:
                    connection.execute("DELETE FROM journal WHERE sequence = ?", (sequence,))
                else:
                    connection.execute(update, values)

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
                "DELETE FROM erasures WHERE sequence IN (SELECT one.sequence FROM json_each(?) AS done"
                " CROSS JOIN erasures AS one ON one.series_id = done.key AND one.sequence <= done.value)",
                wanted,
            )
        with self._database.lock:
            for name, sequence in items:
                if self._deleted.get(name) == sequence:
                    del self._deleted[name]
