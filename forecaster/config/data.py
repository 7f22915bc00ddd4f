"""Where the series are and how to read them."""

from dataclasses import dataclass
from typing import Literal, get_args

from forecaster.config.checks import require, require_types
from forecaster.config.frequency import parse_frequency

Layout = Literal["auto", "long", "wide"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """Where the series are and how to read them.

    Args:
        path: a CSV or Parquet file, or a data set's folder; left out, the bundled New York airport weather.
        layout: long has a row for each series and time; wide, CSV only, has a line for each series, its name first
            and its values after it, oldest first, as in the M4 competition; auto is wide if the columns are called
            V1, V2, V3 and so on. A wide file has no times: its series are taken to end together, and the times are
            made up from 1970 on, so use model.calendar=false with it.
        id_column: names the series.
        time_column: the time stamp; without a zone it is taken as UTC.
        target_column: the value to forecast; empty means missing.
        frequency: the fixed time step, for example 1h, 15m, 1d.
        max_gap_steps: after a longer gap a series starts afresh.
        past_covariates: columns of numbers that are known up to the present; empty means missing.
        future_covariates: columns of numbers that are known for the horizon too.
        static_covariates: columns of numbers that are the same in all rows of a series.
        static_categories: columns of text that are the same in all rows of a series.
        end_column: 1 (or true) in the row in which a series is over, 0 otherwise; for model.end_of_sequence.
    """

    path: str | None = None
    layout: Layout = "auto"
    id_column: str = "unique_id"
    time_column: str = "ds"
    target_column: str = "y"
    frequency: str = "1h"
    max_gap_steps: int = 1000
    past_covariates: tuple[str, ...] = ()
    future_covariates: tuple[str, ...] = ()
    static_covariates: tuple[str, ...] = ()
    static_categories: tuple[str, ...] = ()
    end_column: str | None = None

    def __post_init__(self) -> None:
        require_types(self, "data")
        parse_frequency(self.frequency)
        require(self.max_gap_steps >= 1, "data.max_gap_steps", self.max_gap_steps, "1 or more")
        require(self.layout in get_args(Layout), "data.layout", self.layout, " or ".join(get_args(Layout)))
        columns = (self.id_column, self.time_column, self.target_column)
        require(len(set(columns)) == 3, "data.*_column", columns, "three different column names")
        every = (*columns, *self.beside)
        require(len(set(every)) == len(every), "data.*_covariates", every, "each column once")

    @property
    def covariates(self) -> tuple[str, ...]:
        """The columns of all covariates: past, known-future, static numbers, static categories."""
        return (*self.past_covariates, *self.future_covariates, *self.static_covariates, *self.static_categories)

    @property
    def beside(self) -> tuple[str, ...]:
        """The columns that are read beside the ids, the times and the values: covariates and the end column."""
        return (*self.covariates, *([self.end_column] if self.end_column is not None else []))

    @property
    def step_us(self) -> int:
        """The time step in microseconds."""
        return parse_frequency(self.frequency)
