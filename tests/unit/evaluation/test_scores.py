"""Scores of forecasts against their definitions."""

import numpy as np
import pytest
import torch

from forecaster.evaluation.scores import Backtest, Sums, interval_score, mean_of_quantiles, owa

LEVELS = (0.025, 0.25, 0.5, 0.75, 0.975)


def test_the_mean_of_a_uniform_distributions_quantiles_is_its_mean() -> None:
    levels = tuple((k + 1) / 100 for k in range(99))
    quantiles = 3 + 4 * torch.tensor(levels, dtype=torch.float64)
    assert float(mean_of_quantiles(quantiles, levels)) == pytest.approx(5.0, abs=1e-9)
    skewed = torch.tensor([[0.0, 0.0, 0.0, 8.0, 8.0]], dtype=torch.float64)
    edges, ends = (0.0, *LEVELS, 1.0), [0.0, 0.0, 0.0, 0.0, 8.0, 8.0, 8.0]
    assert float(mean_of_quantiles(skewed, LEVELS)[0]) == pytest.approx(np.trapezoid(ends, edges))


@pytest.mark.parametrize(("target", "score"), [(5.0, 10.0), (-1.0, 10.0 + 40.0), (12.5, 10.0 + 100.0)])
def test_the_interval_score_is_width_and_forty_times_the_miss(target: float, score: float) -> None:
    quantiles = torch.tensor([0.0, 3.0, 5.0, 7.0, 10.0], dtype=torch.float64)
    assert float(interval_score(quantiles, torch.tensor(target).double(), LEVELS)) == pytest.approx(score)


def test_levels_that_do_not_reach_give_no_interval_score() -> None:
    assert interval_score(torch.zeros(2, 3), torch.zeros(2), (0.1, 0.5, 0.9)).isnan().all()


def points(forecast: list[float], target: list[float], units: list[float]) -> Backtest:
    """Return the scores of one forecast of one step for each series."""
    sums = Sums.zeros(len(units), 1, 1, torch.device("cpu"))
    y = torch.tensor(target, dtype=torch.float64).reshape(-1, 1, 1)
    sums.add(torch.tensor(forecast, dtype=torch.float64).reshape(-1, 1, 1, 1), y, torch.zeros_like(y), (0.5,))
    return sums.summary([f"s{k}" for k in range(len(units))], torch.tensor(units, dtype=torch.float64), (0.5,))


def test_the_weighted_quantile_loss_is_pooled_and_twice_the_pinball_loss_over_the_size() -> None:
    scored = points([3.0, 90.0], [-1.0, 100.0], [1.0, 1.0])
    assert scored.series[0].wql == pytest.approx(2 * 0.5 * 4 / 1)
    assert scored.series[1].wql == pytest.approx(2 * 0.5 * 10 / 100)
    assert scored.wql == pytest.approx((4 + 10) / (1 + 100))
    assert (scored.mae, scored.rmse) == pytest.approx((7.0, 7.0))


def test_the_overall_weighted_average_is_the_mean_ratio_to_naive2() -> None:
    model, naive2 = points([3.0, 90.0], [1.0, 100.0], [1.0, 5.0]), points([5.0, 80.0], [1.0, 100.0], [1.0, 5.0])
    smape = (200 * 2 / 4 + 200 * 10 / 190) / (200 * 4 / 6 + 200 * 20 / 180)
    assert owa(model, naive2) == pytest.approx((smape + (2 + 2) / (4 + 4)) / 2)
    assert owa(naive2, naive2) == 1.0
    assert np.isnan(owa(model, points([1.0, 100.0], [1.0, 100.0], [1.0, 5.0])))
