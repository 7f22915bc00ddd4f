"""Quantiles as numbers: their loss, and those between the trained ones.

Shapes: ... any, Q quantiles, W wanted ones.
"""

import bisect

import torch
from torch import Tensor


def pinball_loss(quantiles: Tensor, target: Tensor, levels: Tensor) -> Tensor:
    """Return the pinball loss max(p·(y - q), (p - 1)·(y - q)), summed over nothing (Koenker & Bassett 1978).

    Args:
        quantiles: [..., Q].
        target: [...].
        levels: [Q].
    """
    error = target[..., None] - quantiles
    return torch.maximum(levels * error, (levels - 1.0) * error)


def interpolate_quantiles(quantiles: Tensor, trained: tuple[float, ...], wanted: tuple[float, ...]) -> Tensor:
    """Return the quantiles at the `wanted` levels, [..., W], linear between the trained ones [..., Q].

    Raises ValueError for a level outside the trained range; nothing is extrapolated.
    """
    columns = []
    for level in wanted:
        if not trained[0] <= level <= trained[-1]:
            raise ValueError(f"quantile level {level} is outside the trained range {trained[0]} to {trained[-1]}")
        right = bisect.bisect_left(trained, level)
        if trained[right] == level:
            columns.append(quantiles[..., right])
        else:
            low, high = trained[right - 1], trained[right]
            columns.append(torch.lerp(quantiles[..., right - 1], quantiles[..., right], (level - low) / (high - low)))
    return torch.stack(columns, dim=-1)
