"""The statements that append records to the journal in PostgreSQL; knows nothing of sessions."""

import time
from collections.abc import Iterator, Sequence

from forecaster.serving.storage.postgres.erasure import times_us
from forecaster.serving.storage.postgres.fenced_session import Values
from forecaster.serving.storage.records import Attributes, Deletion, Record, encode

_INSERT = """
INSERT INTO forecaster.journal (shard, sequence, committed_us, first_us, last_us, payload)
SELECT %s, sequence, %s, first_us, last_us, payload
FROM unnest(%b::bigint[], %b::bigint[], %b::bigint[], %b::bytea[]) AS one (sequence, first_us, last_us, payload)
"""
_INSERT_ATTRIBUTES = """
INSERT INTO forecaster.attributes (shard, series_id, sequence, payload)
SELECT %s, series_id, %s, payload FROM unnest(%b::text[], %b::bytea[]) AS one (series_id, payload)
"""
_INSERT_ERASURE = "INSERT INTO forecaster.erasures (shard, series_id, sequence) VALUES (%s, %s, %s)"


def appended(shard: str, sequence: int, records: Sequence[Record]) -> Iterator[tuple[str, Values]]:
    """Yield what appends records, the first one with this sequence."""
    sequences = list(range(sequence, sequence + len(records)))
    firsts, lasts = zip(*(times_us(record) for record in records), strict=True)
    payloads = [encode(record) for record in records]
    yield _INSERT, (shard, time.time_ns() // 1000, sequences, list(firsts), list(lasts), payloads)
    for at, record in zip(sequences, records, strict=True):
        if isinstance(record, Deletion):
            yield _INSERT_ERASURE, (shard, record.series_id, at)
        elif isinstance(record, Attributes):
            names = list(record.series_ids)
            yield _INSERT_ATTRIBUTES, (shard, at, names, [encode(record.of([k])) for k in range(len(record))])
