"""Wide files, one line for each series: its name, then its values from the oldest on, then empty cells.

The M4 competition's layout. It has no times: the series of a file are taken to end together, and their steps are
counted from 1970 on. An empty cell between two values is a missing value.

Knows nothing of what a name or a value may be: `schema` checks the rows that this module makes.
"""

from collections.abc import Sequence

import polars as pl

from forecaster.config import DataConfig
from forecaster.data.grid import Grid
from forecaster.data.report import ROW
from forecaster.errors import DataError

_M4_COLUMNS = 3  # so many names tell M4's header


def is_wide(header: Sequence[str], config: DataConfig) -> bool:
    """Return whether a CSV file with these column names is to be read as wide."""
    names = [f"V{k}" for k in range(1, len(header) + 1)]
    return config.layout == "wide" or (
        config.layout == "auto" and len(header) >= _M4_COLUMNS and list(header[:_M4_COLUMNS]) == names[:_M4_COLUMNS]
    )


def to_rows(lines: pl.DataFrame, config: DataConfig, place: str) -> pl.DataFrame:
    """Return a row for each value, in the columns that `config` names, times made up.

    Args:
        lines: of text, the series' name first, and the line's number in the column `ROW`.
        config: says the time step.
        place: the file, for messages.

    Raises:
        DataError: two lines have the same name.
    """
    name, *cells = (column for column in lines.columns if column != ROW)
    again = lines.filter(pl.col(name).is_not_null() & ~pl.col(name).is_first_distinct())
    if again.height:
        raise DataError(f"{place} line {again[ROW][0]} names {again[name][0]!r} again: write one line for each series")
    rows = lines.with_columns(pl.concat_list(pl.col(cells).str.strip_chars().replace("", None)).alias("y")).select(
        ROW, pl.col(name).alias("id"), "y", step=pl.int_ranges(len(cells))
    )
    rows = rows.explode("y", "step")
    known = pl.when(pl.col("y").is_not_null()).then("step")
    rows = rows.with_columns(first=known.min().over(ROW), last=known.max().over(ROW))
    rows = rows.filter(pl.col("step").is_between("first", "last"))
    since_us = Grid(config.step_us).time(0, pl.col("step") + pl.col("last").max() - pl.col("last"))
    return rows.select(
        ROW,
        pl.col("id").alias(config.id_column),
        pl.from_epoch(since_us, "us").alias(config.time_column),
        pl.col("y").alias(config.target_column),
    )


def following(actual: pl.DataFrame, history: pl.DataFrame, step_us: int) -> pl.DataFrame:
    """Return the canonical frame of a wide file with times that follow the last one of another's frame."""
    first = history["ds"].max() + pl.duration(microseconds=step_us)
    return actual.with_columns(ds=first + (pl.col("ds") - pl.col("ds").min().over("unique_id")))
