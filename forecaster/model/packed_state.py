"""Read and advance the statistics and the ring of series where they lie, a few values of each.

What `normalizer` and `memory` do to whole scans of gathered states, for one step and straight on the slab's tensors.
NaN stands for missing throughout, which saves the masks: what is computed of a missing value is missing.

Shapes: C slots of a slab, N series, M memory, S seasonal lags, W sums of the normaliser, P = S + 3 of each kind.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from forecaster.model.normalizer import CHANGE_FLOOR, RELATIVE_FLOOR

_SOFT_LIMIT = 10.0
_MANY = 32
# Numbers beside a tensor are made into tensors at each call, which these need not be.
_ZERO, _ONE = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
_ONES = torch.ones(())
MASK = (1.0 + _SOFT_LIMIT**-2) ** -0.5  # what `soft_clip` makes of a one


class Present(NamedTuple):
    """The statistics of N series, float64: level and scale [N], changes [S + 1, N], as `normalizer.Statistics`."""

    level: Tensor
    magnitude: Tensor
    scale: Tensor
    changes: Tensor


def sum_columns(num_changes: int, device: torch.device) -> Tensor:
    """Return the columns of a state's sums in the order used here, int64 [W, 1].

    The P weights (of the level, the deviations and the changes), then the P weighted sums, then the last value.
    """
    changes = list(range(5, 5 + 2 * num_changes))
    order = [0, 2, *changes[:num_changes], 1, 3, *changes[num_changes:], 4]
    return torch.tensor(order, device=device)[:, None]


def put_rows(tensor: Tensor, slots: Tensor, rows: Tensor) -> None:
    """Put `rows` [N, L, H] into `slots` of a float32 tensor [C, L, H]; torch copies by element, so by large ones."""
    if len(slots) >= _MANY and rows.shape[-1] % 4 == 0:
        tensor, rows = tensor.view(torch.complex128), rows.view(torch.complex128)
    tensor.index_copy_(0, slots, rows)


def present(weights: Tensor, sums: Tensor) -> Present:
    """Return the statistics that weights and weighted sums (float64 [P, N] each) mean; see `normalizer.statistics`."""
    ratios = sums / weights  # NaN where nothing was summed
    level, scale = ratios[0].nan_to_num_(), ratios[1]
    magnitude = level.abs()
    fallback = torch.where(magnitude.gt(_ZERO), magnitude, _ONE)
    scale = torch.where(scale.gt(magnitude * RELATIVE_FLOOR), scale, fallback)
    changes = torch.where(weights[2:].gt(_ZERO), ratios[2:], scale)
    return Present(level, magnitude, scale, torch.maximum(changes, scale * CHANGE_FLOOR))


def soft_clip_(x: Tensor) -> Tensor:
    """Bend float32 numbers in place as `normalizer.soft_clip` does."""
    x.clamp_(-1e15, 1e15)
    return x.mul_(torch.addcmul(_ONES.to(x.device), x, x, value=_SOFT_LIMIT**-2).rsqrt_())
