"""The heads as distributions, against scipy's; the pinball loss and the interpolation between levels."""

import numpy as np
import pytest
import scipy.stats
import torch

from forecaster.model.heads.discrete_heads import CategoricalHead, NegativeBinomialHead
from forecaster.model.heads.heads import Frame, GaussianHead, Head, QuantileHead, StudentTHead
from forecaster.model.heads.quantiles import interpolate_quantiles, pinball_loss

LEVELS = (0.1, 0.4, 0.5, 0.9)
N, D = 7, 5


def frame(level: float = 40.0, unit: float = 2.0, scale: float = 5.0) -> Frame:
    ones = torch.ones(N, 1, dtype=torch.float64)
    return Frame(level * ones, unit * ones, scale * ones)


def drawn(head: torch.nn.Module) -> torch.Tensor:
    """Return the head's parameters of drawn hidden vectors, [N, D, A]."""
    torch.manual_seed(0)
    for parameter in head.parameters():
        parameter.data += 0.5 * torch.randn_like(parameter)
    with torch.inference_mode():
        parameters: torch.Tensor = head(torch.randn(N, D, 6), torch.randn(N, D))
    return parameters.clone()


def scipys(head: Head, parameters: torch.Tensor, where: Frame):  # type: ignore[no-untyped-def]
    """Return scipy's frozen distribution of the values in units (of counts: in the series' own)."""
    p = parameters.double().numpy()
    if isinstance(head, GaussianHead):
        return scipy.stats.norm(p[..., 0], p[..., 1])
    if isinstance(head, StudentTHead):
        return scipy.stats.t(p[..., 2], p[..., 0], p[..., 1])
    mean = head._mean(parameters, where).numpy()  # type: ignore[attr-defined]
    alpha = p[..., 1]
    return scipy.stats.nbinom(1 / alpha, 1 / (1 + alpha * mean))


@pytest.mark.parametrize("kind", [GaussianHead, StudentTHead, NegativeBinomialHead])
def test_loss_and_quantiles_are_scipys(kind: type) -> None:
    head, where = kind(6), frame()
    parameters = drawn(head)
    known = scipys(head, parameters, where)
    rng = np.random.default_rng(1)
    counts = kind is NegativeBinomialHead
    target = torch.from_numpy(rng.poisson(40, (N, D)).astype(float) if counts else rng.normal(40, 5, (N, D)))
    y = target.numpy() if counts else ((target - where.level) / where.unit).numpy()
    expected = -(known.logpmf(y) if counts else known.logpdf(y))
    np.testing.assert_allclose(head.loss(parameters, target, where).numpy(), expected, rtol=1e-4, atol=1e-4)
    quantiles = head.quantiles(parameters, LEVELS, where).numpy()
    for k, level in enumerate(LEVELS):
        wanted = known.ppf(level) if counts else where.level.numpy() + where.unit.numpy() * known.ppf(level)
        np.testing.assert_allclose(quantiles[..., k], wanted, rtol=1e-6)


@pytest.mark.parametrize("kind", [GaussianHead, StudentTHead, NegativeBinomialHead, CategoricalHead, QuantileHead])
def test_a_sample_is_the_quantile_at_its_number(kind: type) -> None:
    extra = {CategoricalHead: (11,), QuantileHead: (LEVELS,)}.get(kind, ())
    head, where = kind(6, *extra), frame()
    parameters = drawn(head)
    quantiles = head.quantiles(parameters, LEVELS, where)
    assert (quantiles.diff(dim=-1) >= 0).all()
    for k, level in enumerate(LEVELS):
        sample = head.sample(parameters, torch.full((N, D), level, dtype=torch.float64), where)
        torch.testing.assert_close(sample, quantiles[..., k], rtol=1e-6, atol=1e-6)
    beyond = head.sample(parameters, torch.full((N, D), 1e-9, dtype=torch.float64), where)
    assert torch.isfinite(beyond).all()
    assert (beyond <= quantiles[..., 0]).all()


def test_a_single_level_is_a_point() -> None:
    head, where = QuantileHead(6, (0.5,)), frame()
    parameters = drawn(head)
    sample = head.sample(parameters, torch.rand(N, D, dtype=torch.float64), where)
    torch.testing.assert_close(sample, head.quantiles(parameters, (0.5,), where)[..., 0])


def test_a_gaussian_of_fixed_spread_learns_what_squared_errors_teach() -> None:
    """Goodfellow et al. 2016, section 5.5.1: the gradients differ by 1 / σ² only."""
    head, where = GaussianHead(6), frame()
    parameters = drawn(head).requires_grad_()
    spread = torch.full((N, D), 0.7)
    target = torch.randn(N, D, dtype=torch.float64) * 5 + 40
    mean = parameters[..., 0]
    (likelihood,) = torch.autograd.grad(
        head.loss(torch.stack([mean, spread], -1), target, where).sum(), parameters, retain_graph=True
    )
    squared = 0.5 * (mean - ((target - where.level) / where.unit).float()).square()
    (errors,) = torch.autograd.grad(squared.sum(), parameters)
    torch.testing.assert_close(likelihood, errors / 0.7**2)


def test_the_bins_cover_everything_and_hold_their_values() -> None:
    head, where = CategoricalHead(6, 9), frame()
    middles = head.values(where)
    assert middles.shape == (N, 1, 9)
    for k in range(9):
        assert (head.bins(middles[..., k], where) == k).all()
    far = torch.full((N, 1), 1e9, dtype=torch.float64)
    assert (head.bins(far, where) == 8).all()
    assert (head.bins(-far, where) == 0).all()
    parameters = drawn(head)
    torch.testing.assert_close(parameters.exp().sum(-1), torch.ones(N, D))
    target = torch.randn(N, D, dtype=torch.float64) * 10 + 40
    expected = -parameters.gather(-1, head.bins(target, where)[..., None])[..., 0]
    torch.testing.assert_close(head.loss(parameters, target, where), expected)


def test_the_mean_of_counts_stays_positive() -> None:
    head = NegativeBinomialHead(6)
    low = torch.tensor([[[-1e6, 0.1]]])
    one = torch.ones(1, 1, dtype=torch.float64)
    where = Frame(3 * one, one, one)
    assert float(head._mean(low, where)) > 0
    assert torch.isfinite(head.loss(low, one, where)).all()
    assert (head.quantiles(low, (0.05, 0.5, 0.95), where) >= 0).all()


def test_samples_beyond_the_levels_have_exponential_tails() -> None:
    """Through the two outermost quantiles; the levels need not be symmetric."""
    head = QuantileHead(6, (0.05, 0.2, 0.5, 0.7))
    one = torch.ones(1, dtype=torch.float64)
    where, parameters = Frame(0 * one, one, one), torch.tensor([[-3.0, -1.0, 0.0, 2.0]])
    for u in (1e-6, 0.01, 0.05, 0.2, 0.5, 0.7, 0.9, 1 - 1e-6):
        expected = float(np.interp(u, head.levels, parameters[0]))
        if u < 0.05:
            expected = -3.0 + 2.0 / np.log(4) * np.log(u / 0.05)
        if u > 0.7:
            expected = 2.0 - 2.0 / np.log(0.5 / 0.3) * np.log((1 - u) / 0.3)
        assert float(head.sample(parameters, u * one, where)) == pytest.approx(expected, rel=1e-6)


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
