"""The journal in a SQLite file, one row for each committed micro-batch, with the Parquet history before it.

It knows series ids, times and values; it does not know models.
"""

import contextlib
import functools
import heapq
import itertools
import json
import operator
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from forecaster.errors import DamagedHistoryError, StorageError
from forecaster.serving.storage.contract import OnDamage
from forecaster.serving.storage.issued import Issued
from forecaster.serving.storage.records import Attributes, Columns, Deletion, Record, encode, nothing, spanning
from forecaster.serving.storage.sqlite.database import Database
from forecaster.serving.storage.sqlite.erasure import Erasure
from forecaster.serving.storage.sqlite.high_water_mark import HighWaterMark
from forecaster.serving.storage.sqlite.history import History
from forecaster.serving.storage.sqlite.history_reader import HistoryFile
from forecaster.serving.storage.sqlite.pruning import Pruning
from forecaster.serving.storage.sqlite.schema import ALWAYS, LAST_SEQUENCE, decoded, mark, note, times
from forecaster.serving.storage.words import Bools, Dated, Words, look_up

_MOST_ROWS_LOOKED_AT = 4_000_000  # for rows older than the states remember: about a second
_FEW_RECORDS = 8
_ROWS = (Columns, Issued)  # which leave nothing beside themselves
_PAGE_ATTRIBUTES = 4096
_DELETIONS = "SELECT sequence, series_id FROM erasures ORDER BY sequence"
_SEQUENCE = operator.itemgetter(0)
_PAGE_RECORDS, _PAGE_RANGES = 64, 4096  # of one query, so that no reader keeps the log from being written back


class SqliteJournal:
    """See `Journal`.

    Args:
        database: the file, with its schema.
        history: what was pruned.
        deleted: for each deleted series that waits for its erasure the deletion's sequence; shared with the snapshots.
        forget: removes the snapshots of deleted series; what it cannot do, `erase` does.
        pruning: takes the oldest records out.
        erasure: removes what deleted series left.
        high_water: raised to what is as durable as promised.
    """

    def __init__(
        self,
        database: Database,
        history: History,
        deleted: dict[str, int],
        forget: Callable[[Mapping[str, int]], None],
        pruning: Pruning,
        erasure: Erasure,
        high_water: HighWaterMark,
    ) -> None:
        self._database, self._history, self._deleted, self._forget = database, history, deleted, forget
        self._pruning, self._erasure, self._high_water = pruning, erasure, high_water

    def append(self, *records: Record) -> int:
        """See `Journal.append`."""
        now_us = time.time_ns() // 1000
        rows = [(now_us, *times(record), encode(record)) for record in records]
        if len(rows) <= _FEW_RECORDS and all(isinstance(record, _ROWS) for record in records):
            values = [value for k, row in enumerate(rows, start=1) for value in (k, *row)]
            return self._reached(max(int(row[0]) for row in self._database.commit(_appending(len(rows)), values)))
        deleted: dict[str, int] = {}
        with self._database.transaction() as connection:
            sequence = int(connection.execute(LAST_SEQUENCE).fetchone()[0])
            for record, row in zip(records, rows, strict=True):
                sequence += 1
                connection.execute("INSERT INTO journal VALUES (?, ?, ?, ?, ?)", (sequence, *row))
                note(connection, sequence, record)
                if isinstance(record, Deletion):
                    deleted[record.series_id] = sequence
        if deleted:
            with self._database.lock:
                self._deleted.update(deleted)  # from here on no older snapshot counts
            self._forget(deleted)
        return self._reached(sequence)

    def last_sequence(self) -> int:
        """See `Journal.last_sequence`."""
        return int(self._database.rows(LAST_SEQUENCE)[0][0])

    def first_sequence(self) -> int:
        """See `Journal.first_sequence`."""
        dropped = mark(self._database, "dropped")
        kept = [file.first for file in self._history.files() if file.first > dropped]
        return kept[0] if kept else mark(self._database, "pruned") + 1

    def dropped(self) -> int:
        """See `Journal.dropped`."""
        return mark(self._database, "dropped")

    def damage(self) -> list[str]:
        """See `Journal.damage`."""
        found = []
        for file in self._history.files():
            with contextlib.suppress(FileNotFoundError):  # merged into a larger one meanwhile
                found.append(self._history.damage(file))
        return [wrong for wrong in found if wrong]

    def read(
        self,
        after: int,
        *,
        since_us: int | None = None,
        before_us: int | None = None,
        on_damage: OnDamage | None = None,
    ) -> Iterator[tuple[int, Record]]:
        """See `Journal.read`. Records may be pruned meanwhile: they are in the history before they leave.

        Raises StorageError if they leave without, and this reader has not seen them.
        """
        after = max(after, mark(self._database, "dropped"))
        query = (
            "SELECT sequence, payload FROM journal WHERE sequence > ?"
            " AND (last_us >= ? AND first_us < ? OR first_us > last_us) ORDER BY sequence LIMIT ?"
        )
        since, before = (ALWAYS[0] if since_us is None else since_us), (ALWAYS[1] if before_us is None else before_us)
        while True:
            page = self._database.rows(query, (after, since, before, _PAGE_RECORDS))
            pruned = next((file for file in self._history.files() if file.last > after), None)
            if pruned is not None:
                with contextlib.suppress(FileNotFoundError):  # merged into a larger one meanwhile
                    given: Iterator[tuple[int, Record]] = self._pruned_attributes(after, pruned.last)
                    yield from heapq.merge(
                        self._observed(pruned, after, (since, before), on_damage), given, key=_SEQUENCE
                    )
                    after = pruned.last
                continue
            if (dropped := mark(self._database, "dropped")) > after:  # asked for last: the page is older
                raise StorageError(f"records {after + 1} to {dropped} were dropped while they were being read")
            if not page:
                return
            yield from ((int(sequence), decoded(self._database, sequence, payload)) for sequence, payload in page)
            after = int(page[-1][0])

    def find(self, wanted: Columns, give_way: Callable[[], None] = nothing, whole: Bools | None = None) -> Words:
        """See `Journal.find`."""
        how: dict[str, Any] = {"give_way": give_way, "whole": whole}
        words = look_up(wanted, self._newest_first(wanted), most_rows=_MOST_ROWS_LOOKED_AT, **how)
        # A deletion stays in the journal until the history holds nothing of its series.
        kept = np.array([name not in self._deleted for name in wanted.series_ids], dtype=bool)
        older = np.flatnonzero(~words.said & words.is_whole & kept[wanted.series])
        if len(older):
            missing = wanted.rows(older)
            newest_first = self._history.newest_first(missing)
            how["whole"] = None if whole is None else whole[older]
            words.put(older, look_up(missing, newest_first, most_rows=2**63, **how))
        return words

    def attributes(self, series_ids: Sequence[str], through: int = 2**62) -> Attributes:
        """See `Journal.attributes`."""
        query = (
            "SELECT one.series_id, one.named FROM json_each(?) AS wanted CROSS JOIN attributes AS one"
            " ON one.series_id = wanted.value AND one.sequence ="
            " (SELECT max(sequence) FROM attributes WHERE series_id = wanted.value AND sequence <= ?)"
        )
        wanted = json.dumps(list(dict.fromkeys(series_ids)))
        return _attributes(self._database.rows(query, (wanted, through)))

    def past_attributes(self, series_ids: Sequence[str]) -> list[Attributes]:
        """See `Journal.past_attributes`."""
        query = (
            "SELECT one.series_id, one.named FROM json_each(?) AS wanted CROSS JOIN attributes AS one"
            " ON one.series_id = wanted.value ORDER BY one.sequence"
        )
        wanted = json.dumps(list(dict.fromkeys(series_ids)))
        return [_attributes([row]) for row in self._database.rows(query, (wanted,))]

    def deletions(self) -> list[tuple[int, str]]:
        """See `Journal.deletions`."""
        return [(int(row[0]), str(row[1])) for row in self._database.rows(_DELETIONS)]

    def prune(self, through: int, *, committed_before_us: int, keep_history: bool) -> int:
        """See `Journal.prune`."""
        return self._pruning.prune(through, committed_before_us, keep_history=keep_history)

    def erase(self) -> int:
        """See `Journal.erase`."""
        return self._erasure.erase() or self._history.erase_owed()

    def sync(self) -> None:
        """See `Journal.sync`."""
        last = self.last_sequence()
        self._database.sync()
        self._high_water.reach(last)
        if self._database.is_synced:  # else it is called every second, and the system writes the mark back soon enough
            self._high_water.sync()

    def _reached(self, sequence: int) -> int:
        """Return a sequence; under `commit` what ends there is on the disk, and from here on it must not be missing."""
        if self._database.is_synced:
            self._high_water.reach(sequence)
        return sequence

    def _pruned_attributes(self, after: int, last: int) -> Iterator[tuple[int, Attributes]]:
        """Yield what the records up to one that is in the history gave of static covariates, in order."""
        query = (
            "SELECT sequence, series_id, named FROM attributes WHERE (sequence, series_id) > (?, ?) AND sequence <= ?"
            " ORDER BY sequence, series_id LIMIT ?"
        )
        behind: tuple[int, str] = (after + 1, "")
        while page := self._database.rows(query, (*behind, last, _PAGE_ATTRIBUTES)):
            for sequence, rows in itertools.groupby(page, operator.itemgetter(0)):
                yield int(sequence), _attributes([row[1:] for row in rows])
            behind = page[-1][:2]

    def _observed(
        self, file: HistoryFile, after: int, span_us: tuple[int, int], on_damage: OnDamage | None
    ) -> Iterator[tuple[int, Record]]:
        """Yield what the records of a file observed, if some of it is in the span.

        Raises what `History.read` raises, unless `on_damage` is told.
        """
        try:
            bounds = self._history.bounds(file)
            if bounds.last_us >= span_us[0] and bounds.first_us < span_us[1]:
                yield from self._history.read(file, after)
        except DamagedHistoryError as error:  # before the first one
            if on_damage is None:
                raise
            on_damage(error)

    def _newest_first(self, wanted: Columns) -> Iterator[Dated]:
        """Yield the records that may hold one of some rows, and deletions: only of those the payload is read."""
        query = (
            "SELECT sequence, first_us, last_us FROM journal WHERE sequence < ? AND first_us <= ? AND last_us >= ?"
            " ORDER BY sequence DESC LIMIT ?"
        )
        times_us = np.unique(wanted.time_us)
        before, spanned = ALWAYS[1], (int(times_us[-1]), int(times_us[0]))
        while page := self._database.rows(query, (before, *spanned, _PAGE_RANGES)):
            sequences, first_us, last_us = np.array(page, dtype=np.int64).T
            held = sequences[spanning(times_us, first_us, last_us)]
            for start in range(0, len(held), _PAGE_RECORDS):
                yield from self._at(held[start : start + _PAGE_RECORDS].tolist())
            before = int(page[-1][0])

    def _at(self, sequences: Sequence[int]) -> Iterator[Dated]:
        """Yield those of some records that are still there, the newest first."""
        marks = ", ".join("?" * len(sequences))
        query = (
            f"SELECT committed_us, sequence, payload FROM journal WHERE sequence IN ({marks}) ORDER BY sequence DESC"
        )
        for committed_us, *row in self._database.rows(query, sequences):
            yield int(committed_us), decoded(self._database, *row)


@functools.cache
def _appending(count: int) -> str:
    """Return the statement that appends so many records and returns their sequences."""
    return (
        f"INSERT INTO journal SELECT ({LAST_SEQUENCE}) + column1, column2, column3, column4, column5"
        f" FROM (VALUES {', '.join(['(?, ?, ?, ?, ?)'] * count)}) RETURNING sequence"
    )


def _attributes(rows: Sequence[tuple[str, str]]) -> Attributes:
    found = [(name, *json.loads(named)) for name, named in rows]
    return Attributes(*(tuple(one[k] for one in found) for k in range(3)))
