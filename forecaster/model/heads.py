"""Output heads: what the decoder's numbers mean as a distribution.

Shapes: N origins, D horizon steps, Q quantiles, H hidden.
"""

import bisect

import torch
from torch import Tensor, nn
from torch.nn import functional


class QuantileHead(nn.Module):
    """Quantiles that cannot cross: the median plus accumulated positive widths on either side.

    Args:
        hidden_size: H.
        levels: probabilities, ascending, with 0.5 among them.
    """

    def __init__(self, hidden_size: int, levels: tuple[float, ...]) -> None:
        super().__init__()
        self.levels = levels
        self.median_index = levels.index(0.5)
        self.linear = nn.Linear(hidden_size, len(levels))
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        gaps = torch.tensor(levels).diff()
        # Start near a unit-width distribution: softplus(b) = 4 · (gap between the two levels).
        self.linear.bias.data[: self.median_index] = torch.log(torch.expm1(4 * gaps[: self.median_index]))
        self.linear.bias.data[self.median_index + 1 :] = torch.log(torch.expm1(4 * gaps[self.median_index :]))

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the quantiles' offsets from the centre, [..., Q], of `hidden` [..., H]."""
        raw = self.linear(hidden)
        k = self.median_index
        median = raw[..., k : k + 1]
        below = functional.softplus(raw[..., :k]).flip(-1).cumsum(-1).flip(-1)
        above = functional.softplus(raw[..., k + 1 :]).cumsum(-1)
        return torch.cat([median - below, median, median + above], dim=-1)


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
