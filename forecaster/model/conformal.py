"""Intervals of any width from trained quantiles, and adaptive conformal inference over them.

The trained quantiles are read as one distribution: linear between the levels, exponential tails beyond them, as the
quantile head's samples have it. C(α) = [q(α/2), q(1 - α/2)] is then a nested family of intervals, and adaptive
conformal inference (Gibbs & Candès 2021, eq. 2) moves α after each actual value: α_{t+1} = α_t + γ·(α - err_t), where
err_t is 1 if the value lay outside the interval that was issued.

*Too few intervals hold*: where α_t falls below `_FLOOR`, the level goes on as _FLOOR · exp((α_t - _FLOOR) / _FLOOR)
instead of reaching zero, so that the interval grows by the same length of tail for every step of α. The paper's
interval is infinite at α_t ≤ 0, of no use to anybody who reads it; this one is finite for every α_t and grows without
bound. The paper's promise, that the mean of err_t tends to α whatever the data (Proposition 4.1), then holds as long as
the actual values lie within some number of tail lengths of the forecast; not for values that run away faster.

*Too many hold*: α_t stops half-way to 1. An 80 % interval becomes no narrower than the model's own 40 % one, which a
constant series would otherwise make a single point, and would need long to come back from. Where even that holds too
much, coverage stays above what is asked for.

*Several horizons*: the α_t of a horizon is its own plus that of the shortest, which is scored with every step. A change
that concerns all horizons so reaches the long ones at once, although their own errors come a horizon late, and one in a
horizon's time; these move only what the shortest leaves. The promise holds for each horizon, since the sum of its own
moves is bounded wherever both are.

Knows nothing of states, series or time.

Shapes: ... any, Q trained levels, K horizons, C tracked coverages, W wanted levels.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_FLOOR = 0.02
_NARROWEST = 0.5  # of the way from α to 1
_COVERAGES = (0.5, 0.8, 0.9, 0.95)
_DEEPEST = -600.0  # of an exponent: the smallest level that is more than zero in float64, with room

FloatArray = npt.NDArray[np.floating]
Float64 = npt.NDArray[np.float64]


def tracked_coverages(levels: Sequence[float]) -> tuple[float, ...]:
    """Return the nominal coverages whose two levels lie within the trained ones, ascending."""
    return tuple(c for c in _COVERAGES if levels[0] <= (1 - c) / 2 + 1e-9 and (1 + c) / 2 - 1e-9 <= levels[-1])


class QuantileFunction:
    """The distribution that trained quantiles mean.

    Args:
        levels: Q ascending probabilities with 0.5 among them.
    """

    def __init__(self, levels: Sequence[float]) -> None:
        self.levels = tuple(levels)
        self.median_index = self.levels.index(0.5)
        both = np.array(levels)
        self._below = both[: self.median_index + 1]
        self._above = 1.0 - both[self.median_index :][::-1]

    def lower(self, quantiles: FloatArray, shares: FloatArray) -> Float64:
        """Return the quantiles at the levels `shares`, in (0, 0.5], of trained ones [..., Q]; both are [..., W]."""
        return _towards_tail(quantiles[..., : self.median_index + 1], self._below, shares)

    def upper(self, quantiles: FloatArray, shares: FloatArray) -> Float64:
        """Return the quantiles at 1 - `shares`."""
        return -_towards_tail(-quantiles[..., self.median_index :][..., ::-1], self._above, shares)

    def at(self, quantiles: FloatArray, shares: FloatArray, levels: Sequence[float]) -> Float64:
        """Return quantiles that never cross, and the median as it is.

        Args:
            quantiles: trained ones, [..., Q].
            shares: the level of each wanted one, or 1 minus it if it is above the median, not falling towards the
                median on either side, [..., W].
            levels: what they stand for, ascending, W of them: which side of the median each is on.
        """
        low, high = np.searchsorted(levels, 0.5), np.searchsorted(levels, 0.5, side="right")
        median = np.repeat(quantiles[..., self.median_index, None], high - low, axis=-1)
        below = self.lower(quantiles, shares[..., :low])[..., ::-1]
        above = self.upper(quantiles, shares[..., high:])
        # Rounding must not cross them either.
        below, above = np.minimum.accumulate(below, axis=-1)[..., ::-1], np.maximum.accumulate(above, axis=-1)
        return np.concatenate([below, median, above], axis=-1)


def _towards_tail(quantiles: FloatArray, levels: Float64, shares: FloatArray) -> Float64:
    """Return the quantiles at `shares` [..., W] of one half of a distribution.

    Args:
        quantiles: up to the median, [..., J].
        levels: theirs, the last one 0.5, [J].
        shares: in (0, 0.5].
    """
    shares = np.minimum(shares, 0.5)
    median = quantiles[..., -1:].astype(np.float64)
    if len(levels) == 1:  # nothing is known but the median
        return median + np.zeros_like(shares)
    widths = np.diff(quantiles.astype(np.float64), axis=-1)
    parts = (levels[1:, None] - shares[..., None, :]) / np.diff(levels)[:, None]  # of each width that is passed
    inside: Float64 = (widths[..., None, :] @ parts.clip(0.0, 1.0))[..., 0, :]
    rate = widths[..., :1] / np.log(levels[1] / levels[0])
    tail: Float64 = median - inside - rate * np.log(levels[0] / np.minimum(shares, levels[0]))
    return tail


class AdaptiveLevels:
    """Which levels to ask for, so that intervals hold what they say.

    Args:
        coverages: nominal, ascending, C of them.
        rates: γ = rate · α for each of K horizons, ascending.
    """

    def __init__(self, coverages: Sequence[float], rates: Sequence[float]) -> None:
        self.alpha: Float64 = 1.0 - np.array(coverages, dtype=np.float64)
        self.gamma: Float64 = np.array(rates)[:, None] * self.alpha  # [K, C]
        self._most: Float64 = _NARROWEST * (1.0 - self.alpha)

    def shares(self, offsets: FloatArray) -> Float64:
        """Return the two-sided level of each tracked interval, in (0, 1), not ascending along C, [..., K, C].

        Args:
            offsets: what each horizon has moved by, [..., K, C]. An interval never lies within one of a smaller nominal
                coverage: where the offsets would have it so, it is that one.
        """
        own = offsets.astype(np.float64)
        own[..., 1:, :] += own[..., :1, :]
        alpha = self.alpha + np.minimum(own, self._most)
        deep = _FLOOR * np.exp(((alpha - _FLOOR) / _FLOOR).clip(_DEEPEST, 0.0))
        found: Float64 = np.minimum.accumulate(np.where(alpha < _FLOOR, deep, alpha), axis=-1)
        return found

    def moved(self, offsets: FloatArray, horizons: npt.NDArray[np.int64], missed: npt.NDArray[np.bool_]) -> Float64:
        """Return offsets [P, C] of `horizons` (positions among the K, [P]) after intervals that missed, or did not."""
        moved: Float64 = np.minimum(offsets + self.gamma[horizons] * (self.alpha - missed), self._most)
        return moved

    def mixture(self, levels: Sequence[float]) -> tuple[Float64, Float64]:
        """Return how the two-sided level of wanted quantiles follows from the tracked ones: shares @ M + m.

        Linear between the tracked coverages, proportional beyond the widest, and the median stays.

        Returns:
            M, [C, W], and m, [W].
        """
        knots = np.concatenate([[0.0], self.alpha[::-1], [1.0]])
        wanted = 2.0 * np.minimum(levels, 1.0 - np.array(levels))
        right = np.searchsorted(knots, wanted).clip(1, len(knots) - 1)
        share = (wanted - knots[right - 1]) / (knots[right] - knots[right - 1])
        weights = np.zeros((len(knots), len(wanted)))
        columns = np.arange(len(wanted))
        weights[right - 1, columns] = 1.0 - share
        weights[right, columns] += share
        return weights[-2:0:-1], weights[-1]
