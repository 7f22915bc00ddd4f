"""Quantiles at the levels that are wanted, from those at the trained ones.

Knows nothing of lanes or series.

Shapes: Q trained levels, W wanted ones.
"""

import bisect
import functools

import numpy as np
import numpy.typing as npt

from forecaster.serving.storage.records import IntArray

Float64 = npt.NDArray[np.float64]


def interpolated(quantiles: Float64, trained: tuple[float, ...], wanted: tuple[float, ...]) -> Float64:
    """Return the quantiles at the `wanted` levels, [..., W], linear between the trained ones [..., Q]."""
    if wanted == trained:
        return quantiles
    left, right, share = _neighbours(trained, wanted)
    if share is None:
        return quantiles[..., left]
    low = quantiles[..., left]
    return low + share * (quantiles[..., right] - low)


@functools.lru_cache(maxsize=256)
def _neighbours(trained: tuple[float, ...], wanted: tuple[float, ...]) -> tuple[IntArray, IntArray, Float64 | None]:
    """Return for each wanted level the trained ones around it, and how far from the left one it is, 0 to 1.

    None instead of the latter if all of them are trained ones.
    """
    right = np.array([bisect.bisect_left(trained, level) for level in wanted], dtype=np.int64)
    known = np.array(trained)
    exact = known[right] == np.array(wanted)
    left = np.where(exact, right, right - 1)
    gap = np.where(exact, 1.0, known[right] - known[left])
    return left, right, None if exact.all() else np.where(exact, 0.0, (np.array(wanted) - known[left]) / gap)
