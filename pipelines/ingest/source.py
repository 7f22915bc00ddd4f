"""One source of rows, and the check that turns its rows into canonical parts.

Knows nothing of what kinds of sources there are.
"""

import json
from collections.abc import Iterator
from typing import Protocol

import polars as pl

from forecaster.config import DataConfig
from forecaster.data import columns
from forecaster.data.manifest import Mark
from forecaster.data.report import FILE, ROW, Place
from forecaster.data.schema import canonical_rows
from forecaster.errors import DataError
from pipelines.ingest.series_table import SAID


class Source(Protocol):
    """One source of rows.

    Args:
        name: tells it from others, for people and in the manifest.
        mark: what it is now, once all parts are read; empty if it cannot tell whether it has changed.
    """

    name: str
    mark: Mark

    def is_unchanged(self, known: Mark) -> bool:
        """Return whether all of it was read when its mark was this one."""
        ...

    def parts(self, known: Mark) -> Iterator[pl.DataFrame]:
        """Yield what it holds, at least all that came after a mark."""
        ...


def asked_of(config: DataConfig) -> str:
    """Return which columns are read of a source: it is read again if others are wanted."""
    names = [config.id_column, config.time_column, config.target_column, *config.beside]
    return json.dumps([config.frequency, *names])


class Checked:
    """Turns the rows of one source into canonical parts, a batch at a time.

    Args:
        name: of the source.
        unit: of its rows: line or row.
        config: names the columns.
    """

    def __init__(self, name: str, unit: str, config: DataConfig) -> None:
        self._place, self._config, self._name = Place((name,), unit), config, name
        self._columns = [config.id_column, config.time_column, config.target_column, *config.beside]
        self._zoned: tuple[bool, str] | None = None
        self.rows = 0

    def part(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return the canonical frame of rows that have their number in the column `ROW`, some at least.

        A column `SAID` goes along.
        """
        self.rows += len(rows)
        beside = [SAID] if SAID in rows.columns else []
        wanted = rows.select(*self._columns, ROW, *beside).with_columns(pl.lit(0).alias(FILE))
        self._refuse_mixed(wanted)
        return canonical_rows(wanted, self._config, self._place)

    def finish(self) -> None:
        """Raise DataError if there was no row at all."""
        if not self.rows:
            raise DataError(f"{self._name} has no rows below its column names: write one per series and time")

    def _refuse_mixed(self, rows: pl.DataFrame) -> None:
        """Refuse times with an offset in one batch and without in another; `columns.times` does it within one."""
        name = self._config.time_column
        zoned = columns.is_zoned(rows, name)
        if zoned is None:
            return
        place = f"{rows[name][0]}, {self._place.place(0, rows[ROW][0])}"
        if self._zoned is not None and self._zoned[0] != zoned:
            with_zone, without = (place, self._zoned[1]) if zoned else (self._zoned[1], place)
            raise DataError(
                f"{name} mixes times with an offset ({with_zone}) and without ({without}): "
                "give all of them an offset, or none if they are UTC"
            )
        self._zoned = self._zoned or (zoned, place)
