"""The quantile head, the pinball loss and the interpolation between levels."""

import numpy as np
import pytest
import torch

from forecaster.model.heads import QuantileHead
from forecaster.model.quantiles import interpolate_quantiles, pinball_loss

LEVELS = (0.1, 0.4, 0.5, 0.9)


def test_quantiles_never_cross() -> None:
    head = QuantileHead(5, LEVELS)
    torch.nn.init.normal_(head.linear.weight, std=10.0)
    quantiles = head(100 * torch.randn(1000, 5), torch.zeros(1000))
    assert (quantiles.diff(dim=-1) >= 0).all()


def test_pinball_is_least_at_the_empirical_quantile() -> None:
    sample = torch.randn(2001, dtype=torch.float64)
    levels = torch.tensor([0.2], dtype=torch.float64)
    grid = torch.linspace(-2, 2, 401, dtype=torch.float64)
    losses = torch.stack([pinball_loss(q.reshape(1).expand(len(sample), 1), sample, levels).mean() for q in grid])
    assert float(grid[losses.argmin()]) == pytest.approx(np.quantile(sample.numpy(), 0.2), abs=0.02)


def test_interpolation_is_linear_between_levels_and_exact_on_them() -> None:
    quantiles = torch.tensor([[1.0, 4.0, 5.0, 9.0]], dtype=torch.float64)
    found = interpolate_quantiles(quantiles, LEVELS, (0.1, 0.25, 0.5, 0.7))
    torch.testing.assert_close(found, torch.tensor([[1.0, 2.5, 5.0, 7.0]], dtype=torch.float64))


def test_nothing_is_extrapolated() -> None:
    with pytest.raises(ValueError, match=r"outside the trained range 0\.1 to 0\.9"):
        interpolate_quantiles(torch.zeros(1, 4), LEVELS, (0.95,))
