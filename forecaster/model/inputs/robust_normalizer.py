"""Level and scale that one value cannot move: what is far from all that was expected counts as missing, until it stays.

A value is *believed* if it lies within `FAR` times the largest distance from the level that was believed lately. One
that is not changes no statistic: it counts as missing. But it raises a doubt in what is believed, which widens the
reach: log-doubt is doubled and grows by `DOUBT` with every such value, and fades with others. So a lone reading,
whatever it says, never counts; a level shift of any size is followed from its fifth value on at the latest; and peaks
that come back with every season are believed after a few.

The means are kept as weights and means, not as sums: m += (x - m) / w. A constant series has its constant for its
level, to the bit, and no scale; a gap only lets the weights fade. Each step depends on the one before through a
comparison, so that many steps are a loop: compiled (`normalizer_kernel`), or in torch where nothing is. Both give the
same bits.

Shapes: B series, T steps, M memory, C changes, W sums: weight of the level, level, weight of the deviation, scale, last
believed value, largest believed distance, doubt, then C weights of changes and C changes.
"""

import numpy as np
import torch
from torch import Tensor

from forecaster.model.inputs import normalizer_kernel
from forecaster.model.inputs.belief import DOUBT, EARLY, FAR, MOST_DOUBT, ROUNDING
from forecaster.model.inputs.memory import Extended
from forecaster.model.inputs.normalizer import CHANGE_FLOOR, FADED, LEAST_SCALE, Statistics
from forecaster.model.kernels.compiling import COMPILES

_FIRST = 7  # of the changes


def width(num_changes: int) -> int:
    """Return how many sums are carried for `num_changes` lags."""
    return _FIRST + 2 * num_changes


def normalize(
    carry: Tensor, extended: Extended, lags: tuple[int, ...], memory: int, timescale: int
) -> tuple[Tensor, Statistics, Tensor]:
    """Advance the running statistics over the steps of a scan.

    Args:
        carry: the sums before the first step, float64 [B, W]; zeros for a fresh series.
        extended: the memory and the steps, [B, M + T].
        lags: of the changes beside one step.
        memory: M.
        timescale: steps over which the statistics forget; ρ = 1 - 1 / timescale.

    Returns:
        The sums after each step, float64 [B, T, W], the statistics that they mean, and which steps' values are observed
        and believed, bool [B, T].
    """
    decay = 1.0 - 1.0 / timescale
    steps = extended.values.shape[1] - memory
    alone = steps == 1 and carry.device.type != "cpu"  # for one step the way to the host and back is longer
    compiled = COMPILES and not alone and not torch.compiler.is_compiling()
    sums, seen = (_compiled if compiled else _step_by_step)(carry, extended, lags, memory, decay)
    return sums, statistics(sums), seen


def fade(sums: Tensor, steps: Tensor, timescale: int) -> Tensor:
    """Return the sums [B, W] after so many missing steps, int64 [B]: what `normalize` makes of them, in closed form."""
    kept = (1.0 - 1.0 / timescale) ** steps.double()[:, None]
    weights = _weights(sums)
    return torch.where(weights & (sums > 0), (sums * kept).clamp_min(FADED), sums)


def statistics(sums: Tensor) -> Statistics:
    """Return what `sums` [..., W] mean; scale and reach are always positive."""
    weight, level, _, scale, last, peak, _ = sums[..., :_FIRST].unbind(-1)
    least = (level.abs() * ROUNDING).clamp_min(LEAST_SCALE)
    scale, reach = scale.maximum(least), (FAR * peak).maximum(least)
    weights, moved = sums[..., _FIRST:].chunk(2, dim=-1)
    changes = torch.where(weights > 0, moved, scale[..., None]).maximum(scale[..., None] * CHANGE_FLOOR)
    return Statistics(level, scale, last, weight > 0, changes, reach)


def _weights(sums: Tensor) -> Tensor:
    """Return which of the sums are weights, bool [W]."""
    index = torch.arange(sums.shape[-1], device=sums.device)
    changes = (sums.shape[-1] - _FIRST) // 2
    return (index == 0) | (index == 2) | ((index >= _FIRST) & (index < _FIRST + changes))


def _compiled(
    carry: Tensor, extended: Extended, lags: tuple[int, ...], memory: int, decay: float
) -> tuple[Tensor, Tensor]:
    n, steps, device = carry.shape[0], extended.values.shape[1] - memory, carry.device
    values, observed = (part.detach().cpu().contiguous().numpy() for part in extended)
    sums, seen = torch.empty((n, steps, carry.shape[1]), dtype=torch.float64), torch.empty((n, steps), dtype=torch.bool)
    behind = np.array(lags, dtype=np.int64)
    start = carry.detach().cpu().contiguous().numpy()
    normalizer_kernel.scan(start, values, observed, behind, decay, sums.numpy(), seen.numpy())
    return sums.to(device), seen.to(device)


def _step_by_step(
    carry: Tensor, extended: Extended, lags: tuple[int, ...], memory: int, decay: float
) -> tuple[Tensor, Tensor]:
    every, seen = [], []
    back = torch.tensor((1, *lags), device=carry.device)
    for at in range(memory, extended.values.shape[1]):
        past = extended.values[:, at - back], extended.observed[:, at - back]
        carry, believed = _advance(carry, extended.values[:, at], extended.observed[:, at], past, decay)
        every.append(carry)
        seen.append(believed)
    return torch.stack(every, dim=1), torch.stack(seen, dim=1)


def _advance(
    sums: Tensor, value: Tensor, observed: Tensor, past: tuple[Tensor, Tensor], decay: float
) -> tuple[Tensor, Tensor]:
    """Return the sums [B, W] after one step, and whether its value [B] is observed and believed.

    Args:
        sums: before it.
        value: float64 [B].
        observed: bool [B].
        past: the values one step before it and each lag before it, [B, C], and which of them were observed.
        decay: ρ.
    """
    forgotten = 1.0 - decay
    sums = torch.where(_weights(sums) & (sums > 0), (sums * decay).clamp_min(FADED), sums)
    weight, level, deviations, scale, last, peak, doubt = sums[:, :_FIRST].unbind(-1)
    trusted = _believed(sums, value)
    seen, doubted = observed & trusted, observed & ~trusted
    known, distance = seen & (weight > 0), (value - level).abs()
    weight, deviations = weight + seen, deviations + known
    scale = torch.where(known, scale + (distance - scale) / deviations, scale)
    peak = torch.where(known, (peak * (1.0 - 0.25 * forgotten)).maximum(distance), peak)
    doubt = torch.where(known, doubt * (1.0 - 0.5 * forgotten), torch.where(doubted, 2.0 * doubt + DOUBT, doubt))
    level = torch.where(known, level + (value - level) / weight, torch.where(seen, value, level))
    last = torch.where(seen, value, last)
    core = torch.stack([weight, level, deviations, scale, last, peak, doubt], dim=-1)
    counts, changes = sums[:, _FIRST:].chunk(2, dim=-1)
    both = past[1] & statistics(torch.cat([core, counts, changes], dim=-1)).believes(past[0]) & seen[:, None]
    counts = counts + both
    changes = torch.where(both, changes + ((value[:, None] - past[0]).abs() - changes) / counts, changes)
    return torch.cat([core, counts, changes], dim=-1), seen


def _believed(sums: Tensor, value: Tensor) -> Tensor:
    """Return whether sums [B, W] believe values [B]."""
    weight, level, peak, doubt = sums[:, 0], sums[:, 1], sums[:, 5], sums[:, 6]
    distance = (value - level).abs()
    peak = torch.where(peak == 0, level.abs(), peak)  # nothing has varied yet
    reach = FAR * peak
    early = (EARLY / weight).clamp(1.0, EARLY)
    return (
        (weight == 0)
        | (peak == 0)
        | (distance <= reach)
        | (doubt >= MOST_DOUBT)
        | (distance <= reach * early * torch.exp(doubt))
    )
