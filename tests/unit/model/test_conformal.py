"""Intervals of any width, and the law by which they move."""

import math

import hypothesis.strategies as st
import numpy as np
import torch
from hypothesis import given, settings

from forecaster.model import conformal_kernel
from forecaster.model.conformal import AdaptiveLevels, QuantileFunction, tracked_coverages
from forecaster.model.heads.heads import Frame, QuantileHead

LEVELS = (0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.975)
COVERAGES = (0.5, 0.8, 0.9, 0.95)

moves = st.lists(st.floats(-5, 0.375, width=32), min_size=4, max_size=4)
rows = st.lists(st.floats(-1e6, 1e6), min_size=13, max_size=13).map(sorted)


def moved(levels: AdaptiveLevels, horizon: int, now: np.ndarray, missed: np.ndarray) -> np.ndarray:
    """Return the moves [C] of a horizon after intervals that missed, or did not."""
    each = zip(now, levels.gamma[horizon], levels.alpha, missed, levels.most, strict=True)
    return np.array([conformal_kernel.moved(*one) for one in each])


def test_tracked_coverages_lie_within_the_trained_levels() -> None:
    assert tracked_coverages(LEVELS) == COVERAGES
    assert tracked_coverages((0.05, 0.5, 0.95)) == (0.5, 0.8, 0.9)
    assert tracked_coverages((0.1, 0.5, 0.95)) == (0.5, 0.8)  # both sides count
    assert tracked_coverages((0.5,)) == ()


def test_the_distribution_is_the_one_that_the_quantile_head_samples() -> None:
    head = QuantileHead(3, LEVELS)
    parameters = torch.linspace(-2, 3, 13).exp().cumsum(0).float()
    small = torch.logspace(-9, -0.31, 60, dtype=torch.float64)
    uniform = torch.cat([small, 1 - small])
    frame = Frame(torch.tensor(5.0).double(), torch.tensor(2.0).double(), torch.tensor(1.0).double())
    sampled = head.sample(parameters.expand(120, 13), uniform, frame)
    quantiles = head.quantiles(parameters, LEVELS, frame).numpy()[None]
    above = uniform.numpy() > 0.5
    shares = np.where(above, 1 - uniform.numpy(), uniform.numpy())[None]
    function = QuantileFunction(LEVELS)
    np.testing.assert_allclose(function.at(quantiles, shares, above)[0], sampled.numpy(), rtol=1e-6)


def test_a_median_alone_is_every_quantile() -> None:
    function = QuantileFunction((0.5,))
    found = function.at(np.array([[3.0], [4.0]]), np.full((2, 2), 0.1), np.array([False, True]))
    np.testing.assert_array_equal(found, [[3.0, 3.0], [4.0, 4.0]])


@settings(max_examples=200, deadline=None)
@given(moves)
def test_levels_are_positive_and_intervals_nested(offsets: list[float]) -> None:
    shares = AdaptiveLevels(COVERAGES, (0.2,)).shares(np.array(offsets))
    assert (shares > 0).all()
    assert (shares <= (1 + 0.5) / 2).all()
    assert (np.diff(shares) <= 0).all()


def test_no_move_means_no_change() -> None:
    levels = AdaptiveLevels(COVERAGES, (0.2, 0.1))
    np.testing.assert_allclose(levels.shares(np.zeros(4)), [0.5, 0.2, 0.1, 0.05], rtol=1e-12)
    wanted = (0.01, 0.04, 0.1, 0.3, 0.5, 0.55, 0.9, 0.99)
    weights, constant = levels.mixture(wanted)
    expected = [2 * min(p, 1 - p) for p in wanted]
    np.testing.assert_allclose(levels.shares(np.zeros(4)) @ weights + constant, expected, rtol=1e-12)


def test_an_interval_widens_for_every_step_and_stays_finite() -> None:
    levels, function = AdaptiveLevels((0.8,), (0.2,)), QuantileFunction(LEVELS)
    shares = levels.shares(np.linspace(0.4, -10, 1000)[:, None])
    quantiles = np.repeat(np.array(LEVELS)[None] * 10, 1000, axis=0)
    lower = function.at(quantiles, shares / 2, np.array([False]))[:, 0]
    assert np.isfinite(lower).all()
    assert (np.diff(lower) < 0).all()
    deep = np.diff(lower)[200:]
    np.testing.assert_allclose(deep, deep[0], rtol=1e-6)  # by the same length for every step of α


def test_a_level_goes_on_smoothly_below_the_floor() -> None:
    levels = AdaptiveLevels((0.8,), (0.2,))
    found = levels.shares((np.array([0.0201, 0.02, 0.0199, 0.0]) - 0.2)[:, None])[:, 0]
    np.testing.assert_allclose(found, [0.0201, 0.02, 0.0199, 0.02 / math.e], rtol=1e-4)


@settings(max_examples=300, deadline=None)
@given(moves, moves, rows, st.lists(st.floats(1e-6, 1 - 1e-6), min_size=1, max_size=9, unique=True))
def test_corrected_quantiles_never_cross(
    first: list[float], own: list[float], quantiles: list[float], wanted: list[float]
) -> None:
    levels = sorted({*wanted, 0.5})
    adaptive, function = AdaptiveLevels(COVERAGES, (0.2,)), QuantileFunction(LEVELS)
    weights, constant = adaptive.mixture(levels)
    shares = (adaptive.shares(np.array(first) + np.array(own)) @ weights + constant) / 2
    for side in (shares[: levels.index(0.5)], shares[levels.index(0.5) :][::-1]):
        assert (np.diff(side) >= -1e-15).all()
    found = function.uncrossed(np.array([quantiles]), shares[None], levels)[0]
    assert (np.diff(found) >= 0).all()
    assert found[levels.index(0.5)] == quantiles[6]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=60))
def test_moves_add_up_to_gamma_times_the_excess_of_hits(missed: list[list[bool]]) -> None:
    """Gibbs & Candès 2021, eq. 2, summed; where no bound is met."""
    levels = AdaptiveLevels(COVERAGES, (0.02, 0.01))
    now = np.zeros(4)
    for one in missed:
        now = moved(levels, 1, now, np.array(one))
    alpha = 1 - np.array(COVERAGES)
    np.testing.assert_allclose(now, 0.01 * alpha * (alpha - np.array(missed)).sum(axis=0), atol=1e-12)


def test_moves_have_bounds() -> None:
    levels, never, always = AdaptiveLevels(COVERAGES, (0.2,)), np.zeros(4), np.zeros(4)
    for _ in range(10_000):
        never = moved(levels, 0, never, np.zeros(4, dtype=bool))
        always = moved(levels, 0, always, np.ones(4, dtype=bool))
    np.testing.assert_allclose(levels.shares(never), [0.75, 0.6, 0.55, 0.525])  # half-way to 1
    np.testing.assert_allclose(always, -5)
    assert (np.log(levels.shares(always + always)) > -1000).all()
