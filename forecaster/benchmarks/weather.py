"""The bundled weather: 18 series, 24 hours ahead from every origin of the last two weeks of 2013.

Every series knows its station and its variable, and what all 18 series are at the present hour.
"""

import datetime as dt
import pathlib

import numpy as np

from forecaster.benchmarks.problem import Problem
from forecaster.config import DataConfig
from forecaster.data.schema import read_frame
from forecaster.data.windows import Series, StaticCovariates, to_segments
from forecaster.evaluation.scores import Backtest

HORIZON, SEASON = 24, 24
_SINCE = dt.datetime(2013, 12, 17, tzinfo=dt.UTC)


def load(path: pathlib.Path) -> Problem:
    """Read the bundled file; `path` is not used."""
    config = DataConfig()
    series = beside_all(to_segments(read_frame(config), config.step_us, config.max_gap_steps))

    def extra(backtest: Backtest) -> dict[str, float]:
        return {"mase_over_seasonal_naive": backtest.mase / backtest.seasonal_naive_mase}

    first_us = int(_SINCE.timestamp() * 1e6)
    last_us = max(int(one_series.time_us[-1]) for one_series in series)
    return Problem(series=tuple(series), first_time_us=first_us, last_time_us=last_us, season=SEASON, extra=extra)


def beside_all(series: list[Series]) -> list[Series]:
    """Return the series, named `station/variable`, with all of them as past covariates, in their order."""
    grid = series[0].grid
    start_us = min(one_series.start_us for one_series in series)
    steps = grid.index(start_us, max(one_series.end_us for one_series in series))
    names = sorted({one_series.unique_id for one_series in series})
    whole = np.full((steps, len(names)), np.nan)
    for one_series in series:
        first = grid.index(start_us, one_series.start_us)
        whole[first : first + len(one_series), names.index(one_series.unique_id)] = one_series.values
    found = []
    for one_series in series:
        first = grid.index(start_us, one_series.start_us)
        station, variable = one_series.unique_id.split("/")
        attributes = StaticCovariates(categories=(station, variable))
        beside = whole[first : first + len(one_series)]
        found.append(
            Series(
                one_series.unique_id,
                one_series.start_us,
                one_series.step_us,
                one_series.values,
                beside,
                attributes,
                one_series.ended,
            )
        )
    return found
