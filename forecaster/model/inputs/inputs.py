"""What the encoder sees of a step: everything causal, and nothing that the state does not hold.

Shapes: B series, T steps, M memory, S seasonal lags, C changes = S + 1.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from forecaster.model.inputs.memory import Extended
from forecaster.model.inputs.normalizer import Statistics, soft_clip

_MIN_MEMORY = 24  # values kept for recognising a retry even where no season is long


def value_size(lags: Sequence[int]) -> int:
    """Return how many inputs come from the values."""
    return 4 + 5 * len(lags)


def seasonal_lags(seasons: Sequence[int]) -> tuple[int, ...]:
    """Return the lags to look back by: every season, and twice the shortest."""
    return tuple(sorted({*seasons, 2 * seasons[0]})) if seasons else ()


def memory_steps(seasons: Sequence[int]) -> int:
    """Return M, the values of each series that its state keeps."""
    return max((*seasonal_lags(seasons), _MIN_MEMORY))


def steps_back(lags: Tensor, horizon: int) -> Tensor:
    """Return for each step ahead how far before the origin the newest value lies that is a whole number of lags before.

    Returns:
        0 or more, int64 [D, S].
    """
    ahead = torch.arange(1, horizon + 1, device=lags.device)[:, None]
    return lags * torch.div(ahead + lags - 1, lags, rounding_mode="floor") - ahead


def absolute_changes(extended: Extended, lags: Sequence[int], memory: int) -> Tensor:
    """Return the absolute changes over one step and over each lag, NaN where unknown, float64 [B, T, C]."""
    now = slice(memory, None)
    columns = []
    for lag in (1, *lags):
        then = slice(memory - lag, -lag)
        known = extended.observed[:, now] & extended.observed[:, then]
        change = (extended.values[:, now] - extended.values[:, then]).abs()
        columns.append(torch.where(known, change, math.nan))
    return torch.stack(columns, dim=-1)


def value_inputs(extended: Extended, believed: Tensor, stats: Statistics, lags: Sequence[int], memory: int) -> Tensor:
    """Return value, mask, lags with masks, relative scale and changes, float32 [B, T, `value_size`].

    The value and its mask come first, which a network that remembers only its output relies on. What is not believed
    is masked as if it were missing.

    Args:
        extended: the memory and the steps, [B, M + T].
        believed: which steps' values are observed and believed, bool [B, T].
        stats: [B, T] each.
        lags: S of them.
        memory: M.
    """
    steps = believed.shape[1]
    level, scale = stats.level, stats.scale
    columns = [torch.where(believed, (extended.values[:, memory:] - level) / scale, 0.0), believed.double()]
    for lag in lags:
        for back in (lag - 1, lag):  # the same season as the next step, and as this one
            window = slice(memory - back, memory - back + steps)
            values = extended.values[:, window]
            seen = extended.observed[:, window] & stats.believes(values)
            columns += [torch.where(seen, (values - level) / scale, 0.0), seen.double()]
    columns.append(torch.log(scale / (scale + level.abs())))
    columns += torch.log(stats.changes / scale[..., None]).unbind(-1)
    return soft_clip(torch.stack(columns, dim=-1).float())
