"""The end of a journal in PostgreSQL: the last acknowledged sequence, and whether the tables still reach it.

Knows sequences; knows nothing of records.
"""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from forecaster.config import DurabilityName
from forecaster.serving.storage.journal_end import check_end
from forecaster.serving.storage.postgres.fenced_session import Session, Values

NOTE_REMOVED = "UPDATE forecaster.leases SET removed_through = greatest(removed_through, %s) WHERE shard = %s"
NOTE_DROPPED = "UPDATE forecaster.leases SET dropped_through = greatest(dropped_through, %s) WHERE shard = %s"
COMPLETE = "SELECT coalesce(max(sequence), 0) FROM forecaster.complete_snapshots WHERE shard = %s"
DROPPED = "SELECT dropped_through FROM forecaster.leases WHERE shard = %s"
LAST = """
SELECT greatest(
    (SELECT max(sequence) FROM forecaster.journal WHERE shard = one.shard),
    (SELECT max(sequence) FROM forecaster.history WHERE shard = one.shard), removed_through)
FROM forecaster.leases AS one WHERE shard = %s
"""


@dataclass(slots=True)
class JournalHead:
    """The journal's end, shared by all sessions of the owner.

    Args:
        last: the last acknowledged sequence.
        is_in_doubt: whether there may be records behind it, of an append that raised.
        mutex: held by who appends.
    """

    last: int
    is_in_doubt: bool = False
    mutex: threading.Lock = field(default_factory=threading.Lock)


def read_head(session: Session, *, durability: DurabilityName, accepted_loss: int | None) -> JournalHead:
    """Return the end of what is stored; for a new owner, to whom everything there is acknowledged.

    Raises what `check_end` raises: snapshots were noted as complete after the records that they hold.
    """
    shard = session.shard
    end, known = (int(session.rows(query, (shard,))[0][0]) for query in (LAST, COMPLETE))
    place = f"{session.database.label}: the journal of {shard!r}"
    check_end(place, lambda: end, known, durability=durability, accepted=accepted_loss)
    if known > end:
        reaches_back = end > 0 and int(session.rows(DROPPED, (shard,))[0][0]) == 0
        session.send(*((query, values) for query, values in _settling(shard, end, known, reaches_back=reaches_back)))
    return JournalHead(max(end, known))


def _settling(shard: str, end: int, known: int, *, reaches_back: bool) -> Iterator[tuple[str, Values]]:
    """Yield what lets a journal begin behind all that was acknowledged; see `sqlite_end.settle`."""
    if reaches_back:
        yield "DELETE FROM forecaster.snapshots WHERE shard = %s AND sequence > %s", (shard, end)
        yield "DELETE FROM forecaster.complete_snapshots WHERE shard = %s", (shard,)
    else:
        yield "UPDATE forecaster.complete_snapshots SET sequence = %s WHERE shard = %s", (known, shard)
        yield NOTE_DROPPED, (known, shard)
    yield NOTE_REMOVED, (known, shard)
