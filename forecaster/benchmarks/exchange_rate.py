"""Exchange rates: eight daily series, 30 working days ahead from every origin of the last fifth.

The files give no times: the working days are taken as consecutive days, five to a week.
"""

import gzip
import pathlib

import numpy as np

from forecaster.benchmarks.problem import Problem, origins_of
from forecaster.data.windows import Series
from forecaster.errors import DataError
from forecaster.evaluation.rolling import mase_unit
from forecaster.evaluation.scores import Backtest

HORIZON, SEASON = 30, 5
_STEP_US = 86_400_000_000
_TEST_SHARE = 5


def load(path: pathlib.Path) -> Problem:
    """Read `exchange_rate.txt.gz` or its unpacked text, or the file of that name in a folder."""
    path = path / "exchange_rate.txt.gz" if path.is_dir() else path
    try:
        text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
        values = np.array([[float(cell) for cell in line.split(",")] for line in text.splitlines() if line]).T
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not the exchange rates' file: {error}") from error
    series = tuple(Series(f"rate-{k}", 0, _STEP_US, row) for k, row in enumerate(values))
    steps = values.shape[1]
    first_us, last_us = (steps - steps // _TEST_SHARE) * _STEP_US, (steps - HORIZON) * _STEP_US

    def extra(backtest: Backtest) -> dict[str, float]:
        naive = _naive_mase(problem)
        return {"naive_mase": naive, "mase_over_naive": backtest.mase / naive}

    problem = Problem(series=series, first_time_us=first_us, last_time_us=last_us, season=SEASON, extra=extra)
    return problem


def _naive_mase(problem: Problem) -> float:
    """Return the MASE of repeating the last value, on the same origins."""
    errors = []
    for one_series in problem.series:
        at = origins_of(problem, one_series)
        came = one_series.values[at[:, None] + np.arange(1, HORIZON + 1)]
        unit = mase_unit(one_series.values[one_series.time_us < problem.first_time_us], problem.season)
        errors.append(float(np.abs(came - one_series.values[at][:, None]).mean()) / unit)
    return float(np.mean(errors))
