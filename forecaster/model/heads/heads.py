"""Output heads: what the decoder's numbers mean as a distribution of one step's value.

A head maps a hidden vector and a centre to parameters, and parameters to a loss, quantiles and samples. Centre and
parameters are in units of the series around its level (`Frame`); targets, quantiles and samples are in the series' own
units. A sample is the quantile at a uniform number, so that who draws the numbers decides whether a path repeats.

Knows nothing of recurrence, of horizons or of where the hidden vector comes from.

Shapes: ... any, Q quantiles, H hidden, A parameters.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import scipy.special
import torch
from torch import Tensor, nn
from torch.nn import functional

from forecaster.model.heads.quantiles import interpolate_quantiles, pinball_loss

_MIN_SPREAD = 1e-3  # in units: a narrower density would be one point
_MAX_DEGREES = 60.0  # of freedom: beyond, Student's t is a Gaussian
_MOST_UNITS = 1e15  # of a target from the level


class Frame(NamedTuple):
    """What parameters are relative to, float64 [...] each: y = level + unit · parameter.

    Args:
        level: of the series.
        unit: what offsets are measured in.
        scale: the mean distance from the level.
    """

    level: Tensor
    unit: Tensor
    scale: Tensor

    def expand(self) -> "Frame":
        """Return the frame with one more axis at the end."""
        return Frame(*(part[..., None] for part in self))


class Head(Protocol):
    """The interface of a head; all of them are `nn.Module`s.

    Args:
        error_power: the power of an error, in units, that the loss grows with; 0 if slowly, or not by units.
    """

    error_power: int

    def __call__(self, hidden: Tensor, centre: Tensor) -> Tensor:
        """Return parameters [..., A] of hidden [..., H] and centre [...], which is in units around the level."""
        ...

    def loss(self, parameters: Tensor, target: Tensor, frame: Frame) -> Tensor:
        """Return the loss [...] of targets float64 [...], in the series' own units."""
        ...

    def quantiles(self, parameters: Tensor, levels: Sequence[float], frame: Frame) -> Tensor:
        """Return the quantiles at `levels`, ascending, in the series' own units, float64 [..., Q]."""
        ...

    def sample(self, parameters: Tensor, uniform: Tensor, frame: Frame) -> Tensor:
        """Return the quantile at `uniform` (float64 [...], in (0, 1)), float64 [...]."""
        ...


class QuantileHead(nn.Module):
    """Quantiles that cannot cross: the median plus accumulated positive widths on either side.

    As a distribution it is linear between the levels; beyond them samples have exponential tails.

    Args:
        hidden_size: H.
        levels: probabilities, ascending, with 0.5 among them.
    """

    error_power = 1

    def __init__(self, hidden_size: int, levels: tuple[float, ...]) -> None:
        super().__init__()
        self.levels = levels
        self.median_index = levels.index(0.5)
        self.linear = nn.Linear(hidden_size, len(levels))
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        gaps = torch.tensor(levels, device="cpu").diff()  # also where the weights have no memory, see `Bundle`
        # Start near a unit-width distribution: softplus(b) = 4 · (gap between the two levels).
        self.linear.bias.data[: self.median_index] = torch.log(torch.expm1(4 * gaps[: self.median_index]))
        self.linear.bias.data[self.median_index + 1 :] = torch.log(torch.expm1(4 * gaps[self.median_index :]))

    def forward(self, hidden: Tensor, centre: Tensor) -> Tensor:
        """Return the quantiles in units, [..., Q]."""
        raw = self.linear(hidden)
        k = self.median_index
        median = centre[..., None] + raw[..., k : k + 1]
        below = functional.softplus(raw[..., :k]).flip(-1).cumsum(-1).flip(-1)
        above = functional.softplus(raw[..., k + 1 :]).cumsum(-1)
        return torch.cat([median - below, median, median + above], dim=-1)

    def loss(self, parameters: Tensor, target: Tensor, frame: Frame) -> Tensor:
        """Return the mean pinball loss over the levels, in units."""
        levels = torch.tensor(self.levels, device=parameters.device)
        return pinball_loss(parameters, _in_units(target, frame), levels).mean(dim=-1)

    def quantiles(self, parameters: Tensor, levels: Sequence[float], frame: Frame) -> Tensor:
        """Return the learnt quantiles and those between them."""
        wide = frame.expand()
        own = wide.level + wide.unit * parameters.double()
        return own if tuple(levels) == self.levels else interpolate_quantiles(own, self.levels, tuple(levels))

    def sample(self, parameters: Tensor, uniform: Tensor, frame: Frame) -> Tensor:
        """Return the quantile at `uniform`."""
        if len(self.levels) == 1:  # all that is known of the distribution is its median
            return frame.level + frame.unit * parameters[..., 0].double().expand(uniform.shape)
        levels = torch.tensor(self.levels, dtype=torch.float64, device=parameters.device)
        inside = uniform.clamp(self.levels[0], self.levels[-1])
        own = parameters.double()
        right = torch.searchsorted(levels, inside).clamp(1, len(levels) - 1)
        share = (inside - levels[right - 1]) / (levels[right] - levels[right - 1])
        low, high = (own.gather(-1, index[..., None])[..., 0] for index in (right - 1, right))
        below = _tail(own[..., :2], levels[:2], uniform)
        above = _tail(-own[..., -2:].flip(-1), 1 - levels[-2:].flip(0), 1 - uniform)
        value: Tensor = torch.lerp(low, high, share) + below - above
        return frame.level + frame.unit * value


def _tail(quantiles: Tensor, levels: Tensor, uniform: Tensor) -> Tensor:
    """Return how far below the lowest quantile a sample lies, 0 or less: an exponential tail through the two lowest.

    Args:
        quantiles: the two lowest, [..., 2].
        levels: theirs, [2].
        uniform: [...].
    """
    rate = (quantiles[..., 1] - quantiles[..., 0]) / torch.log(levels[1] / levels[0])
    return rate * torch.log(uniform / levels[0]).clamp_max(0.0)


class GaussianHead(nn.Module):
    """A normal distribution; for a fixed spread its loss is the squared error (Goodfellow et al. 2016, eq. 5.65)."""

    error_power = 2

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.linear = _zero_linear(hidden_size, 2)

    def forward(self, hidden: Tensor, centre: Tensor) -> Tensor:
        """Return mean and log spread in units, [..., 2]."""
        offset, spread = self.linear(hidden).unbind(-1)
        return torch.stack([centre + offset, _spread(spread)], dim=-1)

    def loss(self, parameters: Tensor, target: Tensor, frame: Frame) -> Tensor:
        """Return -log N(y; μ, σ) in units, without what does not depend on the parameters but ½ log 2π."""
        mean, spread = parameters.unbind(-1)
        z = (_in_units(target, frame) - mean) / spread
        return 0.5 * z.square() + spread.log() + 0.5 * math.log(math.tau)

    def quantiles(self, parameters: Tensor, levels: Sequence[float], frame: Frame) -> Tensor:
        """Return μ + σ Φ⁻¹(p)."""
        return _by_level(self, parameters, levels, frame)

    def sample(self, parameters: Tensor, uniform: Tensor, frame: Frame) -> Tensor:
        """Return μ + σ Φ⁻¹(u)."""
        mean, spread = parameters.double().unbind(-1)
        value: Tensor = frame.level + frame.unit * (mean + spread * torch.special.ndtri(uniform))
        return value


class StudentTHead(nn.Module):
    """Student's t with learnt location, spread and degrees of freedom, above 2."""

    error_power = 0

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.linear = _zero_linear(hidden_size, 3)

    def forward(self, hidden: Tensor, centre: Tensor) -> Tensor:
        """Return location, spread and degrees of freedom, [..., 3]."""
        offset, spread, degrees = self.linear(hidden).unbind(-1)
        degrees = 2.0 + _MAX_DEGREES * torch.sigmoid(degrees - 2.0)
        return torch.stack([centre + offset, _spread(spread), degrees], dim=-1)

    def loss(self, parameters: Tensor, target: Tensor, frame: Frame) -> Tensor:
        """Return the negative logarithm of the density, in units."""
        location, spread, nu = parameters.unbind(-1)
        z = (_in_units(target, frame) - location) / spread
        norm: Tensor = torch.lgamma(nu / 2) - torch.lgamma((nu + 1) / 2) + 0.5 * torch.log(nu * math.pi)
        return norm + spread.log() + 0.5 * (nu + 1) * torch.log1p(z.square() / nu)

    def quantiles(self, parameters: Tensor, levels: Sequence[float], frame: Frame) -> Tensor:
        """Return location + spread · t⁻¹(p)."""
        return _by_level(self, parameters, levels, frame)

    def sample(self, parameters: Tensor, uniform: Tensor, frame: Frame) -> Tensor:
        """Return location + spread · t⁻¹(u)."""
        location, spread, nu = parameters.double().unbind(-1)
        nu, uniform = torch.broadcast_tensors(nu, uniform)
        z = scipy.special.stdtrit(nu.cpu().numpy(), uniform.cpu().numpy())
        return frame.level + frame.unit * (location + spread * torch.from_numpy(np.asarray(z)).to(nu.device))


def _by_level(head: Head, parameters: Tensor, levels: Sequence[float], frame: Frame) -> Tensor:
    """Return the quantiles one by one: a quantile is the sample at its level."""
    uniform = torch.tensor(tuple(levels), dtype=torch.float64, device=parameters.device)
    shape = (*parameters.shape[:-1], len(levels))
    return head.sample(parameters[..., None, :], uniform.expand(shape), frame.expand())


def _in_units(target: Tensor, frame: Frame) -> Tensor:
    # A series that was constant has no unit to speak of; the squares of what it is told in are float32's numbers still.
    return ((target - frame.level) / frame.unit).clamp(-_MOST_UNITS, _MOST_UNITS).float()


def _zero_linear(hidden_size: int, outputs: int) -> nn.Linear:
    linear = nn.Linear(hidden_size, outputs)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def _spread(raw: Tensor) -> Tensor:
    """Return a positive spread, about one unit at first."""
    return functional.softplus(raw + 0.54) + _MIN_SPREAD
