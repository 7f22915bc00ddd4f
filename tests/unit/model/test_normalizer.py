"""The causal statistics against a plain loop."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from forecaster.model.inputs import normalizer_kernel
from forecaster.model.inputs.normalizer import decayed_sums, normalize, soft_clip, statistics, width

LAGS = (1, 7)


def plain_change(values: np.ndarray, observed: np.ndarray, lag: int, timescale: int) -> float | None:
    """Return the weighted mean of |y_t - y_{t-lag}| over pairs of observed values, None if there is none."""
    pairs = [t for t in range(lag, len(values)) if observed[t] and observed[t - lag]]
    weights = [(1 - 1 / timescale) ** (len(values) - 1 - t) for t in pairs]
    total = sum(w * abs(values[t] - values[t - lag]) for w, t in zip(weights, pairs, strict=True))
    return total / sum(weights) if pairs else None


def plain_statistics(values: np.ndarray, observed: np.ndarray, timescale: int) -> tuple[float, float, float]:
    """Return level, scale and last value after all steps, by the definition and a loop."""
    decay = 1 - 1 / timescale
    levels: list[tuple[float, float]] = []  # weight now, value
    deviations: list[tuple[float, float]] = []
    last = 0.0
    for value, seen in zip(values, observed, strict=True):
        levels = [(weight * decay, x) for weight, x in levels]
        deviations = [(weight * decay, x) for weight, x in deviations]
        if not seen:
            continue
        if levels:
            total = sum(weight for weight, _ in levels)
            level = sum(weight * x for weight, x in levels) / total
            deviations.append((1.0, abs(value - level)))
        levels.append((1.0, value))
        last = value
    level = sum(w * x for w, x in levels) / sum(w for w, _ in levels) if levels else 0.0
    scale = sum(w * x for w, x in deviations) / sum(w for w, _ in deviations) if deviations else 0.0
    return level, scale or abs(level) or 1.0, last


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    steps=st.integers(1, 150),
    missing=st.sampled_from([0.0, 0.3, 0.95, 1.0]),
    timescale=st.integers(2, 200),
)
def test_statistics_equal_the_definition(seed: int, steps: int, missing: float, timescale: int) -> None:
    rng = np.random.default_rng(seed)
    values = 100 + rng.standard_normal(steps).cumsum()
    observed = rng.random(steps) >= missing
    seen = np.where(observed, values, np.nan)
    changes = np.full((steps, len(LAGS)), np.nan)
    for column, lag in enumerate(LAGS):
        changes[lag:, column] = np.abs(seen[lag:] - seen[: max(steps - lag, 0)])
    _, found = normalize(
        torch.zeros(1, width(len(LAGS)), dtype=torch.float64),
        torch.from_numpy(values)[None],
        torch.from_numpy(observed)[None],
        torch.from_numpy(changes)[None],
        timescale,
    )
    level, scale, last = plain_statistics(values, observed, timescale)
    np.testing.assert_allclose(float(found.level[0, -1]), level, rtol=1e-9)
    np.testing.assert_allclose(float(found.scale[0, -1]), scale, rtol=1e-9)
    assert float(found.last[0, -1]) == last
    assert bool(found.seen[0, -1]) == bool(observed.any())
    for column, lag in enumerate(LAGS):
        change = plain_change(values, observed, lag, timescale)
        wanted = scale if change is None else max(change, 1e-3 * scale)
        np.testing.assert_allclose(float(found.changes[0, -1, column]), wanted, rtol=1e-9)


def test_decayed_sums_equal_a_loop_across_blocks() -> None:
    inputs = torch.randn(2, 200, 4, dtype=torch.float64)
    carry = torch.randn(2, 4, dtype=torch.float64)
    carry[:, :2].abs_()
    found = decayed_sums(carry, inputs, 0.97)
    for t in range(200):
        carry = 0.97 * carry + inputs[:, t]
        torch.testing.assert_close(found[:, t], carry, rtol=1e-12, atol=1e-12)


def test_soft_clip_is_odd_monotone_and_bounded() -> None:
    x = torch.linspace(-1e6, 1e6, 100_001, dtype=torch.float64)
    y = soft_clip(x)
    assert (y.diff() >= 0).all()
    assert y.abs().max() <= 10
    assert torch.equal(y, -y.flip(0))
    torch.testing.assert_close(soft_clip(torch.tensor([0.5])), torch.tensor([0.5]), rtol=2e-3, atol=0.0)


def test_soft_clip_keeps_the_largest_numbers_large() -> None:
    torch.testing.assert_close(soft_clip(torch.tensor([-1e25, 3e38, torch.inf])), torch.tensor([-10.0, 10.0, 10.0]))
    assert float(soft_clip(torch.tensor(1e200, dtype=torch.float64))) == 10.0


@pytest.mark.parametrize("lags", [0, 2])
def test_one_series_statistics_are_the_tensors(lags: int) -> None:
    rng = np.random.default_rng(3)
    sums = rng.exponential(size=(400, width(1 + lags)))
    sums[:, 1] *= rng.choice([-1e10, 1, 0], 400)
    for column in range(sums.shape[1]):
        sums[rng.random(400) < 0.1, column] = 0.0
    sums[:5] = 0.0
    weights = [0, 2, *range(5, 6 + lags)]
    for weight, weighed in zip(weights, [1, 3, *range(6 + lags, 7 + 2 * lags)], strict=True):
        sums[sums[:, weight] == 0, weighed] = 0.0
    expected, changes = statistics(torch.from_numpy(sums)), np.empty((400, 1 + lags))
    level, scale, reach = np.transpose([normalizer_kernel.statistics(*one) for one in zip(sums, changes, strict=True)])
    assert np.isinf(reach).all()
    np.testing.assert_allclose(level, expected.level.numpy(), rtol=1e-15)
    np.testing.assert_allclose(scale, expected.scale.numpy(), rtol=1e-15)
    np.testing.assert_allclose(changes, expected.changes.numpy(), rtol=1e-15)
