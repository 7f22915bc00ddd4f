"""M4 Hourly: 414 series, one forecast of 48 hours each, from the end of the training part.

The files give no usable times, so that all series are taken to end together. sMAPE, MASE, OWA and MSIS are the
competition's (Makridakis et al. 2020); Naive2 is computed here from the same files.
"""

import csv
import pathlib

import numpy as np

from forecaster.baselines import naive2
from forecaster.benchmarks.problem import Problem
from forecaster.data.windows import Series
from forecaster.errors import DataError
from forecaster.evaluation import mase_unit
from forecaster.scores import Backtest

HORIZON, SEASON = 48, 24
_STEP_US = 3_600_000_000


def load(path: pathlib.Path) -> Problem:
    """Read `Hourly-train.csv` and `Hourly-test.csv` in the folder `path`."""
    history, actual = (read_wide(path / f"Hourly-{part}.csv") for part in ("train", "test"))
    if history.keys() != actual.keys() or any(len(values) != HORIZON for values in actual.values()):
        raise DataError(f"{path}: the training and the test file do not belong together")
    longest = max(map(len, history.values()))
    series = [
        Series(name, (longest - len(values)) * _STEP_US, _STEP_US, np.concatenate([values, actual[name]]))
        for name, values in history.items()
    ]
    naive2_smape, naive2_mase = _naive2(history, actual)

    def extra(backtest: Backtest) -> dict[str, float]:
        owa = (backtest.smape / naive2_smape + backtest.mase / naive2_mase) / 2
        return {"owa": owa, "naive2_smape": naive2_smape, "naive2_mase": naive2_mase}

    start_us = longest * _STEP_US
    return Problem(series=tuple(series), first_time_us=start_us, last_time_us=start_us, season=SEASON, extra=extra)


def read_wide(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Return the series of a file in M4's layout: an id, then its values, then empty cells."""
    try:
        with path.open(newline="") as stream:
            rows = list(csv.reader(stream))[1:]
        return {row[0]: np.array([float(cell) for cell in row[1:] if cell != ""]) for row in rows}
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{path} is not in M4's layout: {error}") from error


def _naive2(history: dict[str, np.ndarray], actual: dict[str, np.ndarray]) -> tuple[float, float]:
    """Return Naive2's mean sMAPE and MASE."""
    smape, mase = [], []
    for name, values in history.items():
        forecast, came = naive2(values, HORIZON, SEASON), actual[name]
        smape.append(float((200 * np.abs(came - forecast) / (np.abs(came) + np.abs(forecast))).mean()))
        mase.append(float(np.abs(came - forecast).mean()) / mase_unit(values, SEASON))
    return float(np.mean(smape)), float(np.mean(mase))
