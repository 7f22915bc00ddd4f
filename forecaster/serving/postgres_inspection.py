"""Whether all that a database holds of a model is what was written. See `forecaster.serving.inspection`."""

from forecaster.serving.inspection import Inspection
from forecaster.serving.postgres_export import PostgresReader
from forecaster.serving.postgres_head import COMPLETE, LAST
from forecaster.serving.records import Snapshot

_RECORDS = """
SELECT sequence, payload FROM forecaster.records WHERE shard = %s AND sequence > %s ORDER BY sequence LIMIT 256
"""
_SNAPSHOTS = """
SELECT fingerprint, series_id, sequence, state, checksum FROM forecaster.snapshots
WHERE shard = %s AND (series_id, fingerprint) > (%s, %s) ORDER BY series_id, fingerprint LIMIT 256
"""


def inspect_database(url: str, model: str) -> Inspection:
    """Look at everything that a database holds of a model; raises what `inspection.inspect` raises."""
    reader = PostgresReader(url, model, "forecaster verify-state")
    try:
        found = Inspection(f"{reader.label}: {reader.model!r}")
        known = int(reader.rows(COMPLETE, (reader.model,))[0][0])  # first: it is noted behind the records
        found.check_end(int(reader.rows(LAST, (reader.model,))[0][0]), known)
        after = 0
        while records := reader.rows(_RECORDS, (reader.model, after)):
            for sequence, payload in records:
                found.check_record(sequence, payload)
            after = int(records[-1][0])
        behind = ("", "")
        while snapshots := reader.rows(_SNAPSHOTS, (reader.model, *behind)):
            for _, *row in snapshots:
                found.check_snapshot(Snapshot(*row))
            behind = (snapshots[-1][1], snapshots[-1][0])
        return found
    finally:
        reader.close()
