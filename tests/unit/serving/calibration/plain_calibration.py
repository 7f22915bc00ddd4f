"""One series' calibration in plain NumPy, a horizon at a time: what `scoring_kernel` has to come to.

Everything is float64; the states' float32 comes in where they are compared.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
COVERAGES, SHOWN = np.array([0.5, 0.8, 0.9, 0.95]), 1
ALPHA = 1.0 - COVERAGES
FLOOR, NARROWEST, LEAST = 0.02, 0.5, -5.0


def two_sided(moves: Values) -> Values:
    """Return the levels [C] of the tracked intervals after moves [C] of α."""
    alpha = np.minimum(ALPHA + moves, ALPHA + NARROWEST * (1 - ALPHA))
    below = FLOOR * np.exp(np.minimum(alpha, FLOOR) / FLOOR - 1)
    return np.minimum.accumulate(np.where(alpha < FLOOR, below, alpha))  # type: ignore[no-any-return]


def quantile(row: Values, levels: Sequence[float], share: float) -> float:
    """Return the quantile at a level: linear between the trained ones, an exponential tail below them."""
    if share < levels[0]:
        return float(row[0] + (row[1] - row[0]) / math.log(levels[1] / levels[0]) * math.log(share / levels[0]))
    return float(np.interp(share, levels, row))


def interval(row: Values, levels: Sequence[float], share: float) -> tuple[float, float]:
    """Return the quantiles at `share` and 1 - `share`: the same of what is turned upside down."""
    return quantile(row, levels, share), -quantile(-row[::-1], [1 - one for one in reversed(levels)], share)


def rest(target: int, median: float, steps: int) -> int:
    """Return for how many steps behind its target a horizon takes no forecast: uniform in 0 to `steps` - 1."""

    def mixed(word: int) -> int:
        for _ in range(2):
            word = ((word >> 16) ^ word) * 0x45D9F3B % 2**32
        return (word >> 16) ^ word

    drawn = int(abs(math.frexp(median)[0]) * 2.0**53)
    return mixed(mixed((drawn ^ (drawn >> 32)) % 2**32) ^ target) * steps // 2**32


class PlainSeries:
    """What one series waits for and has learnt.

    Args:
        horizons: that are scored, K of them.
        levels: trained ones.
        rates: of the shortest horizon and of the others.
        unit: of errors.
    """

    def __init__(
        self, horizons: Sequence[int], levels: Sequence[float], rates: tuple[float, float], unit: float
    ) -> None:
        k = len(horizons)
        self.horizons, self.levels, self.unit = horizons, levels, unit
        self.gamma = np.array([rates[0]] + [rates[1]] * (k - 1))[:, None] * ALPHA
        self.target, self.median = np.zeros(k, dtype=np.int64), np.zeros(k)
        self.opens = np.zeros(k, dtype=np.int64)  # the position from which on a forecast is taken
        self.bounds, self.raw = np.zeros((k, 2, len(ALPHA))), np.zeros((k, 2))
        self.moves, self.sums = np.zeros((k, len(ALPHA))), np.zeros((k, 5))

    def issue(self, quantiles: Values, position: int) -> None:
        """Take a forecast [D, Q] that was given after so many steps."""
        for k, ahead in enumerate(self.horizons):
            if self.target[k] or position < self.opens[k] or ahead > len(quantiles):
                continue
            row = quantiles[ahead - 1]
            share = two_sided(self.moves[k] + (self.moves[0] if k else 0.0)) / 2
            self.target[k], self.median[k] = position + ahead, row[self.levels.index(0.5)]
            sides = np.transpose([interval(row, self.levels, one) for one in share])
            self.bounds[k] = (sides - self.median[k]) / self.unit
            self.raw[k] = (np.array(interval(row, self.levels, ALPHA[SHOWN] / 2)) - self.median[k]) / self.unit

    def score(self, position: int, value: float) -> None:
        """Take the value of the step at a position."""
        for k in np.flatnonzero(self.target == position):
            if not math.isnan(value):
                error = (value - self.median[k]) / self.unit
                missed = (error < self.bounds[k, 0]) | (error > self.bounds[k, 1])
                held = self.raw[k, 0] <= error <= self.raw[k, 1]
                moves = self.moves[k] + self.gamma[k] * (ALPHA - missed)
                self.moves[k] = np.clip(moves, LEAST, NARROWEST * (1 - ALPHA))
                size = min(abs(error), 20.0)
                score = np.array([size, -math.copysign(size, error), held, not missed[SHOWN]])
                self.sums[k, 0] += 1
                self.sums[k, 1:] += (score - self.sums[k, 1:]) / 100
            self.opens[k] = position + rest(position, self.median[k], self.horizons[k])
            self.target[k], self.median[k], self.bounds[k], self.raw[k] = 0, 0, 0, 0

    def learnt(self) -> Values:
        """Return it in the order of `calibration_learnt`, [K, …]."""
        k = len(self.horizons)
        return np.concatenate([self.bounds.reshape(k, -1), self.raw, self.moves, self.sums], axis=1)
