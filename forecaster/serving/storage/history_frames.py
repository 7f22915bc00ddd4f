"""Records as the columns of a history file, and the other way round.

Knows nothing of files.

Shapes: N rows, C covariates.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from forecaster.serving.storage.records import Columns

_TIME = pl.Datetime("us", "UTC")
AMENDS = "amends"  # whether a row is late or corrected; files in which none is have no such column
_FIXED = ("sequence", "committed_time", "unique_id", "ds", "y", AMENDS)
_PREFIX = "covariate:"  # of the column of a covariate that has one of these names


def frame_of(records: Sequence[tuple[int, int, Columns]]) -> pl.DataFrame:
    """Return records (sequence, time of the commit in microseconds, rows) as the columns of a file."""
    counts = [len(columns) for *_, columns in records]
    index: dict[str, int] = {}
    codes = [
        np.array([index.setdefault(name, len(index)) for name in columns.series_ids], dtype=np.int64)[columns.series]
        for *_, columns in records
    ]
    repeated = np.repeat(np.array([record[:2] for record in records], dtype=np.int64).reshape(-1, 2), counts, axis=0)
    none = np.zeros(0, dtype=np.int64)
    series: dict[str, pl.Series] = {
        "sequence": pl.Series(repeated[:, 0], dtype=pl.Int64),
        "committed_time": pl.Series(repeated[:, 1], dtype=pl.Int64).cast(_TIME),
        "unique_id": pl.Series(list(index), dtype=pl.String).gather(np.concatenate([none, *codes])),
        "ds": pl.Series(np.concatenate([none, *(c.time_us for *_, c in records)]), dtype=pl.Int64).cast(_TIME),
        "y": _floats([columns.values for *_, columns in records]),
    }
    for name in dict.fromkeys(name for *_, columns in records for name in columns.covariate_names):
        series[column_of(name)] = _floats([_covariate(columns, name) for *_, columns in records])
    if any(columns.amends for *_, columns in records):
        series[AMENDS] = pl.Series(np.repeat(np.array([columns.amends for *_, columns in records]), counts))
    return pl.DataFrame(series)


def records_in(frame: pl.DataFrame) -> Iterator[tuple[int, Columns]]:
    """Yield the records of a file's columns with their sequences: what is missing of covariates is NaN."""
    sequences = frame["sequence"].to_numpy()
    names, codes = _coded(frame)
    beside = [column for column in frame.columns if column not in _FIXED]
    time_us, values = frame["ds"].to_physical().to_numpy(), frame["y"].to_numpy()
    covariates = frame.select(beside).cast(pl.Float64).to_numpy() if beside else None
    is_told = frame.schema.get(AMENDS) == pl.Boolean  # once it may have been a covariate's name
    amends = frame[AMENDS].fill_null(value=False).to_list() if is_told else None
    starts = np.flatnonzero(np.diff(sequences, prepend=-1)).tolist()
    for start, end in zip(starts, [*starts[1:], len(sequences)], strict=False):
        used, series = np.unique(codes[start:end], return_inverse=True)
        record = Columns(
            tuple(names[k] for k in used.tolist()),
            series.astype(np.int32),
            time_us[start:end],
            values[start:end],
            tuple(column.removeprefix(_PREFIX) for column in beside),
            None if covariates is None else covariates[start:end],
            amends=amends is not None and amends[start],
        )
        yield int(sequences[start]), record


def rows_in(frame: pl.DataFrame) -> tuple[npt.NDArray[np.int64], Columns]:
    """Return when each row was committed, microseconds, int64 [N], and the rows of several records as those of one."""
    names, codes = _coded(frame)
    beside = [column for column in frame.columns if column not in _FIXED]
    columns = Columns(
        tuple(names),
        codes.astype(np.int32),
        frame["ds"].to_physical().to_numpy(),
        frame["y"].to_numpy(),
        tuple(column.removeprefix(_PREFIX) for column in beside),
        frame.select(beside).cast(pl.Float64).to_numpy() if beside else None,
    )
    return frame["committed_time"].to_physical().to_numpy(), columns


def column_of(name: str) -> str:
    """Return what the column of a covariate is called."""
    return _PREFIX + name if name in _FIXED or name.startswith(_PREFIX) else name


def _coded(frame: pl.DataFrame) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Return the series by their first appearance, and for each row its position among them."""
    names = frame["unique_id"].unique(maintain_order=True)
    codes = frame["unique_id"].cast(pl.Enum(names)).to_physical().to_numpy().astype(np.int64)
    return names.to_list(), codes


def _covariate(columns: Columns, name: str) -> npt.NDArray[np.float64]:
    if columns.covariates is None or name not in columns.covariate_names:
        return np.full(len(columns), np.nan)
    return columns.covariates[:, columns.covariate_names.index(name)]


def _floats(parts: Sequence[npt.NDArray[np.float64]]) -> pl.Series:
    """Return them as one series, null where they are NaN."""
    return pl.Series(np.concatenate([np.zeros(0), *parts]), dtype=pl.Float64, nan_to_null=True)
