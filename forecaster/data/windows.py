"""Turn a canonical frame into series on a regular grid, cut where a gap is too long, and split them in time.

This module knows nothing of files, of models or of seasons. It repairs nothing: a missing value is NaN, and
a frame that `report.inspect_frame` would refuse for its times is refused here too.

Shapes: T steps of one series.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from forecaster.errors import DataError


class Attributes(NamedTuple):
    """What is known of a series and never changes.

    Args:
        numbers: static real covariates, NaN where missing.
        categories: static categorical covariates, empty where missing.
    """

    numbers: tuple[float, ...] = ()
    categories: tuple[str, ...] = ()


_NO_ATTRIBUTES = Attributes()


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
    attributes: Attributes = _NO_ATTRIBUTES
    ended: bool = False

    def __len__(self) -> int:
        return len(self.values)

    @property
    def dynamic(self) -> npt.NDArray[np.float64]:
        """The covariates that change, [T, C]."""
        return np.empty((len(self), 0)) if self.covariates is None else self.covariates

    def part(self, start: int, stop: int) -> "Series":
        """Return the steps from `start` up to but not including `stop`; the arrays are views."""
        return Series(
            self.unique_id,
            self.start_us + start * self.step_us,
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
        steps = -((self.start_us - time_us) // self.step_us)  # rounded up: the first step not before
        return min(max(steps, 0), len(self))

    @property
    def time_us(self) -> npt.NDArray[np.int64]:
        """The times of the values in microseconds since the epoch, [T]."""
        return self.start_us + self.step_us * np.arange(len(self.values), dtype=np.int64)


def to_segments(frame: pl.DataFrame, step_us: int, max_gap_steps: int) -> list[Series]:
    """Return every segment of every series, sorted by name and time.

    A run of at most `max_gap_steps` grid points without a row becomes NaN; a longer one cuts the series.
    A row without a value is a row: it is NaN and never cuts. A segment begins and ends with a row.

    Raises:
        DataError: a series repeats a time or leaves its grid, which its first time anchors.
    """
    rows = frame.select("unique_id", us=pl.col("ds").dt.epoch("us"), y=pl.col("y").cast(pl.Float64))
    rows = rows.sort("unique_id", "us")
    if rows.is_empty():
        return []
    us = rows["us"].to_numpy()
    same = (rows["unique_id"] == rows["unique_id"].shift()).fill_null(False).to_numpy()  # as the row before
    since = np.diff(us, prepend=us[0])  # meaningless where not `same`
    _require_grid(rows, same & ((since == 0) | (since % step_us != 0)))

    first = np.flatnonzero(~same | (since // step_us - 1 > max_gap_steps))  # of each segment's rows
    segment = np.repeat(np.arange(len(first)), np.diff(first, append=len(us)))  # of each row
    last = np.append(first[1:], len(us)) - 1
    lengths = (us[last] - us[first]) // step_us + 1
    offsets = np.cumsum(lengths) - lengths
    grid = np.full(int(lengths.sum()), np.nan)
    grid[offsets[segment] + (us - us[first][segment]) // step_us] = rows["y"].fill_null(np.nan).to_numpy()

    names = rows["unique_id"].gather(first).to_list()
    segments = zip(names, us[first].tolist(), np.split(grid, offsets[1:]), strict=True)
    return [Series(name, start_us, step_us, values) for name, start_us, values in segments]


def latest_segments(frame: pl.DataFrame, step_us: int, max_gap_steps: int) -> list[Series]:
    """Return the last segment of every series, sorted by name: what a server's state knows of it."""
    latest = {segment.unique_id: segment for segment in to_segments(frame, step_us, max_gap_steps)}
    return list(latest.values())


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
        name, time_us = rows["unique_id"][at], rows["us"][at]
        time = np.datetime64(time_us, "us")
        raise DataError(
            f"{name} repeats a time or leaves its grid at {time}Z ({int(bad.sum()):,} such rows): "
            "inspect_frame says which they are"
        )
