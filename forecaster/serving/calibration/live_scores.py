"""How good the forecasts that were given have been: exponentially weighted means, O(1) a series and horizon.

Knows errors in units and whether intervals held; knows nothing of states, series ids or what a horizon's step is.

Shapes: N series, K horizons, P pairs of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from forecaster.serving.calibration.scoring_kernel import EXACT, MEMORY
from forecaster.serving.work.series import LiveScores

IntArray = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]


def counted(counts: npt.NDArray[np.float32]) -> IntArray:
    """Return how many scores `scoring_kernel.one_more` has counted, int64 of the same shape.

    Up to 2²⁴ a count is its number, from there on every float32 is one more than the one before: 889 million of them.
    """
    behind = np.ascontiguousarray(counts).view(np.int32).astype(np.int64) - int(EXACT.view(np.int32))
    return np.where(counts < EXACT, counts.astype(np.int64), behind + int(EXACT))


@dataclass(frozen=True, slots=True)
class LiveReport:
    """Live scores of N series at K horizons; NaN where nothing has been scored. See `work.LiveScores`.

    Args:
        horizons: steps ahead, K of them.
        nominal: the coverage that `coverage` and `calibrated_coverage` are of; NaN if no interval is tracked.
        scored: int64 [N, K].
        mase: float64 [N, K].
        bias: float64 [N, K].
        coverage: float64 [N, K].
        calibrated_coverage: float64 [N, K].
    """

    horizons: tuple[int, ...]
    nominal: float
    scored: IntArray
    mase: Float64
    bias: Float64
    coverage: Float64
    calibrated_coverage: Float64

    @classmethod
    def of_sums(cls, horizons: tuple[int, ...], nominal: float, sums: npt.NDArray[np.float32]) -> "LiveReport":
        """Return what the sums of scores mean, [N, K, 5].

        They begin at zero: divided by the sum of their weights, 1 - (1 - 1/m)^count, few scores are a mean too.
        """
        scored = counted(sums[..., 0])
        count = scored.astype(np.float64)
        weight = -np.expm1(np.where(count > 0, count, np.nan) * np.log1p(-1.0 / MEMORY))
        mase, bias, coverage, calibrated = np.moveaxis(sums[..., 1:] / weight[..., None], -1, 0)
        if np.isnan(nominal):
            coverage = calibrated = np.full_like(mase, np.nan)
        return cls(horizons, nominal, scored, mase, bias, coverage, calibrated)

    @classmethod
    def joined(cls, parts: Sequence["LiveReport"]) -> "LiveReport":
        """Return reports of different series, one or more, as one."""
        return cls(
            parts[0].horizons,
            parts[0].nominal,
            np.concatenate([part.scored for part in parts]),
            np.concatenate([part.mase for part in parts]),
            np.concatenate([part.bias for part in parts]),
            np.concatenate([part.coverage for part in parts]),
            np.concatenate([part.calibrated_coverage for part in parts]),
        )

    def of(self, row: int) -> tuple[LiveScores, ...]:
        """Return the scores of one series."""
        parts = (self.mase, self.bias, self.coverage, self.calibrated_coverage)
        return tuple(
            LiveScores(horizon, int(self.scored[row, k]), self.nominal, *(float(part[row, k]) for part in parts))
            for k, horizon in enumerate(self.horizons)
        )

    def mean(self) -> tuple[LiveScores, ...]:
        """Return the mean over the series that have been scored, each weighing the same, and how much was scored.

        No error counts for more than `scoring_kernel.MOST_UNITS`, so that no value of one series moves a fleet's
        mean by much; the median over the series beside it knows nothing of a few that go wrong altogether.
        """
        parts = (self.mase, self.bias, self.coverage, self.calibrated_coverage)
        known = self.scored > 0
        many = np.maximum(known.sum(axis=0), 1)
        means = [np.where(known.any(axis=0), np.where(known, part, 0.0).sum(axis=0) / many, np.nan) for part in parts]
        middle = np.array([np.median(self.mase[at, k]) if at.any() else np.nan for k, at in enumerate(known.T)])
        return tuple(
            LiveScores(
                horizon,
                int(self.scored[:, k].sum()),
                self.nominal,
                *(float(part[k]) for part in (*means, middle)),
            )
            for k, horizon in enumerate(self.horizons)
        )
