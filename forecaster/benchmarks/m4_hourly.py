"""M4 Hourly: 414 series, one forecast of 48 hours each, from the end of the training part.

The files give no usable times, so that all series are taken to end together. sMAPE, MASE, OWA and MSIS are the
competition's (Makridakis et al. 2020); Naive2 is computed here from the same files.
"""

import pathlib

import polars as pl

from forecaster.benchmarks.problem import Problem, before
from forecaster.config import DataConfig
from forecaster.data.schema import read_frame
from forecaster.data.wide import following
from forecaster.data.windows import to_segments
from forecaster.errors import DataError
from forecaster.evaluation.baseline_scores import score_baselines
from forecaster.evaluation.origins import Origins
from forecaster.evaluation.rolling import mase_units
from forecaster.evaluation.scores import Backtest, owa

HORIZON, SEASON = 48, 24
_STEP_US = 3_600_000_000


def load(path: pathlib.Path) -> Problem:
    """Read `Hourly-train.csv` and `Hourly-test.csv` in the folder `path`."""
    history, actual = (
        read_frame(DataConfig(path=str(path / f"Hourly-{part}.csv"), layout="wide")) for part in ("train", "test")
    )
    steps = actual.group_by("unique_id").len()
    if set(history["unique_id"]) != set(steps["unique_id"]) or (steps["len"] != HORIZON).any():
        raise DataError(f"{path}: the training and the test file do not belong together")
    whole = pl.concat([history, following(actual, history, _STEP_US)])
    series = to_segments(whole, _STEP_US, whole.height)
    start_us = int(series[0].time_us[-HORIZON])
    origins = Origins(first_time_us=start_us, last_time_us=start_us, horizon=HORIZON, season=SEASON)
    naive2 = score_baselines(series, origins, mase_units(before(series, start_us), SEASON))["naive2"]

    def extra(backtest: Backtest) -> dict[str, float]:
        return {"owa": owa(backtest, naive2), "naive2_smape": naive2.smape, "naive2_mase": naive2.mase}

    return Problem(series=tuple(series), first_time_us=start_us, last_time_us=start_us, season=SEASON, extra=extra)
