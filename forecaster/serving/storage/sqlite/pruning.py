"""Compaction of the journal: takes its oldest records out, into the history first where that is kept.

Another connection appends meanwhile: what is read and written to the history holds no lock, and rows go in short
transactions. A crash or a full disk between leaves rows that the history has already; `finish` removes them at the
next start, and before more is pruned.
"""

import time
from collections.abc import Callable, Collection, Iterator

from forecaster.serving.storage.records import Columns, Deletion, Record
from forecaster.serving.storage.sqlite.database import Database
from forecaster.serving.storage.sqlite.history import History
from forecaster.serving.storage.sqlite.schema import decoded, mark, outdate, raise_mark, remember_last

_MOST_ROWS, _MOST_BYTES = 1_000_000, 64 << 20  # of one part
_MOST_RECORDS_GONE, _MOST_BYTES_GONE = 128, 512 << 10  # of one transaction: some milliseconds
_PAUSE_SECONDS = 0.001  # for whoever waits for the lock
_PAGE_RECORDS = 64


class Pruning:
    """One journal's pruning.

    Args:
        database: the journal's file.
        history: where observations go.
        deleted: series that wait for their erasure.
        before_taking: called before records go: the snapshots that stand for them must survive a power cut.
    """

    def __init__(
        self, database: Database, history: History, deleted: Collection[str], before_taking: Callable[[], None]
    ) -> None:
        self._database, self._history, self._deleted = database, history, deleted
        self._before_taking = before_taking

    def prune(self, through: int, committed_before_us: int, *, keep_history: bool) -> int:
        """See `Journal.prune`."""
        self.finish()  # a part that failed half-way must not be written a second time
        part, records = self._oldest(through, committed_before_us, keep_history)
        if not part:
            return 0
        last = part[-1][0]
        if keep_history:
            # Sequences in between were erased, or were none of observations: the files leave no gap.
            self._history.append(mark(self._database, "pruned") + 1, last, records)
        self._take(part, last, dropped=not keep_history)
        return len(part)

    def finish(self) -> None:
        """Remove rows that the history has already, and never give their sequences again."""
        files = self._history.files()
        if not files or files[-1].last <= mark(self._database, "pruned"):
            return
        self._history.repair()  # whatever failed may have left merged files, and names that are not on the disk yet
        last = files[-1].last
        query = "SELECT sequence, length(payload) FROM journal WHERE sequence <= ? ORDER BY sequence"
        self._take(self._database.rows(query, (last,)), last, dropped=False)

    def _oldest(
        self, through: int, committed_before_us: int, keep_history: bool
    ) -> tuple[list[tuple[int, int]], list[tuple[int, int, Columns]]]:
        """Return the next part's records as (sequence, bytes), and what they observed."""
        part: list[tuple[int, int]] = []
        observed: list[tuple[int, int, Columns]] = []
        rows = size = after = 0
        query = (
            "SELECT sequence, committed_us, payload FROM journal WHERE sequence > ? AND sequence <= ?"
            " ORDER BY sequence LIMIT ?"
        )
        while page := self._database.rows(query, (after, through, _PAGE_RECORDS)):
            for sequence, committed_us, payload in page:
                record = decoded(self._database, sequence, payload)
                too_many = rows >= _MOST_ROWS or size >= _MOST_BYTES
                if too_many or committed_us >= committed_before_us or self._waits(record):
                    return part, observed
                part.append((sequence, len(payload)))
                size += len(payload)
                if keep_history and isinstance(record, Columns) and len(record):
                    observed.append((sequence, committed_us, record))
                    rows += len(record)
            after = page[-1][0]
        return part, observed

    def _waits(self, record: Record) -> bool:
        """Return whether a record has to be erased before."""
        if isinstance(record, Deletion):
            return record.series_id in self._deleted
        return any(name in self._deleted for name in record.series_ids) if self._deleted else False

    def _take(self, part: list[tuple[int, int]], last: int, *, dropped: bool) -> None:
        """Remove records in short transactions, the oldest first."""
        self._before_taking()
        after = mark(self._database, "dropped")  # what replaced others up to there has done so
        for through in (*_cuts(part), last):
            with self._database.transaction() as connection:
                remember_last(connection)
                connection.execute("DELETE FROM journal WHERE sequence <= ?", (through,))
                for name in ("last", "pruned", "dropped") if dropped else ("last", "pruned"):
                    raise_mark(connection, name, through)
                if dropped:
                    outdate(connection, after, through)
            after = through
            time.sleep(_PAUSE_SECONDS)


def _cuts(part: list[tuple[int, int]]) -> Iterator[int]:
    """Yield up to which sequences records of about the right number of bytes go at once."""
    records = size = 0
    for sequence, length in part:
        records, size = records + 1, size + length
        if records == _MOST_RECORDS_GONE or size >= _MOST_BYTES_GONE:
            yield sequence
            records = size = 0
