"""The paired bootstrap over series against what is known of it."""

import math

import numpy as np
import pytest

from pipelines.backtest.difference import Difference
from tests.unit.pipelines.results import backtest_of


def test_a_steady_improvement_is_sure() -> None:
    champion = list(np.random.default_rng(0).uniform(0.5, 3, 40))
    found = Difference.of(backtest_of([one - 0.1 for one in champion]), backtest_of(champion))
    assert found is not None
    assert (found.mean, found.low, found.high, found.better) == pytest.approx((-0.1, -0.1, -0.1, 1.0))
    assert found.line().startswith("for information: challenger − champion is -0.1000 MASE on average over the series")


def test_the_interval_is_that_of_the_mean_and_holds_zero_where_there_is_only_noise() -> None:
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 0.2, 400)
    noise -= noise.mean()
    found = Difference.of(backtest_of(list(1 + noise)), backtest_of([1.0] * 400))
    assert found is not None
    assert found.low < 0 < found.high
    error = 1.96 * noise.std() / math.sqrt(400)
    assert (found.low, found.high) == pytest.approx((noise.mean() - error, noise.mean() + error), abs=0.2 * error)


def test_series_without_a_score_do_not_count_and_a_few_series_say_nothing() -> None:
    assert Difference.of(backtest_of([0.5] * 4), backtest_of([1.0] * 4)) is None
    assert Difference.of(backtest_of([0.5] * 4 + [math.nan]), backtest_of([1.0] * 5)) is None
    found = Difference.of(backtest_of([0.5] * 5 + [math.nan]), backtest_of([1.0] * 6))
    assert found is not None
    assert found.mean == -0.5
