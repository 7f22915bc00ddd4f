"""What decoders share: what is known at an origin, and from hidden vectors to distributions around the seasonal naive.

For each step ahead a decoder mixes candidate values that need no model (the last value, the same season's earlier
values, the level) with softmax gates, and its head says how the value is distributed around that centre.

Knows nothing of how the summary of the past was made, or of how hidden vectors of the steps ahead are.

Shapes: N origins, D horizon steps, S seasonal lags, C candidates = S + 2, F step features, E static features, H hidden,
K attended outputs, A decoder's hidden, P paths, ... any.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from forecaster.config import ModelConfig
from forecaster.model.decoders.attention import Attention
from forecaster.model.heads.discrete_heads import CategoricalHead, NegativeBinomialHead
from forecaster.model.heads.heads import Frame, GaussianHead, QuantileHead, StudentTHead
from forecaster.model.inputs.normalizer import Statistics, soft_clip

MOST_SCALES = 1e15  # from the level, of a candidate

AnyHead = QuantileHead | GaussianHead | StudentTHead | NegativeBinomialHead | CategoricalHead


class DecoderInputs(NamedTuple):
    """What is known at N forecast origins.

    Args:
        context: the encoder's summary, float32 [N, H].
        statistics: [N] each.
        seasonal: the values one lag before each horizon step, float64 [N, D, S].
        seasonal_observed: and believed, bool [N, D, S].
        ahead: of each horizon step, calendar and known-future covariates, float32 [N, D, F].
        static: float32 [N, E].
        memory: the encoder's last outputs, float32 [N, K, H]; K = 0 without attention.
        remembered: which of them there are, bool [N, K].
    """

    context: Tensor
    statistics: Statistics
    seasonal: Tensor
    seasonal_observed: Tensor
    ahead: Tensor
    static: Tensor
    memory: Tensor
    remembered: Tensor

    @property
    def unit(self) -> Tensor:
        """What offsets are measured in, float64 [N]: the smallest mean change over a season, or over one step."""
        changes = self.statistics.changes
        return changes[:, 1:].amin(dim=-1) if changes.shape[-1] > 1 else changes[:, 0]

    @property
    def frame(self) -> Frame:
        """What a head's parameters are relative to, for the steps of each origin: float64 [N, 1] each."""
        return Frame(self.statistics.level, self.unit, self.statistics.scale).expand()

    def rows(self, rows: slice) -> "DecoderInputs":
        """Return some of the origins."""
        statistics = Statistics(*(part[rows] for part in self.statistics))
        return DecoderInputs(self.context[rows], statistics, *(part[rows] for part in self[2:]))


class Decoded(NamedTuple):
    """The distributions of the steps ahead.

    Args:
        parameters: the head's, float32 [N, D, …].
        ending: the logit of the probability that a series that goes on up to a step is over with it, float32 [N, D];
            None for series that do not end.
    """

    parameters: Tensor
    ending: Tensor | None


class Sizes(NamedTuple):
    """Sizes of the parts of `DecoderInputs`: context H, lags S, step features F, static features E."""

    context: int
    lags: int
    ahead: int
    static: int


class StepFeatures(nn.Module):
    """What is known of each step ahead before it comes: candidates, calendar, known-future covariates.

    Args:
        sizes: of the origins' parts.
        hidden_size: of the bidirectional network over the horizon, if there is one.
        bidirectional: whether what is known of the future is read in both directions.
    """

    def __init__(self, sizes: Sizes, hidden_size: int, *, bidirectional: bool) -> None:
        super().__init__()
        both = -(-hidden_size // 2)
        reads = bidirectional and sizes.ahead > 0  # without calendar and covariates nothing is known of the future
        self.reader = nn.GRU(sizes.ahead, both, batch_first=True, bidirectional=True) if reads else None
        self.size = 2 * (sizes.lags + 1) + sizes.ahead + (2 * both if reads else 0)
        self.context_size = sizes.context + 1 + sizes.lags + sizes.static

    def forward(self, origins: DecoderInputs, candidates: Tensor, available: Tensor) -> Tensor:
        """Return the features, float32 [N, D, `size`]."""
        clipped = soft_clip(candidates[..., :-1])  # the level itself is always zero here
        parts = [clipped, available[..., :-1].to(clipped.dtype), origins.ahead]
        if self.reader is not None:
            parts.append(self.reader(origins.ahead)[0])
        return torch.cat(parts, dim=-1)

    @staticmethod
    def context(origins: DecoderInputs) -> Tensor:
        """Return what is known of an origin as a whole, float32 [N, `context_size`]."""
        ratios = torch.log(origins.statistics.changes / origins.statistics.scale[:, None]).float()
        return torch.cat([origins.context, ratios, origins.static], dim=-1)

    @staticmethod
    def candidates(origins: DecoderInputs) -> tuple[Tensor, Tensor]:
        """Return the normalised candidates, float32 [N, D, C], and which are available, bool [N, D, C]."""
        level, scale, last, seen = (x[:, None, None] for x in origins.statistics[:4])
        seasonal = torch.where(origins.seasonal_observed, (origins.seasonal - level) / scale, 0.0)
        shape = (*seasonal.shape[:2], 1)
        newest = torch.where(seen, (last - level) / scale, 0.0).expand(shape)
        candidates = in_float(torch.cat([seasonal, newest, torch.zeros_like(newest)], dim=-1))
        always = torch.ones(shape, dtype=torch.bool, device=seasonal.device)
        return candidates, torch.cat([origins.seasonal_observed, seen.expand(shape), always], dim=-1)


def in_float(candidates: Tensor) -> Tensor:
    """Return normalised values as float32, which has no number for some of them: gates of zero would make that NaN."""
    return candidates.clamp(-MOST_SCALES, MOST_SCALES).float()


class Readout(nn.Module):
    """From a decoder's hidden vectors to distributions.

    Args:
        config: names the head.
        num_candidates: C.
        memory_size: H, of the attended outputs.
    """

    def __init__(self, config: ModelConfig, *, num_candidates: int, memory_size: int) -> None:
        super().__init__()
        size = config.decoder_size
        self.attention = None if config.attention == "none" else Attention(config.attention, size, memory_size)
        self.attended = None if self.attention is None else nn.Linear(memory_size, size)
        self.middle = nn.Linear(size, size)
        self.gates = nn.Linear(size, num_candidates)
        self.head = make_head(config)
        self.ending = nn.Linear(size, 1) if config.end_of_sequence else None

    def forward(
        self, hidden: Tensor, candidates: Tensor, available: Tensor, origins: DecoderInputs
    ) -> tuple[Tensor, Tensor | None]:
        """Return the head's parameters [N, P, …] and the endings' logits [N, P].

        Args:
            hidden: float32 [N, P, A]; P are steps or paths.
            candidates: float32 [N, P, C] or [N, 1, C].
            available: bool, of the same shape.
            origins: N of them, for their units and their memory.
        """
        if self.attention is not None and self.attended is not None:
            hidden = hidden + self.attended(self.attention(hidden, origins.memory, origins.remembered))
        hidden = functional.silu(hidden)
        hidden = hidden + functional.silu(self.middle(hidden))
        gates = self.gates(hidden).masked_fill(~available, -torch.inf).softmax(dim=-1)
        ratio = (origins.statistics.scale / origins.unit).float()[:, None]
        centre = (gates * candidates).sum(dim=-1) * ratio
        ending = None if self.ending is None else self.ending(hidden)[..., 0]
        return self.head(hidden, centre), ending


def make_head(config: ModelConfig) -> AnyHead:
    """Return the head that a resolved configuration asks for."""
    size = config.decoder_size
    if config.head == "gaussian":
        return GaussianHead(size)
    if config.head == "student_t":
        return StudentTHead(size)
    if config.head == "negative_binomial":
        return NegativeBinomialHead(size)
    if config.head == "categorical":
        return CategoricalHead(size, config.num_bins)
    return QuantileHead(size, config.quantile_levels)
