"""Which models may be the champion."""

import math

import pytest

from forecaster.scores import Backtest
from forecaster.training.tracking import verdict


def backtest(mase: float, coverage_80: float) -> Backtest:
    """Return a backtest whose seasonal naive has a MASE of 1."""
    return Backtest(
        series=(),
        mase=mase,
        seasonal_naive_mase=1.0,
        smape=10.0,
        mae=3.0,
        rmse=4.0,
        msis=5.0,
        pinball=0.3,
        wql=0.1,
        coverage={0.5: 0.5, 0.8: coverage_80, 0.9: 0.9, 0.95: 0.95},
        mase_by_horizon=(mase,),
        seasonal_naive_mase_by_horizon=(1.0,),
        calibration={0.5: 0.5},
        origins=100,
    )


@pytest.mark.parametrize("coverage_80", [0.6, 0.8, 0.95])
def test_a_model_that_beats_the_seasonal_naive_with_honest_intervals_may_be_champion(coverage_80: float) -> None:
    assert verdict(backtest(0.99, coverage_80)) == ""


@pytest.mark.parametrize(("coverage_80", "shown"), [(0.0, "few"), (0.59, "few"), (0.96, "many"), (math.nan, "few")])
def test_intervals_that_hold_too_little_or_too_much_are_said(coverage_80: float, shown: str) -> None:
    assert verdict(backtest(0.5, coverage_80)) == f"has 80 % intervals that hold too {shown} of the values"


@pytest.mark.parametrize("mase", [1.0, 1.2, math.nan])
def test_a_model_no_better_than_the_seasonal_naive_is_said(mase: float) -> None:
    assert verdict(backtest(mase, 0.8)) == "does not beat the seasonal naive"
