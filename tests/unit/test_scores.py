"""Scores of forecasts against their definitions."""

import numpy as np
import pytest
import torch

from forecaster.scores import interval_score, mean_of_quantiles

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
