"""Whether all that a database holds of a model is what was written. See `forecaster.serving.storage.inspection`."""

import pathlib
import tempfile

from forecaster.errors import BundleError
from forecaster.model.bundle import Bundle
from forecaster.serving.storage.inspection import Inspection
from forecaster.serving.storage.postgres.export import PostgresReader
from forecaster.serving.storage.postgres.head import COMPLETE, LAST
from forecaster.serving.storage.records import Snapshot

_RECORDS = """
SELECT sequence, payload FROM forecaster.records WHERE shard = %s AND sequence > %s ORDER BY sequence LIMIT 256
"""
_SNAPSHOTS = """
SELECT fingerprint, series_id, sequence, state, checksum FROM forecaster.snapshots
WHERE shard = %s AND (series_id, fingerprint) > (%s, %s) ORDER BY series_id, fingerprint LIMIT 256
"""
_BUNDLE = """
SELECT fingerprint, name, content FROM forecaster.active JOIN forecaster.bundles USING (shard, fingerprint)
WHERE shard = %s
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
        _inspect_bundle(found, reader)
        return found
    finally:
        reader.close()


def _inspect_bundle(found: Inspection, reader: PostgresReader) -> None:
    """Look at the served model as it is kept with its states, if it is."""
    files = reader.rows(_BUNDLE, (reader.model,))  # at once: another one may be activated meanwhile
    if not files:
        return
    found.count("models")
    with tempfile.TemporaryDirectory(prefix="forecaster-") as folder:
        for _, name, content in files:
            pathlib.Path(folder, name).write_bytes(content)
        try:
            whole = Bundle.load(pathlib.Path(folder)).fingerprint == files[0][0]
        except BundleError:  # its message names a file that is gone by then
            whole = False
    if not whole:
        found.wrong.append(f"the kept model {files[0][0][:12]} is not what was kept")
