"""Intervals of any width from trained quantiles, and adaptive conformal inference over them.

The trained quantiles are read as one distribution: linear between the levels, exponential tails beyond them, as the
quantile head's samples have it. C(α) = [q(α/2), q(1 - α/2)] is then a nested family of intervals, and adaptive
conformal inference (Gibbs & Candès 2021, eq. 2) moves α after each actual value: α_{t+1} = α_t + γ·(α - err_t), where
err_t is 1 if the value lay outside the interval that was issued.

*Too few intervals hold*: where α_t falls below `_FLOOR`, the level goes on as _FLOOR · exp((α_t - _FLOOR) / _FLOOR)
instead of reaching zero, so that the interval grows by the same length of tail for every step of α. The paper's
interval is infinite at α_t ≤ 0, of no use to anybody who reads it; this one is finite for every α_t and grows without
bound up to 250 lengths of the tail. The paper's promise, that the mean of err_t tends to α whatever the data
(Proposition 4.1), then holds as long as the actual values lie within that; not for values that run away from it.

*Too many hold*: α_t stops half-way to 1. An 80 % interval becomes no narrower than the model's own 40 % one, which a
constant series would otherwise make a single point, and would need long to come back from. Where even that holds too
much, coverage stays above what is asked for.

*Several horizons*: the α_t of a horizon is its own plus that of the shortest, which is scored with every step. A change
that concerns all horizons so reaches the long ones at once, although their own errors come a horizon late, and one in a
horizon's time; these move only what the shortest leaves. The promise holds for each horizon, since the sum of its own
moves is bounded wherever both are.

Knows nothing of states, series or time.

Shapes: ... any, P rows, Q trained levels, K horizons, C tracked coverages, W wanted levels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

# Arrays, since NumPy takes longer with numbers.
_FLOOR = np.array(0.02)
_ONE = np.array(1.0)
_LEAST = np.array(-5.0)  # of moves: an interval of 250 lengths of the tail
_NARROWEST = 0.5  # of the way from α to 1
_COVERAGES = (0.5, 0.8, 0.9, 0.95)

FloatArray = npt.NDArray[np.floating]
Float64 = npt.NDArray[np.float64]


def tracked_coverages(levels: Sequence[float]) -> tuple[float, ...]:
    """Return the nominal coverages whose two levels lie within the trained ones, ascending."""
    return tuple(c for c in _COVERAGES if levels[0] <= (1 - c) / 2 + 1e-9 and (1 + c) / 2 - 1e-9 <= levels[-1])


class Sides(NamedTuple):
    """On which side of the median each of W quantiles lies, and what follows from it; see `QuantileFunction.sides`."""

    sign: Float64  # [W]
    base: Float64  # [W]
    edge: Float64  # [W]
    rates: Float64  # [Q, W]


class QuantileFunction:
    """The distribution that trained quantiles mean.

    Args:
        levels: Q ascending probabilities with 0.5 among them.
    """

    def __init__(self, levels: Sequence[float]) -> None:
        self.median_index = tuple(levels).index(0.5)
        self._levels = np.array(levels)
        self._inner = self._levels[1:-1].copy()
        self._inverse = 1.0 / np.diff(self._levels)

    def sides(self, above: Sequence[bool] | npt.NDArray[np.bool_]) -> Sides:
        """Return what `at` needs to know of quantiles of which some are `above` the median."""
        levels, above = self._levels, np.array(above, dtype=bool)
        rates = np.zeros((len(levels), len(above)))
        if len(levels) > 1:  # the lengths of the two tails, through the two outermost quantiles of each
            low, high = 1.0 / np.log(levels[1] / levels[0]), 1.0 / np.log((1.0 - levels[-2]) / (1.0 - levels[-1]))
            rates[0], rates[1] = -low * ~above, low * ~above
            rates[-2] += high * above
            rates[-1] -= high * above
        edge = np.where(above, 1.0 - levels[-1], levels[0])
        return Sides(np.where(above, -1.0, 1.0), np.where(above, 1.0, 0.0), edge, rates)

    def at(self, quantiles: Float64, shares: Float64, sides: Sides) -> Float64:
        """Return the quantiles at the levels `shares`, or at 1 - `shares` if they lie above the median, [P, W].

        Args:
            quantiles: trained ones, [P, Q].
            shares: in (0, 0.5], [P, W].
            sides: of the W.
        """
        if not len(self._inverse):  # nothing is known but the median
            return np.repeat(quantiles, shares.shape[-1], axis=-1)
        inner = np.maximum(shares, sides.edge)
        levels = sides.base + sides.sign * inner
        left = self._inner.searchsorted(levels)
        share = (levels - self._levels.take(left)) * self._inverse.take(left)
        if len(quantiles) > 1:
            left += np.arange(0, quantiles.size, quantiles.shape[1])[:, None]
        low, high = quantiles.take(left), quantiles.take(left + 1)
        depth = np.log(shares / inner)
        found: Float64 = low + (high - low) * share + (quantiles @ sides.rates) * depth
        return found

    def uncrossed(self, quantiles: Float64, shares: Float64, levels: Sequence[float]) -> Float64:
        """Return quantiles that stand for ascending `levels` and never cross, the median as it is, [P, W]; see `at`."""
        low, high = np.searchsorted(levels, 0.5), np.searchsorted(levels, 0.5, side="right")
        found = self.at(quantiles, shares, self.sides(np.array(levels) > 0.5))
        found[:, low:high] = quantiles[:, self.median_index, None]
        below = found[:, :high][:, ::-1]  # rounding must not cross them either
        np.minimum.accumulate(below, axis=-1, out=below)
        np.maximum.accumulate(found, axis=-1, out=found)
        return found


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
        self._most_alpha: Float64 = self.alpha + self._most

    def shares(self, moves: FloatArray) -> Float64:
        """Return the two-sided level of each tracked interval, in (0, 1), not ascending along C, [..., C].

        Args:
            moves: of a horizon and of the shortest together, [..., C]. An interval never lies within one of a smaller
                nominal coverage: where the moves would have it so, it is that one.
        """
        alpha = np.minimum(self.alpha + moves, self._most_alpha)
        deep = np.minimum(alpha, _FLOOR)
        # max(alpha, floor) · exp((min(alpha, floor) - floor) / floor)
        found: Float64 = np.minimum.accumulate((alpha - deep + _FLOOR) * np.exp(deep / _FLOOR - _ONE), axis=-1)
        return found

    def moved(self, moves: FloatArray, horizons: npt.NDArray[np.int64], missed: npt.NDArray[np.bool_]) -> Float64:
        """Return moves [P, C] of `horizons` (positions among the K, [P]) after intervals that missed, or did not."""
        moved = np.minimum(moves + self.gamma.take(horizons, axis=0) * (self.alpha - missed), self._most)
        found: Float64 = np.maximum(moved, _LEAST, out=moved)
        return found

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
