"""Causal level and scale: exponentially weighted statistics that stream, in float64.

The level is the weighted mean of the observed values, the scale the weighted mean of their absolute
distance from the level just before them. All four sums obey x_t = ρ·x_{t-1} + u_t, so that a missing step
only lets them fade (their ratios stay), the start needs no prior (the weights are summed beside the values),
and many steps are a triangular matrix product instead of a loop.

These are the plain statistics (`model.statistics`), in which every value counts; `robust_normalizer` has those that one
value cannot move. What both mean is a `Statistics`.

Knows nothing of recurrent cells or of seasons.

Shapes: B series, T steps.
"""

from typing import NamedTuple

import torch
from torch import Tensor

_LEVEL = 5  # weight, level sum, deviation weight, deviation sum, last observed value
_BLOCK = 64
RELATIVE_FLOOR = 1e-9
CHANGE_FLOOR = 1e-3  # of the scale
FADED = 1e-200  # a weight that is left after any number of missing steps; one new value outweighs it for good
LEAST_SCALE = 1e-290  # far from where float64 loses digits
LEAST_VALUE = 1e-280  # of a forecast; what is nearer to zero only says that the series is zero


def width(num_changes: int) -> int:
    """Return how many sums are carried for `num_changes` lags."""
    return _LEVEL + 2 * num_changes


class Statistics(NamedTuple):
    """The statistics just after each step, float64 [B, T]; `seen` is false before the first value.

    `changes` [B, T, C] are the mean absolute changes over each of the lags; where none is known yet, the scale. A value
    of the past further than `reach` from the level is not believed, and looked at as missing.
    """

    level: Tensor
    scale: Tensor
    last: Tensor
    seen: Tensor
    changes: Tensor
    reach: Tensor

    def believes(self, values: Tensor) -> Tensor:
        """Return which values [B, T, ...] lie within the reach of the level."""
        level, reach = (part.reshape(part.shape + (1,) * (values.dim() - part.dim())) for part in (self[0], self[5]))
        return (values - level).abs() <= reach


def decayed_sums(carry: Tensor, inputs: Tensor, decay: float) -> Tensor:
    """Return x_t = decay · x_{t-1} + u_t for every t.

    Args:
        carry: x before the first step, [B, 2 K]: K weights, and what each of them is the weight of.
        inputs: u, [B, T, 2 K].
        decay: ρ in (0, 1).

    Returns:
        x, [B, T, 2 K]. Computed in blocks of 64 steps: x_i = Σ_j≤i ρ^(i-j) u_j + ρ^(i+1) x_carry. No weight fades below
        `FADED`, and what it is the weight of no further either, so that their ratio stays.
    """
    outputs = []
    for block in inputs.split(_BLOCK, dim=1):
        steps = torch.arange(block.shape[1], dtype=inputs.dtype, device=inputs.device)
        powers = decay ** (steps[:, None] - steps[None, :]).clamp_min(0.0)
        within = torch.einsum("ij,bjk->bik", powers.tril(), block)
        sums = within + _kept(carry, decay ** (steps + 1)) * carry[:, None, :]
        carry = sums[:, -1]
        outputs.append(sums)
    return torch.cat(outputs, dim=1)


def fade(sums: Tensor, steps: Tensor, timescale: int) -> Tensor:
    """Return the sums [B, W] after so many missing steps, int64 [B]: what `normalize` makes of them, in closed form."""
    kept = (1.0 - 1.0 / timescale) ** steps.double()
    level, spread, moved = sums[:, :2], sums[:, 2:4], sums[:, _LEVEL:]
    first, second, third = (_kept(part, kept[:, None])[:, 0] * part for part in (level, spread, moved))
    return torch.cat([first, second, sums[:, 4:_LEVEL], third], dim=-1)


def _kept(carry: Tensor, powers: Tensor) -> Tensor:
    """Return what of a carry [B, 2 K] is left where `powers` [T] or [B, T] of it would be, [B, T, 2 K]."""
    weights = carry[:, None, : carry.shape[1] // 2]
    least = torch.where(weights > 0, FADED / weights, 0.0).clamp_max(1.0)
    return powers[..., None].maximum(least).repeat(1, 1, 2)


def last_observed(carry: Tensor, values: Tensor, observed: Tensor) -> Tensor:
    """Return the latest observed value at every step, [B, T], or `carry` [B] before the first."""
    steps = torch.arange(values.shape[1], device=values.device).expand_as(values)
    latest = torch.where(observed, steps, -1).cummax(dim=1).values
    filled = values.gather(1, latest.clamp_min(0))
    return torch.where(latest >= 0, filled, carry[:, None])


def normalize(
    carry: Tensor, values: Tensor, observed: Tensor, changes: Tensor, timescale: int
) -> tuple[Tensor, Statistics]:
    """Advance the running statistics over `values`.

    Args:
        carry: the sums before the first step, float64 [B, W]; zeros for a fresh series.
        values: float64 [B, T]; anything finite where not observed.
        observed: bool [B, T].
        changes: the absolute change over each lag, NaN where an end of it is missing, float64 [B, T, C].
        timescale: steps over which the statistics forget; ρ = 1 - 1 / timescale.

    Returns:
        The sums after each step, float64 [B, T, W], and the statistics that they mean.
    """
    decay = 1.0 - 1.0 / timescale
    weight_in = observed.to(values.dtype)
    level_in = torch.where(observed, values, 0.0)
    sums = decayed_sums(carry[:, :2], torch.stack([weight_in, level_in], dim=-1), decay)
    before = torch.cat([carry[:, None, :2], sums[:, :-1]], dim=1)
    known = observed & (before[..., 0] > 0)
    deviation = torch.where(known, (values - _ratio(before[..., 1], before[..., 0])).abs(), 0.0)
    spread_in = torch.stack([known.to(values.dtype), deviation], dim=-1)
    spread = decayed_sums(carry[:, 2:4], spread_in, decay)
    last = last_observed(carry[:, 4], level_in, observed)
    both = torch.isfinite(changes)
    moved_in = torch.cat([both.to(values.dtype), torch.where(both, changes, 0.0)], dim=-1)
    moved = decayed_sums(carry[:, _LEVEL:], moved_in, decay)
    after = torch.cat([sums, spread, last[..., None], moved], dim=-1)
    return after, statistics(after)


def statistics(sums: Tensor) -> Statistics:
    """Return level, scale, last value and changes of `sums` [..., W]; a scale is always positive."""
    level = _ratio(sums[..., 1], sums[..., 0])
    magnitude = level.abs()
    scale = _ratio(sums[..., 3], sums[..., 2])
    fallback = torch.where(magnitude > 0, magnitude, 1.0)  # nothing has varied yet
    # Below the floor it is rounding, which depends on how the steps were batched.
    scale = torch.where(scale > magnitude * RELATIVE_FLOOR, scale, fallback).clamp_min(LEAST_SCALE)
    weight, moved = sums[..., _LEVEL:].chunk(2, dim=-1)
    changes = torch.where(weight > 0, _ratio(moved, weight), scale[..., None])
    changes = changes.maximum(scale[..., None] * CHANGE_FLOOR)
    return Statistics(level, scale, sums[..., 4], sums[..., 0] > 0, changes, torch.full_like(level, torch.inf))


def soft_clip(x: Tensor, limit: float = 10.0) -> Tensor:
    """Return x bent smoothly into (-limit, limit), almost unchanged near zero: x / sqrt(1 + (x/limit)²)."""
    x = x.clamp(-1e15, 1e15)  # whose squares are numbers: beyond those of float32, a quotient by infinity would be zero
    return x / torch.sqrt(1.0 + (x / limit) ** 2)


def without_traces(forecasts: Tensor) -> Tensor:
    """Return forecasts in which what is as good as zero is zero: around a constant zero, units are no more."""
    return torch.where(forecasts.abs() < LEAST_VALUE, 0.0, forecasts)


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    positive = denominator > 0
    return torch.where(positive, numerator / torch.where(positive, denominator, 1.0), 0.0)
