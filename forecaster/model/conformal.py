"""Intervals of any width from trained quantiles, and adaptive conformal inference over them.

The trained quantiles are read as one distribution: linear between the levels, exponential tails beyond them, as the
quantile head's samples have it. C(α) = [q(α/2), q(1 - α/2)] is then a nested family of intervals, and adaptive
conformal inference (Gibbs & Candès 2021, eq. 2) moves α after each actual value: α_{t+1} = α_t + γ·(α - err_t), where
err_t is 1 if the value lay outside the interval that was issued.

*Too few intervals hold*: where α_t falls below `FLOOR`, the level goes on as FLOOR · exp((α_t - FLOOR) / FLOOR)
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

The arithmetic is `conformal_kernel`'s; here is what it is given. Knows nothing of states, series or time.

Shapes: ... any, P rows, Q trained levels, K horizons, C tracked coverages, W wanted levels.
"""

import functools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from forecaster.model import conformal_kernel

_NARROWEST = 0.5  # of the way from α to 1
_COVERAGES = (0.5, 0.8, 0.9, 0.95)

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
        self.median_index = tuple(levels).index(0.5)
        self.levels: Float64 = np.array(levels, dtype=np.float64)
        self.tails: Float64 = np.zeros(2)  # the lengths of the two, in differences of the two outermost quantiles
        if len(levels) > 1:
            outermost = [levels[1] / levels[0], (1.0 - levels[-2]) / (1.0 - levels[-1])]
            self.tails = 1.0 / np.log(outermost)

    def at(self, quantiles: Float64, shares: Float64, above: npt.NDArray[np.bool_]) -> Float64:
        """Return the quantiles at the levels `shares`, or at 1 - `shares` if they lie above the median, [P, W].

        Args:
            quantiles: trained ones, [P, Q].
            shares: in (0, 0.5], [P, W].
            above: which of the W are counted from above.
        """
        found: Float64 = np.empty(shares.shape)
        rows, shares = np.ascontiguousarray(quantiles), np.ascontiguousarray(shares)
        conformal_kernel.quantiles_at(rows, shares, above, self.levels, self.tails, found)
        return found

    def uncrossed(self, quantiles: Float64, shares: Float64, levels: Sequence[float]) -> Float64:
        """Return quantiles that stand for ascending `levels` and never cross, the median as it is, [P, W]; see `at`."""
        low, high = np.searchsorted(levels, 0.5), np.searchsorted(levels, 0.5, side="right")
        found = self.at(quantiles, shares, np.array(levels) > 0.5)
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
        self._coverages = tuple(coverages)
        self.alpha: Float64 = 1.0 - np.array(coverages, dtype=np.float64)
        self.gamma: Float64 = np.array(rates)[:, None] * self.alpha  # [K, C]
        self.most: Float64 = _NARROWEST * (1.0 - self.alpha)  # of moves, [C]
        self.most_alpha: Float64 = self.alpha + self.most

    def shares(self, moves: Float64) -> Float64:
        """Return the two-sided level of each tracked interval, in (0, 1), not ascending along C, [..., C].

        Args:
            moves: of a horizon and of the shortest together, [..., C]. An interval never lies within one of a smaller
                nominal coverage: where the moves would have it so, it is that one.
        """
        found: Float64 = np.empty(moves.shape)
        rows = np.ascontiguousarray(moves).reshape(math.prod(moves.shape[:-1]), len(self.alpha))
        conformal_kernel.two_sided_levels(rows, self.alpha, self.most_alpha, found.reshape(rows.shape))
        return found

    def mixture(self, levels: Sequence[float]) -> tuple[Float64, Float64]:
        """Return how the two-sided level of wanted quantiles follows from the tracked ones: shares @ M + m.

        Linear between the tracked coverages, proportional beyond the widest, and the median stays.

        Returns:
            M, [C, W], and m, [W], which are others' too: not to be written to.
        """
        return _mixture(self._coverages, tuple(levels))


@functools.lru_cache(maxsize=256)
def _mixture(coverages: tuple[float, ...], levels: tuple[float, ...]) -> tuple[Float64, Float64]:
    knots = np.concatenate([[0.0], (1.0 - np.array(coverages))[::-1], [1.0]])
    wanted = 2.0 * np.minimum(levels, 1.0 - np.array(levels))
    right = np.searchsorted(knots, wanted).clip(1, len(knots) - 1)
    share = (wanted - knots[right - 1]) / (knots[right] - knots[right - 1])
    weights = np.zeros((len(knots), len(wanted)))
    columns = np.arange(len(wanted))
    weights[right - 1, columns] = 1.0 - share
    weights[right, columns] += share
    return weights[-2:0:-1], weights[-1]
