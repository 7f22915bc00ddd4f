"""Statistics that one value cannot move: a loop of their definition, the same bits on every way, and their laws."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from forecaster.model.inputs import normalizer_kernel, robust_normalizer
from forecaster.model.inputs.memory import Extended
from forecaster.model.inputs.robust_normalizer import fade, normalize, statistics, width
from forecaster.model.inputs.running_statistics import RunningStatistics

LAGS, MEMORY = (7, 14), 24
TIMESCALE = 7


class Definition:
    """The statistics of one series, by their definition."""

    def __init__(self, timescale: int) -> None:
        self.decay = 1 - 1 / timescale
        self.weight = self.deviations = self.level = self.scale = self.peak = self.doubt = 0.0
        self.counts, self.changes, self.past = [0.0] * 3, [0.0] * 3, [math.nan] * MEMORY

    def observe(self, value: float) -> bool:
        """Take in a step, NaN if it is missing, and return whether it counts."""
        self.weight, self.deviations = self.weight * self.decay, self.deviations * self.decay
        self.counts = [count * self.decay for count in self.counts]
        seen = not math.isnan(value)
        counts = seen and self.believes(value)
        if counts and self.weight > 0:
            distance = abs(value - self.level)
            self.deviations += 1
            self.scale += (distance - self.scale) / self.deviations
            self.peak = max(self.peak * (1 - (1 - self.decay) / 4), distance)
            self.doubt *= 1 - (1 - self.decay) / 2
        if counts:
            self.weight += 1
            self.level += (value - self.level) / self.weight
            for c, lag in enumerate((1, *LAGS)):
                if abs(self.past[-lag] - self.level) <= 3 * self.peak:
                    self.counts[c] += 1
                    self.changes[c] += (abs(value - self.past[-lag]) - self.changes[c]) / self.counts[c]
        elif seen:
            self.doubt = 2 * self.doubt + math.log(8)
        self.past = [*self.past[1:], value]
        return counts

    def believes(self, value: float) -> bool:
        """Whether a value lies within what was expected, or enough that does not came before it."""
        known = self.peak or abs(self.level)
        if self.weight == 0 or known == 0 or self.doubt >= 30:
            return True
        return abs(value - self.level) <= 3 * known * min(max(8 / self.weight, 1), 8) * math.exp(self.doubt)


def walk(values: np.ndarray, timescale: int = TIMESCALE) -> tuple[torch.Tensor, torch.Tensor]:
    """Return sums [B, T, W] and which values are believed [B, T]."""
    extended = extended_of(values)
    sums, _, seen = normalize(zeros(len(values)), extended, LAGS, MEMORY, timescale)
    return sums, seen


def extended_of(values: np.ndarray) -> Extended:
    whole = torch.from_numpy(np.concatenate([np.full((len(values), MEMORY), np.nan), values], axis=1))
    return Extended(whole.nan_to_num(0.0), torch.isfinite(whole))


def zeros(n: int) -> torch.Tensor:
    return torch.zeros(n, width(1 + len(LAGS)), dtype=torch.float64)


def draw(seed: int, n: int, steps: int) -> np.ndarray:
    """Return walks, seasons, counts and constants with spikes, level shifts and missing values."""
    rng = np.random.default_rng(seed)
    kinds = [
        100 + rng.standard_normal((n, steps)).cumsum(1),
        50 * np.sin(np.arange(steps) * 2 * np.pi / 7) + rng.standard_normal((n, steps)),
        rng.poisson(0.1, (n, steps)).astype(float),
        np.full((n, steps), 5.0),
    ]
    values = np.stack([kinds[kind][row] for row, kind in enumerate(rng.integers(0, 4, n))])
    values *= np.where(rng.random((n, steps)) < 0.03, 10.0 ** rng.integers(1, 9, (n, steps)), 1.0)
    values += np.where(np.arange(steps) >= rng.integers(0, 2 * steps, (n, 1)), 10.0 ** rng.integers(0, 9, (n, 1)), 0.0)
    return np.where(rng.random((n, steps)) < rng.choice([0.0, 0.2, 0.9], (n, 1)), np.nan, values)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), steps=st.integers(1, 80), timescale=st.integers(2, 40))
def test_statistics_equal_the_definition(seed: int, steps: int, timescale: int) -> None:
    values = draw(seed, 3, steps)
    sums, seen = walk(values, timescale)
    for row in range(len(values)):
        plain = Definition(timescale)
        counted = [plain.observe(float(value)) for value in values[row]]
        assert counted == seen[row].tolist()
        core = [plain.weight, plain.level, plain.deviations, plain.scale]
        np.testing.assert_allclose(sums[row, -1, :4].numpy(), core, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(sums[row, -1, 5:7].numpy(), [plain.peak, plain.doubt], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(sums[row, -1, 7:].numpy(), plain.counts + plain.changes, rtol=1e-9, atol=1e-12)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), steps=st.integers(2, 60), cut=st.integers(1, 59))
def test_all_ways_give_the_same_bits(seed: int, steps: int, cut: int) -> None:
    """Compiled and not, whole and in parts."""
    values, cut = draw(seed, 4, steps), min(cut, steps - 1)
    sums, seen = walk(values)
    plain, plain_seen = robust_normalizer._step_by_step(zeros(4), extended_of(values), LAGS, MEMORY, 1 - 1 / TIMESCALE)
    assert torch.equal(plain, sums)
    assert torch.equal(plain_seen, seen)
    later = Extended(*(part[:, cut:] for part in extended_of(values)))
    second, _, second_seen = normalize(sums[:, cut - 1], later, LAGS, MEMORY, TIMESCALE)
    assert torch.equal(second, sums[:, cut:])
    assert torch.equal(second_seen, seen[:, cut:])


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    exponent=st.floats(1.5, 140),
    sign=st.sampled_from([-1.0, 1.0]),
    at=st.integers(30, 80),
)
def test_one_value_moves_nothing(seed: int, exponent: float, sign: float, at: int) -> None:
    values = 100 + np.random.default_rng(seed).standard_normal((1, 120))
    bad, without = values.copy(), values.copy()
    bad[0, at], without[0, at] = sign * 10**exponent * 100, np.nan
    left, right = (statistics(walk(one)[0]) for one in (bad, without))
    assert all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    exponent=st.floats(-10, 140),
    start=st.integers(1, 60),
    timescale=st.sampled_from([7, 168]),
)
def test_a_level_shift_is_believed_by_its_fifth_value(seed: int, exponent: float, start: int, timescale: int) -> None:
    values = 100 + np.random.default_rng(seed).standard_normal((1, 140))
    values[0, start:] += 10**exponent
    sums, seen = walk(values, timescale)
    assert int((~seen[0]).sum()) <= 8  # and the first values are seldom doubted
    assert seen[0, start + 4 : start + 60].all()
    if timescale == TIMESCALE:
        found = statistics(sums[:, min(start + 30, 139)])
        assert abs(float(found.level) - values[0, start:].mean()) < 0.02 * 10**exponent + 2


@pytest.mark.parametrize("size", [10.0, 1e3, 1e6])
@pytest.mark.parametrize("every", [2, 5, 7])
def test_what_comes_back_is_believed(size: float, every: int) -> None:
    """Peaks of every second, fifth and seventh day that begin in a quiet series."""
    values = np.random.default_rng(3).standard_normal((1, 400))
    peaks = np.arange(60, 400, every)
    values[0, peaks] += size * 10
    assert walk(values)[1][0, peaks[6:]].all()


def test_an_outage_of_zeros_ends_with_it() -> None:
    """A day of zeros in hourly data: the level of the next day is the old one."""
    values = 106 + 3 * np.random.default_rng(4).standard_normal((1, 24 * 40))
    values[0, 600:624] = 0.0
    sums, seen = walk(values, timescale=168)
    assert seen[0, 624:].all()
    assert (statistics(sums).level[0, 624:] - 106).abs().max() < 16
    assert (statistics(sums).level[0, 800:] - 106).abs().max() < 6


def test_the_first_reading_after_a_gap_is_not_believed_whatever_it_says() -> None:
    values = 100 + np.random.default_rng(5).standard_normal((2, 300))
    values[:, 100:200] = np.nan
    values[1, 200] = 1e6
    sums, seen = walk(values)
    assert seen[0, 200:].all()
    assert seen[1, 200:].tolist() == [False] + [True] * 99
    assert (statistics(sums).level[:, 210:] - 100).abs().max() < 2


@pytest.mark.parametrize("robust", [False, True])
@pytest.mark.parametrize("steps", [1, 30, 1000, 20_000])
def test_fading_is_walking_over_missing_steps(robust: bool, steps: int) -> None:
    running = RunningStatistics(TIMESCALE, LAGS, MEMORY, robust=robust)
    before = running.advance(torch.zeros(4, running.width, dtype=torch.float64), extended_of(draw(6, 4, 50)))
    start = before.sums[:, -1]
    walked = running.advance(start, extended_of(np.full((4, steps), np.nan))).sums[:, -1]
    faded = running.fade(start, torch.tensor([steps]).expand(4))
    torch.testing.assert_close(faded, walked, rtol=1e-9, atol=0.0)
    for kept, was in zip(running.of(faded), running.of(start), strict=True):
        torch.testing.assert_close(kept, was, rtol=1e-9, atol=0.0)


def test_one_series_statistics_are_the_tensors() -> None:
    values = np.concatenate([draw(8, 40, 60), np.zeros((1, 60)), np.full((1, 60), np.nan)])
    sums = walk(values)[0][:, -1]
    expected, changes = statistics(sums), np.empty((len(sums), 3))
    found = [normalizer_kernel.statistics(*one) for one in zip(sums.numpy(), changes, strict=True)]
    for kernels, tensors in zip(np.transpose(found), (expected.level, expected.scale, expected.reach), strict=True):
        np.testing.assert_array_equal(kernels, tensors.numpy())
    np.testing.assert_array_equal(changes, expected.changes.numpy())


def test_fading_is_of_each_series_its_own_steps() -> None:
    start = walk(draw(7, 3, 50))[0][:, -1]
    together = fade(start, torch.tensor([0, 5, 900]), TIMESCALE)
    for row, steps in enumerate((0, 5, 900)):
        assert torch.equal(together[row : row + 1], fade(start[row : row + 1], torch.tensor([steps]), TIMESCALE))
    assert torch.equal(together[0], start[0])
