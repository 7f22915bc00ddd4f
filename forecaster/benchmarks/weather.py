"""The bundled weather: 18 series, 24 hours ahead from every origin of the last two weeks of 2013."""

import datetime as dt
import pathlib

from forecaster.benchmarks.problem import Problem
from forecaster.config import DataConfig
from forecaster.data.schema import read_frame
from forecaster.data.windows import to_segments
from forecaster.scores import Backtest

HORIZON, SEASON = 24, 24
_SINCE = dt.datetime(2013, 12, 17, tzinfo=dt.UTC)


def load(path: pathlib.Path) -> Problem:
    """Read the bundled file; `path` is not used."""
    config = DataConfig()
    series = to_segments(read_frame(config), config.step_us, config.max_gap_steps)

    def extra(backtest: Backtest) -> dict[str, float]:
        return {"mase_over_seasonal_naive": backtest.mase / backtest.seasonal_naive_mase}

    first_us = int(_SINCE.timestamp() * 1e6)
    last_us = max(int(one.time_us[-1]) for one in series)
    return Problem(series=tuple(series), first_time_us=first_us, last_time_us=last_us, season=SEASON, extra=extra)
