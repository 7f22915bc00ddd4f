"""The journal and the history in PostgreSQL, read from outside without the lease; see `storage.export`."""

from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl

from forecaster.errors import ConfigError, StorageError

try:
    import psycopg
except ImportError as missing:
    raise ConfigError(
        "ingest.state postgresql://… needs psycopg, which is not installed: pip install 'psycopg[binary]'"
    ) from missing

from forecaster.serving.storage.export import Position, chosen, deletions, without_deleted
from forecaster.serving.storage.history_frames import frame_of
from forecaster.serving.storage.postgres.connection import Database
from forecaster.serving.storage.postgres.head import DROPPED, LAST
from forecaster.serving.storage.records import Attributes, Columns, Record, decode

_WAITING = "SELECT series_id, max(sequence) FROM forecaster.erasures WHERE shard = %s GROUP BY series_id"
# Some megabytes at a time: a query that is left open would hold a transaction for as long as the whole reading takes.
_PART = """
SELECT sequence, committed_us, payload FROM (
    SELECT sequence, committed_us, payload,
           sum(octet_length(payload)) OVER (ORDER BY sequence) - octet_length(payload) AS before
    FROM (SELECT sequence, committed_us, payload FROM forecaster.records
          WHERE shard = %s AND sequence > %s AND sequence <= %s AND first_us <= last_us
          ORDER BY sequence LIMIT 4096) AS one) AS part
WHERE before < 8388608 ORDER BY sequence
"""
_ATTRIBUTES = """
SELECT series_id, payload FROM (
    SELECT DISTINCT ON (series_id) series_id, sequence, payload FROM forecaster.attributes AS one
    WHERE shard = %s AND series_id > %s AND NOT EXISTS (
        SELECT FROM forecaster.erasures AS gone WHERE gone.shard = one.shard AND gone.series_id = one.series_id
        AND gone.sequence > one.sequence)
    ORDER BY series_id, sequence DESC) AS latest
WHERE sequence > %s ORDER BY series_id LIMIT 4096
"""


class PostgresReader:
    """A connection that only reads what a database holds of one model, without the lease.

    Args:
        url: of the database.
        model: the registered model; another one is taken if the database holds only that.
        name: of the connection, for who looks at the database.

    Raises StorageError if the database cannot be read, or holds nothing of the model.
    """

    def __init__(self, url: str, model: str, name: str) -> None:
        self._database = Database(url, synchronous=False)
        try:
            self._connection = self._database.connect(name)
            self._connection.execute("SET default_transaction_read_only = on")
        except psycopg.Error as error:
            raise self._database.failed("opened", error) from error
        self.label = self._database.label
        try:
            there = self.rows("SELECT to_regclass('forecaster.leases') IS NOT NULL", ())[0][0]
            shards = [row[0] for row in self.rows("SELECT shard FROM forecaster.leases", ())] if there else []
            self.model = chosen(model, shards, self.label)
        except BaseException:
            self.close()
            raise

    def rows(self, query: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        """Return a query's rows; raises StorageError."""
        try:
            return self._connection.execute(query, values, binary=True).fetchall()
        except psycopg.Error as error:
            raise self._database.failed("read", error) from error

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class PostgresExport:
    """See `forecaster.serving.storage.export.Export`.

    Args:
        url: of the database.
        model: the registered model; another one is taken if the database holds only that.
    """

    def __init__(self, url: str, model: str) -> None:
        self._reader = PostgresReader(url, model, "forecaster ingest")
        self._model, self._rows = self._reader.model, self._reader.rows
        try:
            # In this order: what was deleted before `through` waits for its erasure, or nothing of it is left.
            self._through = int(self._rows(LAST, (self._model,))[0][0])
            self._deleted = deletions(self._rows(_WAITING, (self._model,)))
        except BaseException:
            self._reader.close()
            raise

    @property
    def model(self) -> str:
        """See `Export.model`."""
        return self._model

    @property
    def through(self) -> int:
        """See `Export.through`."""
        return self._through

    @property
    def dropped(self) -> int:
        """See `Export.dropped`."""
        return int(self._rows(DROPPED, (self._model,))[0][0])

    def continues(self, position: Position) -> bool:
        """See `Export.continues`."""
        query = "SELECT committed_us FROM forecaster.records WHERE shard = %s AND sequence = %s"
        return self._rows(query, (self._model, position.sequence)) == [(position.committed_us,)]

    def frames(self, after: int) -> Iterator[pl.DataFrame]:
        """See `Export.frames`."""
        while part := self._rows(_PART, (self._model, after, self._through)):
            decoded = ((sequence, committed_us, self._decoded(sequence, data)) for sequence, committed_us, data in part)
            observed = [(*at, record) for *at, record in decoded if isinstance(record, Columns)]
            if observed:
                yield without_deleted(frame_of(observed), self._deleted)
            after = int(part[-1][0])

    def attributes(self, after: int) -> Iterator[tuple[str, Mapping[str, float], Mapping[str, str]]]:
        """See `Export.attributes`."""
        behind = ""
        while page := self._rows(_ATTRIBUTES, (self._model, behind, after)):
            for name, payload in page:
                record = self._decoded(0, payload)
                if isinstance(record, Attributes):
                    yield name, record.numbers[0], record.categories[0]
            behind = page[-1][0]

    def close(self) -> None:
        """See `Export.close`."""
        self._reader.close()

    def _decoded(self, sequence: int, payload: bytes) -> Record:
        try:
            return decode(payload)
        except ValueError as error:
            raise StorageError(
                f"{self._reader.label}: record {sequence} of {self._model!r} is corrupted ({error}): "
                "restore the database from a copy"
            ) from error
