"""The baselines by hand-made series whose forecasts are known, and against plain loops."""

import numpy as np
import pytest

from forecaster.evaluation.baselines import (
    is_seasonal,
    naive,
    naive2,
    seasonal_indices,
    seasonal_naive,
    seasonal_offsets,
)


def seasonal(steps: int, season: int, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shape = 1 + 0.5 * np.sin(2 * np.pi * np.arange(season) / season)
    return 100 * np.resize(shape, steps) * (1 + noise * rng.standard_normal(steps))


def test_naive_and_seasonal_naive_repeat() -> None:
    values = np.arange(10.0)
    assert naive(values, 3).tolist() == [9, 9, 9]
    assert seasonal_naive(values, 5, 4).tolist() == [6, 7, 8, 9, 6]
    assert seasonal_naive(values, 3, 24).tolist() == [9, 9, 9]


@pytest.mark.parametrize("season", [4, 7, 24])
@pytest.mark.parametrize("extra", [0, 1, 3])
def test_naive2_continues_a_multiplicative_season(season: int, extra: int) -> None:
    values = seasonal(10 * season + extra, season)
    expected = seasonal(12 * season + extra, season)[len(values) :][:season]
    np.testing.assert_allclose(naive2(values, season, season), expected, rtol=1e-9)


@pytest.mark.parametrize("season", [4, 7])
def test_naive2_of_values_below_zero_continues_an_additive_season(season: int) -> None:
    shape = np.sin(2 * np.pi * np.arange(12 * season + 1) / season)
    np.testing.assert_allclose(
        naive2(shape[: 10 * season + 1], season, season), shape[10 * season + 1 :][:season], atol=1e-12
    )
    offsets = seasonal_offsets(5 + shape[: 6 * season], season)
    np.testing.assert_allclose(offsets, shape[:season] - shape[:season].mean(), atol=1e-12)


def test_naive2_is_naive_without_a_significant_season() -> None:
    values = np.random.default_rng(1).standard_normal(200).cumsum() + 50
    trend = np.linspace(1, 2, 30)
    assert not is_seasonal(trend[:20], 12)  # too short to tell
    assert naive2(np.full(100, 3.0), 4, 12).tolist() == [3, 3, 3, 3]
    assert naive2(values, 4, 1).tolist() == [values[-1]] * 4


@pytest.mark.parametrize("season", [4, 5])
def test_seasonal_indices_are_those_of_a_plain_decomposition(season: int) -> None:
    values = seasonal(6 * season, season, noise=0.1)
    half = season // 2
    ratios: dict[int, list[float]] = {phase: [] for phase in range(season)}
    for t in range(half, len(values) - half):
        window = values[t - half : t + half + 1].copy()
        if season % 2 == 0:
            window[[0, -1]] /= 2
        ratios[t % season].append(values[t] / (window.sum() / season))
    means = np.array([np.mean(ratios[phase]) for phase in range(season)])
    np.testing.assert_allclose(seasonal_indices(values, season), means / means.mean(), rtol=1e-12)


def test_a_season_is_told_from_noise() -> None:
    assert is_seasonal(seasonal(240, 24, noise=0.2), 24)
    rng = np.random.default_rng(3)
    found = [is_seasonal(rng.standard_normal(240), 24) for _ in range(200)]
    assert 0.02 < np.mean(found) < 0.2  # a 90 % test
