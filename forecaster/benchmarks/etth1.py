"""ETTh1: seven hourly series of a transformer, 96 hours ahead from every origin of the test part.

The usual protocol (Zhou et al. 2021): 12 months to learn from, 4 to validate on, 4 to test on, months of 30 days;
squared errors in units of each series' standard deviation over the first 12 months. Each series knows which of the
seven it is.
"""

import pathlib

import numpy as np
import polars as pl

from forecaster.benchmarks.problem import Problem
from forecaster.data.windows import Series, StaticCovariates
from forecaster.errors import DataError
from forecaster.evaluation.scores import Backtest

HORIZON, SEASON = 96, 24
_STEP_US = 3_600_000_000
_MONTH = 30 * 24
_TRAINING, _VALIDATION, _TEST = 12 * _MONTH, 4 * _MONTH, 4 * _MONTH


def load(path: pathlib.Path) -> Problem:
    """Read `ETTh1.csv`, or the file of that name in a folder."""
    path = path / "ETTh1.csv" if path.is_dir() else path
    try:
        frame = pl.read_csv(path)
        start_us = int(frame["date"].str.to_datetime("%Y-%m-%d %H:%M:%S").dt.epoch("us")[0])
        columns = [name for name in frame.columns if name != "date"]
        values = frame.select(columns).to_numpy().astype(np.float64).T[:, : _TRAINING + _VALIDATION + _TEST]
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{path} is not ETTh1.csv: {error}") from error
    if values.shape[1] < _TRAINING + _VALIDATION + _TEST:
        raise DataError(f"{path} has {values.shape[1]} hours, {_TRAINING + _VALIDATION + _TEST} are needed")
    series = tuple(
        Series(name, start_us, _STEP_US, row, attributes=StaticCovariates(categories=(name,)))
        for name, row in zip(columns, values, strict=True)
    )
    deviations = {one_series.unique_id: float(one_series.values[:_TRAINING].std()) for one_series in series}

    def extra(backtest: Backtest) -> dict[str, float]:
        scores = backtest.series
        return {
            "mse": float(np.mean([(score.rmse / deviations[score.unique_id]) ** 2 for score in scores])),
            "mae": float(np.mean([score.mae / deviations[score.unique_id] for score in scores])),
        }

    first_us = start_us + (_TRAINING + _VALIDATION) * _STEP_US
    last_us = start_us + (_TRAINING + _VALIDATION + _TEST - HORIZON) * _STEP_US
    return Problem(series=series, first_time_us=first_us, last_time_us=last_us, season=SEASON, extra=extra)
