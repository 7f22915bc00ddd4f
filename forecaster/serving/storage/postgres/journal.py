"""The journal in PostgreSQL: a row for each record, what was pruned in a second table of the same form.

An append whose answer was lost leaves its records in doubt. Nothing reads behind the last acknowledged sequence, and
the next append removes what is there; so a StorageError means that nothing was kept, whatever the database knew.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import psycopg

from forecaster.errors import DamagedHistoryError, StorageError
from forecaster.serving.storage.contract import OnDamage
from forecaster.serving.storage.postgres.appending import appended
from forecaster.serving.storage.postgres.attributes import LATEST_ATTRIBUTES, OUTDATE_ATTRIBUTES, PAST_ATTRIBUTES
from forecaster.serving.storage.postgres.erasure import Erasure
from forecaster.serving.storage.postgres.fenced_session import OutcomeUnknownError, Session
from forecaster.serving.storage.postgres.head import DROPPED, LAST, NOTE_DROPPED, NOTE_REMOVED, JournalHead
from forecaster.serving.storage.records import (
    ATTRIBUTES,
    KIND_AT,
    Attributes,
    Columns,
    Deletion,
    Record,
    decode,
    nothing,
    spanning,
)
from forecaster.serving.storage.words import Bools, Dated, Words, look_up

_PART_BYTES = 8 * 2**20
_MOST_ROWS_LOOKED_AT = 4_000_000  # for rows older than the states remember: about a second

_UNDO = (
    "DELETE FROM forecaster.journal WHERE shard = %s AND sequence > %s",
    "DELETE FROM forecaster.attributes WHERE shard = %s AND sequence > %s",
    "DELETE FROM forecaster.erasures WHERE shard = %s AND sequence > %s",
)
# MATERIALIZED: few records of many span a time, which the order and the limit would make the planner forget.
_SPANNING = """
WITH spanning AS MATERIALIZED (
    SELECT sequence, octet_length(payload) AS bytes, first_us, last_us FROM forecaster.records
    WHERE shard = %s AND first_us <= %s AND last_us >= %s)
SELECT sequence, bytes, first_us, last_us FROM spanning WHERE sequence <= %s ORDER BY sequence DESC LIMIT 65536
"""
_AT = """
SELECT sequence, found.payload, found.committed_us FROM unnest(%b::bigint[]) AS wanted (sequence)
CROSS JOIN LATERAL (
    SELECT payload, committed_us FROM forecaster.records AS one
    WHERE shard = %s AND one.sequence = wanted.sequence OFFSET 0) AS found
ORDER BY sequence DESC
"""
# Some megabytes at a time: a query that is left open would hold a transaction, and break with its connection.
_PART = """
SELECT sequence, payload FROM (
    SELECT sequence, payload,
           sum(octet_length(payload)) OVER (ORDER BY sequence) - octet_length(payload) AS before
    FROM (SELECT sequence, payload FROM forecaster.{table} WHERE shard = %s AND sequence > %s AND sequence <= %s
          AND {which} ORDER BY sequence LIMIT 1024) AS one) AS part
WHERE before < 8388608 ORDER BY sequence
"""
# What is deleted is returned, to be inserted: observations, which have a range of times, and static covariates. A
# deletion is not taken.
_PRUNE = f"""
WITH one AS (
    SELECT sequence, sum(octet_length(payload)) OVER (ORDER BY sequence) - octet_length(payload) AS before
    FROM (SELECT sequence, payload FROM forecaster.journal WHERE shard = %(shard)s AND sequence <= %(through)s
          AND committed_us < %(before_us)s ORDER BY sequence LIMIT 1024) AS first),
taken AS (
    DELETE FROM forecaster.journal AS old USING one
    WHERE old.shard = %(shard)s AND old.sequence = one.sequence AND one.before < 16777216 RETURNING old.*),
kept AS (INSERT INTO forecaster.history SELECT * FROM taken
         WHERE %(keep)s AND (first_us <= last_us OR get_byte(payload, {KIND_AT}) = {ATTRIBUTES}))
SELECT count(*), coalesce(max(sequence), 0) FROM taken
"""


class PostgresJournal:
    """See `forecaster.serving.storage.contract.Journal`; the history is the table `forecaster.history`.

    Args:
        session: of the thread that uses it.
        head: shared by all journals of the owner.
    """

    def __init__(self, session: Session, head: JournalHead) -> None:
        self._session, self._head = session, head
        self._erasure = Erasure(session)

    def append(self, *records: Record) -> int:
        """See `Journal.append`."""
        with self._head.mutex:
            if self._head.is_in_doubt:
                self._undo()
            if not records:
                return self._head.last
            last = self._head.last + len(records)
            statements = list(appended(self._session.shard, self._head.last + 1, records))
            self._head.is_in_doubt = True  # whatever ends this append, until its outcome is known
            try:
                self._session.send(*statements)
            except OutcomeUnknownError as error:
                if not self._reaches(last):
                    self._head.is_in_doubt = False
                    raise StorageError(f"{error}; nothing was written") from error
            except StorageError:
                self._head.is_in_doubt = False
                raise
            self._head.last, self._head.is_in_doubt = last, False
            return last

    def last_sequence(self) -> int:
        """See `Journal.last_sequence`."""
        return self._head.last

    def first_sequence(self) -> int:
        """See `Journal.first_sequence`."""
        query = "SELECT min(sequence) FROM forecaster.records WHERE shard = %s AND sequence > %s AND sequence <= %s"
        found = self._session.rows(query, (self._session.shard, self._dropped(), self._head.last))[0][0]
        return self._head.last + 1 if found is None else int(found)

    def dropped(self) -> int:
        """See `Journal.dropped`."""
        return self._dropped()

    def damage(self) -> list[str]:
        """See `Journal.damage`: each record has a checksum of its own, which is looked at when it is read."""
        return []

    def read(
        self,
        after: int,
        *,
        since_us: int | None = None,
        before_us: int | None = None,
        on_damage: OnDamage | None = None,
    ) -> Iterator[tuple[int, Record]]:
        """See `Journal.read`. Raises StorageError if records are dropped that this reader has not seen."""
        if since_us is None and before_us is None:
            return self._read(after, "true", (), on_damage)
        span = (-(2**63) if since_us is None else since_us, 2**63 - 1 if before_us is None else before_us)
        return self._read(after, "(last_us >= %s AND first_us < %s OR first_us > last_us)", span, on_damage)

    def find(self, wanted: Columns, give_way: Callable[[], None] = nothing, whole: Bools | None = None) -> Words:
        """See `Journal.find`."""
        how: dict[str, Any] = {"most_rows": _MOST_ROWS_LOOKED_AT, "give_way": give_way, "whole": whole}
        return look_up(wanted, self._newest_first(wanted), **how)

    def attributes(self, series_ids: Sequence[str], through: int = 2**62) -> Attributes:
        """See `Journal.attributes`."""
        last = self._head.last
        held = self._attributes(LATEST_ATTRIBUTES, (list(series_ids), self._session.shard, min(through, last), last))
        return Attributes(
            tuple(part.series_ids[0] for part in held),
            tuple(part.numbers[0] for part in held),
            tuple(part.categories[0] for part in held),
        )

    def past_attributes(self, series_ids: Sequence[str]) -> list[Attributes]:
        """See `Journal.past_attributes`."""
        last = self._head.last
        return self._attributes(PAST_ATTRIBUTES, (list(series_ids), self._session.shard, last, last))

    def deletions(self) -> list[tuple[int, str]]:
        """See `Journal.deletions`."""
        return self._erasure.deletions(self._head.last)

    def prune(self, through: int, *, committed_before_us: int, keep_history: bool) -> int:
        """See `Journal.prune`; the history is a table too."""
        bound = self._unerased(min(through, self._head.last))
        values = {"through": bound, "before_us": committed_before_us, "keep": keep_history}

        def work(connection: psycopg.Connection) -> int:
            found = connection.execute(_PRUNE, values | {"shard": self._session.shard}).fetchone()
            count, last = found or (0, 0)
            if count and not keep_history:
                (after,) = connection.execute(DROPPED, (self._session.shard,)).fetchone() or (0,)
                bounds = {"shard": self._session.shard, "after": after, "through": last}
                connection.execute(OUTDATE_ATTRIBUTES, bounds)
                connection.execute(NOTE_DROPPED, (last, self._session.shard))
            if count:
                connection.execute(NOTE_REMOVED, (last, self._session.shard))
            return int(count)

        return self._session.write(work)

    def erase(self) -> int:
        """See `Journal.erase`, and `Erasure` for what PostgreSQL can promise."""
        return self._erasure.run(self._head.last)

    def sync(self) -> None:
        """See `Journal.sync`: one commit that is waited for takes all before it to the disk."""
        self._session.send(("SET LOCAL synchronous_commit = on", None))

    def settle(self) -> None:
        """Remove what an append that raised may have left, if the database can be reached; before the lease goes."""
        with self._head.mutex:
            if self._head.is_in_doubt:
                with contextlib.suppress(StorageError):
                    self._undo()

    def _read(
        self, after: int, which: str, values: tuple[int, ...], on_damage: OnDamage | None
    ) -> Iterator[tuple[int, Record]]:
        query = _PART.format(table="records", which=which)
        after, through = max(after, self._dropped()), self._head.last
        while True:
            part = self._session.rows(query, (self._session.shard, after, through, *values))
            if (dropped := self._dropped()) > after:  # asked for last: the part is older
                raise StorageError(f"records {after + 1} to {dropped} were dropped while they were being read")
            if not part:
                return
            for sequence, payload in part:
                try:
                    record = self._decoded(sequence, payload)
                except DamagedHistoryError as error:
                    if on_damage is None or not self._is_pruned(sequence):
                        raise
                    on_damage(error)
                    continue
                yield sequence, record
            after = part[-1][0]

    def _attributes(self, query: str, values: tuple[object, ...]) -> list[Attributes]:
        parts = [decode(payload) for (payload,) in self._session.rows(query, values)]
        return [part for part in parts if isinstance(part, Attributes)]

    def _dropped(self) -> int:
        """Return up to which record there is neither journal nor history that counts."""
        return int(self._session.rows(DROPPED, (self._session.shard,))[0][0])

    def _newest_first(self, wanted: Columns) -> Iterator[Dated]:
        """Yield the records that span the times of some rows, and deletions."""
        times_us = np.unique(wanted.time_us)
        span, through = (int(times_us[-1]), int(times_us[0])), self._head.last
        while page := self._session.rows(_SPANNING, (self._session.shard, *span, through)):
            sequences, sizes, first_us, last_us = np.array(page, dtype=np.int64).T
            held = spanning(times_us, first_us, last_us)
            ends = np.cumsum(sizes[held])
            for part in np.split(sequences[held], np.flatnonzero(np.diff(ends // _PART_BYTES)) + 1):
                for sequence, payload, committed_us in self._session.rows(_AT, (part.tolist(), self._session.shard)):
                    yield int(committed_us), self._decoded(sequence, payload)
            through = page[-1][0] - 1

    def _decoded(self, sequence: int, payload: bytes) -> Record:
        try:
            return decode(payload)
        except ValueError as error:
            raise DamagedHistoryError(
                f"{self._session.database.label}: record {sequence} of {self._session.shard!r} is corrupted "
                f"({error}): restore the database from a copy"
            ) from error

    def _is_pruned(self, sequence: int) -> bool:
        query = "SELECT FROM forecaster.history WHERE shard = %s AND sequence = %s"
        return bool(self._session.rows(query, (self._session.shard, sequence)))

    def _unerased(self, through: int) -> int:
        """Return how far a part of the journal's oldest records goes before one whose series waits for `erase`."""
        waiting = self._erasure.waiting(self._head.last)
        if not waiting:
            return through
        query = _PART.format(table="journal", which="true")
        end = 0
        for sequence, payload in self._session.rows(query, (self._session.shard, 0, through)):
            record = self._decoded(sequence, payload)
            names = (record.series_id,) if isinstance(record, Deletion) else record.series_ids
            if not waiting.isdisjoint(names):
                break
            end = int(sequence)
        return end

    def _reaches(self, sequence: int) -> bool:
        """Whether the append that ends there was kept; what was under way is over when this is known."""

        def work(connection: psycopg.Connection) -> bool:
            found = connection.execute(LAST, (self._session.shard,)).fetchone()
            return found is not None and int(found[0]) >= sequence

        return self._session.write(work)

    def _undo(self) -> None:
        self._session.send(*((query, (self._session.shard, self._head.last)) for query in _UNDO))
        self._head.is_in_doubt = False
