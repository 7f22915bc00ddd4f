"""Turn a canonical frame into series on a regular grid, cut where a gap is too long, and split them in time.

This module knows nothing of files, of models or of seasons. It repairs nothing: a missing value is NaN, and
a frame that `report.inspect_frame` would refuse for its times is refused here too.

Shapes: B series, T steps of one series, D horizon steps, F known-future covariates.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from forecaster.config import DataConfig
from forecaster.config.values import MAX_MAGNITUDE
from forecaster.data.grid import Grid
from forecaster.errors import DataError

FloatArray = npt.NDArray[np.float64]
_US, _ROW = "__us", "__row"  # columns of our own beside the file's


class StaticCovariates(NamedTuple):
    """What is known of a series and never changes.

    Args:
        numbers: static real covariates, NaN where missing.
        categories: static categorical covariates, empty where missing.
    """

    numbers: tuple[float, ...] = ()
    categories: tuple[str, ...] = ()


_NO_ATTRIBUTES = StaticCovariates()


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """Part of one series without a long gap, on a regular grid.

    Args:
        unique_id: the series' name.
        start_us: the first time, in microseconds since the epoch.
        step_us: the time step in microseconds.
        values: [T] float64, NaN for missing.
        covariates: the past covariates, then the known-future ones, NaN for missing, float64 [T, C]; left out, none.
        attributes: static covariates.
        ended: whether the series is over with its last value, and not only the data.
    """

    unique_id: str
    start_us: int
    step_us: int
    values: npt.NDArray[np.float64]
    covariates: npt.NDArray[np.float64] | None = None
    attributes: StaticCovariates = _NO_ATTRIBUTES
    ended: bool = False

    def __len__(self) -> int:
        return len(self.values)

    @property
    def grid(self) -> Grid:
        """The grid of its times."""
        return Grid(self.step_us)

    @property
    def end_us(self) -> int:
        """The time behind the last step."""
        return int(self.grid.time(self.start_us, len(self)))

    @property
    def dynamic(self) -> npt.NDArray[np.float64]:
        """The covariates that change, [T, C]."""
        return np.empty((len(self), 0)) if self.covariates is None else self.covariates

    def part(self, start: int, stop: int) -> "Series":
        """Return the steps from `start` up to but not including `stop`; the arrays are views."""
        return Series(
            self.unique_id,
            self.grid.time(self.start_us, start),
            self.step_us,
            self.values[start:stop],
            None if self.covariates is None else self.covariates[start:stop],
            self.attributes,
            self.ended and stop >= len(self),
        )

    def before(self, time_us: int) -> "Series":
        """Return the steps before a time."""
        return self.part(0, self.steps_before(time_us))

    def steps_before(self, time_us: int) -> int:
        """Return how many steps lie before a time, 0 to T."""
        return min(max(self.grid.first_from(self.start_us, time_us), 0), len(self))

    @property
    def time_us(self) -> npt.NDArray[np.int64]:
        """The times of the values in microseconds since the epoch, [T]."""
        times: npt.NDArray[np.int64] = self.grid.time(self.start_us, np.arange(len(self), dtype=np.int64))
        return times


def too_large(values: pl.Expr) -> pl.Expr:
    """Return which finite values no server takes."""
    return values.is_finite() & (values.abs() > MAX_MAGNITUDE)


def past(frame: pl.DataFrame, data: DataConfig) -> pl.DataFrame:
    """Return the rows of a canonical frame up to each series' last one that holds a value or says that it is over.

    What lies behind is the known future if the data has known-future covariates; without, every row is of the past.
    """
    return frame.filter(is_past(data)) if data.future_covariates else frame


def is_past(data: DataConfig) -> pl.Expr:
    """Return whether a row is not behind its series' last one that holds a value or says that it is over."""
    known = pl.col("y").is_not_null()
    if data.end_column is not None:
        known |= pl.col(data.end_column)
    last = pl.col("ds").filter(known).max().over("unique_id")
    return (pl.col("ds") <= last).fill_null(False)


def to_segments(frame: pl.DataFrame, step_us: int, max_gap_steps: int, data: DataConfig | None = None) -> list[Series]:
    """Return every segment of every series, sorted by name and time.

    A run of at most `max_gap_steps` grid points without a row becomes NaN; a longer one cuts the series.
    A row without a value is a row: it is NaN and never cuts. A segment begins and ends with a row; rows of the known
    future (see `past`) belong to none.

    Args:
        frame: canonical.
        step_us: the time step.
        max_gap_steps: the longest gap that does not cut.
        data: names the covariates and the end column; left out, there are none.

    Raises:
        DataError: a series repeats a time or leaves its grid, which its first time anchors; a static covariate
            changes within a series; or a series goes on after its end.
    """
    data = data or DataConfig()
    rows = past(frame, data).select("unique_id", "y", *data.beside, pl.col("ds").dt.epoch("us").alias(_US))
    rows = rows.sort("unique_id", _US)
    if rows.is_empty():
        return []
    us, grid = rows[_US].to_numpy(), Grid(step_us)
    same = (rows["unique_id"] == rows["unique_id"].shift()).fill_null(False).to_numpy()  # as the row before
    since = np.diff(us, prepend=us[0])  # meaningless where not `same`
    _require_grid(rows, same & ((since == 0) | ~grid.has(0, since)))

    first = np.flatnonzero(~same | (grid.index(0, since) - 1 > max_gap_steps))  # of each segment's rows
    segment = np.repeat(np.arange(len(first)), np.diff(first, append=len(us)))  # of each row
    last = np.append(first[1:], len(us)) - 1
    lengths = grid.index(us[first], us[last]) + 1
    offsets = np.cumsum(lengths) - lengths
    at = offsets[segment] + grid.index(us[first][segment], us)  # of each row, all grids one behind the other

    def on_grids(*names: str) -> list[FloatArray]:
        grids = np.full((int(lengths.sum()), len(names)), np.nan)
        for k, name in enumerate(names):
            grids[at, k] = rows[name].cast(pl.Float64).fill_null(np.nan).to_numpy()
        return np.split(grids, offsets[1:])

    names, starts = rows["unique_id"].gather(first).to_list(), us[first].tolist()
    values = [grid[:, 0] for grid in on_grids("y")]
    if not data.beside:
        return [Series(name, start, step_us, part) for name, start, part in zip(names, starts, values, strict=True)]
    dynamic = on_grids(*data.past_covariates, *data.future_covariates)
    attributes, over = _attributes(rows, data), _ended(rows, data, last)
    parts = zip(names, starts, values, dynamic, over, strict=True)
    return [Series(name, start, step_us, y, beside, attributes[name], end) for name, start, y, beside, end in parts]


def latest_segments(
    frame: pl.DataFrame, step_us: int, max_gap_steps: int, data: DataConfig | None = None
) -> list[Series]:
    """Return the last segment of every series, sorted by name: what a server's state knows of it."""
    latest = {segment.unique_id: segment for segment in to_segments(frame, step_us, max_gap_steps, data)}
    return list(latest.values())


def known_future(
    frame: pl.DataFrame, series: Sequence[Series], horizon: int, data: DataConfig
) -> npt.NDArray[np.float64]:
    """Return the known-future covariates of the steps that follow each of the series, NaN where there is no row.

    Args:
        frame: canonical.
        series: the last segment of each, out of the same frame.
        horizon: D.
        data: names the columns, F of them.

    Returns:
        Float64 [B, D, F].
    """
    found = np.full((len(series), horizon, len(data.future_covariates)), np.nan)
    if not data.future_covariates or not series:
        return found
    grid = series[0].grid
    known = {
        "unique_id": [one_series.unique_id for one_series in series],
        _US: [int(one_series.time_us[-1]) for one_series in series],
    }
    ends, times = pl.col(_US), pl.col("ds").dt.epoch("us")
    rows = frame.join(pl.DataFrame(known).with_row_index(_ROW), on="unique_id").filter(grid.has(ends, times))
    rows = rows.with_columns((grid.index(ends, times) - 1).alias(_US)).filter(pl.col(_US).is_between(0, horizon - 1))
    values = rows.select(pl.col(name).cast(pl.Float64).fill_null(np.nan) for name in data.future_covariates)
    found[rows[_ROW].to_numpy(), rows[_US].to_numpy()] = values.to_numpy()
    return found


def split_at(series: Sequence[Series], time_us: int) -> tuple[list[Series], list[Series]]:
    """Return the parts before a time and the parts from that time on; a part without steps is left out.

    The values are views of the given ones.
    """
    before, after = [], []
    for whole in series:
        steps = whole.steps_before(time_us)
        if steps > 0:
            before.append(whole.part(0, steps))
        if steps < len(whole):
            after.append(whole.part(steps, len(whole)))
    return before, after


def _require_grid(rows: pl.DataFrame, bad: npt.NDArray[np.bool_]) -> None:
    if bad.any():
        at = int(np.flatnonzero(bad)[0])
        name, time_us = rows["unique_id"][at], rows[_US][at]
        time = np.datetime64(time_us, "us")
        raise DataError(
            f"{name} repeats a time or leaves its grid at {time}Z ({int(bad.sum()):,} such rows): "
            "inspect_frame says which they are"
        )


def _attributes(rows: pl.DataFrame, data: DataConfig) -> dict[str, StaticCovariates]:
    """Return each series' static covariates; every row that holds one has to agree."""
    columns = (*data.static_covariates, *data.static_categories)
    for name in columns:
        odd = (
            rows.group_by("unique_id")
            .agg(pl.col(name).drop_nulls().unique().sort())
            .filter(pl.col(name).list.len() > 1)
        )
        if not odd.is_empty():
            unique_id, several = odd.sort("unique_id").row(0)
            one, other = (repr(value) if isinstance(value, str) else f"{value:g}" for value in several[:2])
            raise DataError(
                f"{unique_id} has {name}={one} and {name}={other} ({odd.height:,} such series): a static covariate is"
                " the same in all rows of a series; a number that changes can be one of data.past_covariates"
            )
    found = rows.group_by("unique_id").agg(pl.col(name).drop_nulls().first() for name in columns)
    split = 1 + len(data.static_covariates)
    return {
        row[0]: StaticCovariates(
            tuple(math.nan if number is None else number for number in row[1:split]),
            tuple(text or "" for text in row[split:]),
        )
        for row in found.iter_rows()
    }


def _ended(rows: pl.DataFrame, data: DataConfig, last: npt.NDArray[np.int64]) -> list[bool]:
    """Return for each segment, whose last rows are given, whether its series is over with it."""
    if data.end_column is None:
        return [False] * len(last)
    over, name = rows[data.end_column], rows["unique_id"]
    early = (over & (name == name.shift(-1)).fill_null(False)).arg_true()
    if len(early):
        at = early[0]
        time = np.datetime64(rows[_US][at], "us")
        raise DataError(
            f"{name[at]} goes on after {time}Z, where {data.end_column} says that it is over ({len(early):,} such"
            " rows): say so in its last row only"
        )
    return over.gather(last).to_list()
