"""The direct decoder: all horizon steps at once, as corrections to the seasonal naive.

For each step ahead it mixes candidate values that need no model (the last value, the same season's earlier
values, the level) with softmax gates, and adds a quantile offset in units of the scale.

Knows nothing of how the summary of the past was made.

Shapes: N origins, D horizon steps, S seasonal lags, C candidates = S + 2, F step features, H hidden, Q quantiles.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from forecaster.model.heads import QuantileHead
from forecaster.model.normalizer import Statistics, soft_clip


class Origins(NamedTuple):
    """What is known at N forecast origins.

    Args:
        context: the encoder's summary, float32 [N, H].
        statistics: [N] each.
        seasonal: the values one lag before each horizon step, float64 [N, D, S].
        seasonal_observed: bool [N, D, S].
        calendar: of each horizon step, float32 [N, D, F].
    """

    context: Tensor
    statistics: Statistics
    seasonal: Tensor
    seasonal_observed: Tensor
    calendar: Tensor

    @property
    def unit(self) -> Tensor:
        """What offsets are measured in, float64 [N]: the smallest mean change over a season, or over one step."""
        changes = self.statistics.changes
        return changes[:, 1:].amin(dim=-1) if changes.shape[-1] > 1 else changes[:, 0]


class DirectDecoder(nn.Module):
    """A shared two-layer perceptron over the horizon steps.

    Args:
        context_size: H.
        decoder_size: units of the hidden layers.
        horizon: the longest D.
        num_lags: S.
        calendar_size: F.
        quantile_levels: the head's.
    """

    def __init__(
        self,
        *,
        context_size: int,
        decoder_size: int,
        horizon: int,
        num_lags: int,
        calendar_size: int,
        quantile_levels: tuple[float, ...],
    ) -> None:
        super().__init__()
        self.from_context = nn.Linear(context_size + 1 + num_lags, decoder_size)
        self.from_step = nn.Linear(2 * (num_lags + 1) + calendar_size, decoder_size, bias=False)
        self.from_horizon = nn.Embedding(horizon, decoder_size)
        self.middle = nn.Linear(decoder_size, decoder_size)
        self.gates = nn.Linear(decoder_size, num_lags + 2)
        self.head = QuantileHead(decoder_size, quantile_levels)
        nn.init.normal_(self.from_horizon.weight, std=0.1)

    def forward(self, origins: Origins) -> Tensor:
        """Return quantiles in the origins' units around the level, float32 [N, D, Q]."""
        candidates, available = self._candidates(origins)
        clipped = soft_clip(candidates[..., :-1])  # the level itself is always zero here
        step = torch.cat([clipped, available[..., :-1].to(clipped.dtype), origins.calendar], dim=-1)
        horizon = torch.arange(step.shape[1], device=step.device)
        scale = origins.statistics.scale
        ratios = torch.log(origins.statistics.changes / scale[:, None]).float()
        hidden = (
            self.from_context(torch.cat([origins.context, ratios], dim=-1))[:, None]
            + self.from_step(step)
            + self.from_horizon(horizon)
        )
        hidden = functional.silu(hidden)
        hidden = hidden + functional.silu(self.middle(hidden))
        gates = self.gates(hidden).masked_fill(~available, -torch.inf).softmax(dim=-1)
        centre = (gates * candidates).sum(dim=-1, keepdim=True) * (scale / origins.unit).float()[:, None, None]
        offsets: Tensor = centre + self.head(hidden)
        return offsets

    @staticmethod
    def _candidates(origins: Origins) -> tuple[Tensor, Tensor]:
        """Return the normalised candidates, float32 [N, D, C], and which are available, bool [N, D, C]."""
        level, scale, last, seen = (x[:, None, None] for x in origins.statistics[:4])
        seasonal = torch.where(origins.seasonal_observed, (origins.seasonal - level) / scale, 0.0)
        shape = (*seasonal.shape[:2], 1)
        newest = torch.where(seen, (last - level) / scale, 0.0).expand(shape)
        candidates = torch.cat([seasonal, newest, torch.zeros_like(newest)], dim=-1).float()
        always = torch.ones(shape, dtype=torch.bool, device=seasonal.device)
        return candidates, torch.cat([origins.seasonal_observed, seen.expand(shape), always], dim=-1)
