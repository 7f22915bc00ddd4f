"""The files of a data set, while it is brought up to date: read, sorted, written beside, listed.

Knows nothing of sources, and not how rows are merged.
"""

import datetime as dt
import hashlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from forecaster.data.dataset import read_file
from forecaster.data.manifest import DataFile, Manifest, SeriesFile
from forecaster.durable_files import write_durably
from pipelines.ingest.folder import partition_file, series_file
from pipelines.ingest.merging import digest_of
from pipelines.ingest.series_table import KNOWN, SeriesTable, static_digest

_ROW_GROUP = 131_072


class Partitions:
    """A data set's files.

    Args:
        folder: where they are.
        known: the data set as it is, None for a new one.
        table: of all series.
        values: the columns beside series and time.
        flags: those of them that are flags.
    """

    def __init__(
        self, folder: Path, known: Manifest | None, table: SeriesTable, values: Sequence[str], flags: Collection[str]
    ) -> None:
        self._folder, self._table, self._values, self._flags = folder, table, values, flags
        self._files = {} if known is None else {file.partition: file for file in known.files}
        self._series_file = None if known is None else known.series_file
        self._ranks = table.ranks()

    def files(self) -> Iterator[DataFile]:
        """Yield the files as they are now, by time."""
        yield from (self._files[name] for name in sorted(self._files))

    def with_known(self, name: str, rows: pl.DataFrame) -> pl.DataFrame:
        """Return rows of a partition together with those that it has already, whose order is KNOWN."""
        if name not in self._files:
            return rows
        held = read_file(self._folder / self._files[name].name)
        values = [pl.col(covariate).cast(pl.Float64) for covariate in self._values if covariate in held.columns]
        known = held.select(
            self._table.codes(held["unique_id"]),
            pl.lit(KNOWN, pl.Int64).alias("order"),
            pl.col("ds").to_physical().alias("us"),
            *values,
        )
        return pl.concat([known, rows], how="diagonal")

    def sorted(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return rows by series and time."""
        rank = pl.Series("rank", self._ranks[rows["code"].to_numpy()])
        return rows.with_columns(rank).sort("rank", "us").drop("rank")

    def write(self, name: str, rows: pl.DataFrame) -> None:
        """Write a partition's rows, sorted, unless its file says the same already."""
        ids = self._table.names.gather(rows["code"]).alias("unique_id")
        digest = digest_of(ids, rows["us"], {covariate: rows[covariate] for covariate in self._values})
        if name in self._files and self._files[name].digest == digest:
            return
        flags = [pl.col(covariate).cast(pl.Boolean) for covariate in self._values if covariate in self._flags]
        times = pl.from_epoch(rows["us"], "us").dt.replace_time_zone("UTC").alias("ds")
        frame = pl.DataFrame([ids, times]).hstack(rows.select(self._values).with_columns(flags))
        file = partition_file(name, digest)
        _write(self._folder / file, frame)
        first, last = (_time(rows["us"].min()), _time(rows["us"].max()))
        self._files[name] = DataFile(name=file, partition=name, rows=len(rows), first=first, last=last, digest=digest)

    def write_series(self, table: pl.DataFrame) -> SeriesFile:
        """Write what is known of each series, sorted by name, unless the file says the same already."""
        static = static_digest(table)
        digest = hashlib.blake2b(static.encode(), digest_size=32)
        digest.update(digest_of(table["unique_id"], table["phase_us"].fill_null(-1), {}).encode())
        file = SeriesFile(name=series_file(digest.hexdigest()), digest=static)
        if self._series_file is None or file.name != self._series_file.name:
            _write(self._folder / file.name, table)
        return file


def _write(path: Path, frame: pl.DataFrame) -> None:
    how: dict[str, Any] = {"compression": "zstd", "row_group_size": _ROW_GROUP, "statistics": True}
    write_durably(path, lambda file: frame.write_parquet(file, **how))


def _time(us: Any) -> dt.datetime:
    return dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=us)
