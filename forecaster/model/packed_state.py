"""Read and advance the statistics and the ring of series where they lie, a few values of each.

What `normalizer` and `memory` do to whole scans of gathered states, for one step and in NumPy on the memory of a slab's
tensors: an operation on a few numbers takes it a third of torch's time, and there are many of them. NaN stands for
missing throughout, which saves the masks: what is computed of a missing value is missing.

Who calls silences NumPy's warnings of divisions by zero (`np.errstate`).

Shapes: C slots of a slab, N series, M memory, S seasonal lags, W sums of the normaliser, P = S + 3 of each kind.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from forecaster.model.normalizer import CHANGE_FLOOR, RELATIVE_FLOOR

Array = npt.NDArray[Any]
Arrays = dict[str, Array]  # a slab's tensors as NumPy sees them
_SOFT_LIMIT = 10.0
_LEAST = np.float32(-1e15)
MASK = (1.0 + _SOFT_LIMIT**-2) ** -0.5  # what `soft_clip` makes of a one


class Present(NamedTuple):
    """The statistics of N series, float64: level, its size and scale [N], changes [S + 1, N]; see `normalizer`."""

    level: Array
    magnitude: Array
    scale: Array
    changes: Array


class Sums:
    """The sums of a state's normaliser in the order used here.

    P weights (of the level, the deviations and the changes), then the P weighted sums, then the last value.

    Args:
        lags: S.
    """

    def __init__(self, lags: int) -> None:
        changes = list(range(5, 7 + 2 * lags))
        self.size = 3 + lags
        order = [0, 2, *changes[: 1 + lags], 1, 3, *changes[1 + lags :], 4]
        self.columns = np.array(order)[:, None]

    def index(self, slots: Array) -> Array:
        """Return where the sums of the series in `slots` lie in the whole slab, int64 [W, N]."""
        index: Array = self.columns + slots * len(self.columns)
        return index

    def split(self, carry: Array) -> tuple[Array, Array, Array]:
        """Return weights and weighted sums [P, N], and last values [N], of sums [W, N]."""
        size = self.size
        return carry[:size], carry[size : 2 * size], carry[2 * size]


def present(weights: Array, sums: Array) -> Present:
    """Return the statistics that weights and weighted sums (float64 [P, N] each) mean; see `normalizer.statistics`."""
    ratios = sums / weights  # NaN where nothing was summed
    level, scale, changes = ratios[0], ratios[1], ratios[2:]
    clear_missing(level, 0.0)
    magnitude = np.abs(level)
    flat = ~(scale > magnitude * RELATIVE_FLOOR)
    if np.logical_or.reduce(flat):
        np.copyto(scale, np.where(magnitude > 0, magnitude, 1.0), where=flat)
    clear_missing(changes, scale)
    np.maximum(changes, scale * CHANGE_FLOOR, out=changes)
    return Present(level, magnitude, scale, changes)


def clear_missing(x: Array, value: float | Array) -> None:
    """Put `value` where NaN is."""
    np.copyto(x, value, where=x != x)  # noqa: PLR0124


def soft_clip_(x: Array) -> None:
    """Bend float32 numbers in place as `normalizer.soft_clip` does."""
    np.maximum(x, _LEAST, out=x)
    np.minimum(x, -_LEAST, out=x)
    root = x * x
    root *= _SOFT_LIMIT**-2
    root += 1.0
    np.sqrt(root, out=root)
    x /= root
