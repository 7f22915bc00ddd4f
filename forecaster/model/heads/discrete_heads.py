"""Heads for values that are counted: the negative binomial, and probabilities of bins.

Shapes: ... any, Q quantiles, H hidden, K bins.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from forecaster.model.heads.heads import Frame

_SHARPNESS = 3.0  # of the softplus that keeps a mean count positive: 1 → 1.016
_MIN_COUNT = 1e-4
_MIN_DISPERSION = 1e-4
_MIN_SIZE = 1e-9
_MANY = 1e8  # from there on the quantile is that of the counts' gamma-distributed rate; a search for it takes minutes
_OUTERMOST = 8.0  # scales from the level: the outer edges of the bins


class NegativeBinomialHead(nn.Module):
    """Counts with mean μ and variance μ + α μ² (Salinas et al. 2020, "DeepAR", eq. 3)."""

    error_power = 0

    def __init__(self, hidden_size: int) -> None:
        import scipy.stats  # noqa: F401 -- takes a second: only where counts are forecast, and not at the first forecast

        super().__init__()
        self.linear = nn.Linear(hidden_size, 2)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Tensor, centre: Tensor) -> Tensor:
        """Return the mean in units around the level, not yet kept positive, and α, [..., 2]."""
        offset, dispersion = self.linear(hidden).unbind(-1)
        return torch.stack([centre + offset, functional.softplus(dispersion) + _MIN_DISPERSION], dim=-1)

    def loss(self, parameters: Tensor, target: Tensor, frame: Frame) -> Tensor:
        """Return -log P(y) of whole numbers y ≥ 0."""
        mean, alpha = self._mean(parameters, frame), parameters[..., 1].double()
        shape = 1 / alpha
        y = target.clamp_min(0)
        combinations = torch.lgamma(y + shape) - torch.lgamma(shape) - torch.lgamma(y + 1)
        missed = torch.log1p(alpha * mean)
        likelihood = combinations - shape * missed + y * (torch.log(alpha * mean) - missed)
        return -likelihood.float()

    def quantiles(self, parameters: Tensor, levels: Sequence[float], frame: Frame) -> Tensor:
        """Return the least counts whose probability to be reached or undercut is `levels`."""
        uniform = torch.tensor(tuple(levels), dtype=torch.float64, device=parameters.device)
        shape = (*parameters.shape[:-1], len(levels))
        return self.sample(parameters[..., None, :], uniform.expand(shape), frame.expand())

    def sample(self, parameters: Tensor, uniform: Tensor, frame: Frame) -> Tensor:
        """Return the least count whose probability to be reached or undercut is `uniform`."""
        import scipy.special
        import scipy.stats

        mean, alpha = self._mean(parameters, frame), parameters[..., 1].double()
        mean, alpha, uniform = (x.cpu().numpy() for x in torch.broadcast_tensors(mean, alpha, uniform))
        few = np.minimum(mean, _MANY)
        counts = scipy.stats.nbinom.ppf(uniform, 1 / alpha, 1 / (1 + alpha * few))
        if (mean > _MANY).any():
            rates = scipy.special.gammaincinv(1 / alpha, uniform) * alpha * mean
            counts = np.where(mean > _MANY, np.floor(rates), counts)
        return torch.from_numpy(np.asarray(counts)).to(parameters.device)

    @staticmethod
    def _mean(parameters: Tensor, frame: Frame) -> Tensor:
        """Return μ > 0, float64: the mean as it is where it is well above zero."""
        natural = frame.level.abs() + frame.scale  # how large the counts are
        natural = torch.where(natural < _MIN_SIZE, 1.0, natural)  # nothing has been counted yet
        wanted = (frame.level + frame.unit * parameters[..., 0].double()) / natural
        mean: Tensor = natural * (functional.softplus(wanted, beta=_SHARPNESS) + _MIN_COUNT)
        return mean


class CategoricalHead(nn.Module):
    """Probabilities of K bins around the level, narrow near it and wide far from it; values spread evenly in a bin.

    The bins do not move with the centre, so that a path of bins has a probability of its own (beam search).

    Args:
        hidden_size: H.
        num_bins: K.
    """

    error_power = 0
    edges: Tensor

    def __init__(self, hidden_size: int, num_bins: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, num_bins)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        reach = float(np.arcsinh(_OUTERMOST))
        edges = torch.linspace(-reach, reach, num_bins + 1, dtype=torch.float64, device="cpu").sinh()
        self.register_buffer("edges", edges, persistent=False)

    def forward(self, hidden: Tensor, centre: Tensor) -> Tensor:
        """Return the bins' log-probabilities, [..., K]; the centre is not used."""
        logits: Tensor = self.linear(hidden)
        return logits.log_softmax(dim=-1)

    def loss(self, parameters: Tensor, target: Tensor, frame: Frame) -> Tensor:
        """Return -log P of the target's bin; the outer bins take what lies beyond them."""
        return -parameters.gather(-1, self.bins(target, frame)[..., None])[..., 0]

    def quantiles(self, parameters: Tensor, levels: Sequence[float], frame: Frame) -> Tensor:
        """Return the quantiles, linear inside of a bin."""
        uniform = torch.tensor(tuple(levels), dtype=torch.float64, device=parameters.device)
        columns = [self.sample(parameters, level.expand(parameters.shape[:-1]), frame) for level in uniform]
        return torch.stack(columns, dim=-1)

    def sample(self, parameters: Tensor, uniform: Tensor, frame: Frame) -> Tensor:
        """Return the quantile at `uniform`, linear inside of a bin."""
        probabilities = parameters.double().exp()
        cumulative = probabilities.cumsum(dim=-1)
        wanted = uniform[..., None] * cumulative[..., -1:]
        index = torch.searchsorted(cumulative.contiguous(), wanted.contiguous()).clamp_max(probabilities.shape[-1] - 1)
        share = probabilities.gather(-1, index)
        before = cumulative.gather(-1, index) - share
        inside = ((wanted - before) / share.clamp_min(1e-300)).clamp(0, 1)[..., 0]
        low, high = self.edges[index[..., 0]], self.edges[index[..., 0] + 1]
        return frame.level + frame.scale * torch.lerp(low, high, inside)

    def bins(self, target: Tensor, frame: Frame) -> Tensor:
        """Return the bin of each target, int64 [...]."""
        z = ((target - frame.level) / frame.scale).contiguous()
        return torch.bucketize(z, self.edges[1:-1].contiguous())

    def values(self, frame: Frame) -> Tensor:
        """Return the middle of each bin in the series' own units, float64 [..., K]."""
        middles = (self.edges[:-1] + self.edges[1:]) / 2
        return frame.level[..., None] + frame.scale[..., None] * middles
