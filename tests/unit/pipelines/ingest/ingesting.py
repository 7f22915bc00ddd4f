"""What the tests of ingesting share: rows in short, a data set of the test's own, what is in it."""

import datetime as dt
from pathlib import Path
from typing import Any

import polars as pl

from forecaster.config import Config, DataConfig, IngestConfig, ModelConfig
from forecaster.data.schema import read_frame
from pipelines.ingest.step import IngestResult, ingest

Row = tuple[Any, ...]
START = dt.datetime(2013, 1, 30, tzinfo=dt.UTC)


def time(hour: int) -> dt.datetime:
    """Return an hour from two days before the end of a month on."""
    return START + dt.timedelta(hours=hour)


def frame(rows: list[Row], *beside: str) -> pl.DataFrame:
    """Return rows of (series, hour, value, covariates) as a frame."""
    types = {"unique_id": pl.String, "ds": pl.Datetime("us", "UTC"), "y": pl.Float64}
    told = [(name, time(hour), *values) for name, hour, *values in rows]
    return pl.DataFrame(told, schema=types | dict.fromkeys(beside, pl.Float64), orient="row")


class DataSet:
    """A data set in a folder of the test's own.

    Args:
        folder: for the data set and its sources.
        data: of the data section.
        ingest: of the ingest section.
    """

    def __init__(self, folder: Path, data: dict[str, Any] | None = None, **ingest: Any) -> None:
        self.folder, self.output = folder, folder / "dataset"
        folder.mkdir(exist_ok=True)
        self._data, self._ingest = data or {}, ingest
        self._made = 0

    def config(self, *sources: str, **changed: Any) -> Config:
        """Return the configuration that makes it of some sources."""
        settings = {"output": str(self.output), "sources": sources} | self._ingest | changed
        data = DataConfig(**self._data)
        model = ModelConfig(end_of_sequence=data.end_column is not None)
        return Config(data=data, model=model, ingest=IngestConfig(**settings))

    def write(self, rows: pl.DataFrame, name: str | None = None) -> str:
        """Write a source and return its path."""
        self._made += 1
        path = self.folder / (name or f"source-{self._made:03d}.parquet")
        rows.write_csv(path) if path.suffix == ".csv" else rows.write_parquet(path)
        return str(path)

    def take(self, *frames: pl.DataFrame, **changed: Any) -> IngestResult:
        """Ingest frames, a file each."""
        return ingest(self.config(*(self.write(rows) for rows in frames), **changed))

    def frame(self) -> pl.DataFrame:
        """Return what is in it, as training reads it."""
        return read_frame(DataConfig(**self._data | {"path": str(self.output)}))

    def rows(self) -> list[Row]:
        """Return what is in it as rows of (series, hour, value, covariates)."""
        hour = (pl.col("ds") - START).dt.total_hours()
        return self.frame().with_columns(hour.alias("ds")).rows()

    def names(self) -> set[str]:
        """Return the names of all files in its folder."""
        return {path.name for path in self.output.iterdir()}
