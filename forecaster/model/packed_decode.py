"""The direct decoder's quantiles, straight from a slab's tensors, with the fewest operations.

What `Seq2Seq.predict` does for a plain encoder, a direct decoder and a quantile head. The calendar of the steps ahead
is a rotation of the origin's, so that it comes out of one product with the origin's features; the accumulated widths
are a product with a triangular matrix, which gives only the levels that are asked for.

Shapes: C slots, N series, D horizon steps, S seasonal lags, A decoder's hidden, Q levels, W wanted ones, H hidden,
K members, L layers.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from forecaster.data.features import DAY_US, calendar_periods
from forecaster.model.direct_decoder import DirectDecoder
from forecaster.model.inputs import steps_back
from forecaster.model.packed_state import present, soft_clip_, sum_columns
from forecaster.model.quantiles import interpolate_quantiles
from forecaster.model.seq2seq import Seq2Seq
from forecaster.model.state import State

_MAX_TABLE = 1_048_576  # slots of the ring by position, looked up rather than computed


class _Member:
    """One network's decoder: its weights by what they are multiplied with."""

    def __init__(self, model: Seq2Seq, turned: Tensor) -> None:
        decoder = model.decoder
        assert isinstance(decoder, DirectDecoder)
        hidden, lags = model.config.hidden_size, len(model.lags)
        readout, step = decoder.readout, decoder.from_step.weight.detach().t()
        context = decoder.from_context.weight.detach().t()
        self.bias = decoder.from_context.bias.detach() + step[2 * lags + 1]
        self.summary = context[:hidden].contiguous()
        # Whether there is a last value at all is told by a mask here and by its opposite among the origins.
        clipped, available = step[lags], step[2 * lags + 1]
        self.small = torch.cat([context[hidden : hidden + 1 + lags], clipped[None], -available[None]]).contiguous()
        self.static = context[hidden + 1 + lags :].contiguous()
        seasonal = [*range(lags), *range(lags + 1, 2 * lags + 1)]
        self.seasonal = step[seasonal].contiguous()
        calendar = turned.shape[-1]  # features
        ahead = step[2 * lags + 2 :]
        self.calendar = (turned @ ahead[:calendar]).transpose(0, 1).flatten(1).contiguous()
        self.future = ahead[calendar:].contiguous()
        self.horizon = decoder.from_horizon.weight.detach().flatten()
        self.middle, self.middle_bias = readout.middle.weight.detach().t().contiguous(), readout.middle.bias.detach()
        head = readout.head.linear
        self.out = torch.cat([readout.gates.weight, head.weight]).detach()
        self.out_bias = torch.cat([readout.gates.bias, head.bias]).detach()[:, None]


class _Origins(NamedTuple):
    """What is known of N series.

    Args:
        level: float64 [N].
        unit: float64 [N], what quantiles are measured in.
        relative: the scale in units, float32 [N, 1].
        summaries: the encoders' outputs, float32 [N, K, H].
        small: the changes' logarithms, the last value (clipped), whether there is none; float32 [S + 3, N].
        candidates: the values lags before each step ahead, float32 [S, N, D].
        features: these clipped, and whether there are such, float32 [2 S, N · D].
        missing: the opposite, bool [S, N, D].
        newest: the last value, float32 [N, 1].
        unseen: whether there is none, bool [N, 1].
    """

    level: Tensor
    unit: Tensor
    relative: Tensor
    summaries: Tensor
    small: Tensor
    candidates: Tensor
    features: Tensor
    missing: Tensor
    newest: Tensor
    unseen: Tensor


class PackedDecode:
    """The forecasts of one model or of an ensemble's members.

    Args:
        members: of one configuration, in evaluation mode.
    """

    def __init__(self, members: Sequence[Seq2Seq]) -> None:
        first = members[0]
        self.device = next(first.parameters()).device
        config = self.config = first.config
        self.memory, self.lags, self.size = first.memory, len(first.lags), config.decoder_size
        self.back = torch.tensor(first.lags, dtype=torch.int64, device=self.device)
        self.columns = sum_columns(1 + self.lags, self.device)
        turned = _turns(first.step_us, config.horizon, self.device) if config.calendar else torch.zeros((config.horizon, 0, 0))
        self.members = [_Member(member, turned) for member in members]
        self.ahead: dict[int, Tensor] = {}
        self.levels: dict[tuple[float, ...], Tensor] = {}

    def at(self, calendar: Tensor) -> list[Tensor]:
        """Return what each step ahead of times adds to the hidden layers, from their features, float32 [N, D · A]."""
        return [torch.addmm(member.horizon, calendar, member.calendar) for member in self.members]

    def predict(
        self,
        tensors: State,
        slots: Tensor,
        out: Tensor,
        ahead: Sequence[Tensor],
        future: Tensor | None,
        static: Tensor | None,
        levels: tuple[float, ...],
    ) -> None:
        """Write the quantiles of the series in `slots` at `levels` into `out`, float64 [N, D, W].

        Args:
            tensors: [C, ...] each; they stay as they are.
            slots: int64 [N].
            out: [N, D, W].
            ahead: see `at`, of each series or of one time for all.
            future: features of the known-future covariates, float32 [N, D, F].
            static: features of the series, float32 [N, E].
            levels: within the trained ones.
        """
        origins = self._origins(tensors, slots, out.shape[1])
        n, horizon = out.shape[:2]
        widths = self._widths(levels)
        total: Tensor | None = None
        for k, member in enumerate(self.members):
            context = torch.addmm(member.bias, origins.summaries[:, k], member.summary)
            context.addmm_(origins.small.T, member.small)
            if static is not None:
                context.addmm_(static, member.static)
            table = ahead[k].view(-1, self.config.horizon, self.size)[:, :horizon]
            hidden = (table + context[:, None]).view(-1, self.size)  # [N · D, A]
            if self.lags:
                hidden.addmm_(origins.features.T, member.seasonal)
            if future is not None:
                hidden.addmm_(future.reshape(len(hidden), -1), member.future)
            gates, raw = self._readout(member, hidden).split([self.lags + 2, len(widths[0])])
            centre = self._centre(gates.view(-1, n, horizon), origins)
            own = self._own(raw, centre.view(-1), widths)
            total = own if total is None else total.add_(own)
        assert total is not None
        if len(self.members) > 1:
            total.mul_(1.0 / len(self.members))
        target = out.permute(2, 0, 1)  # [W, N, D]
        torch.mul(total.view(target.shape), origins.unit[:, None], out=target)
        target.add_(origins.level[:, None])

    def _origins(self, tensors: State, slots: Tensor, horizon: int) -> "_Origins":
        """Return what the decoders take in of the present states."""
        lags = self.lags
        carry = torch.take(tensors["normalizer"], torch.add(self.columns, slots, alpha=len(self.columns)))
        weights, sums, last = carry.split([lags + 3, lags + 3, 1])
        level, _, scale, changes = present(weights, sums)
        unit = changes[1:].amin(dim=0) if lags else changes[0]
        newest = last.sub_(level).div_(scale)  # zero before the first value
        unseen = weights[:1].eq(0.0)
        small = torch.cat([torch.div(changes, scale).log_(), newest, unseen]).float()
        newest = small[lags + 1].clone()
        soft_clip_(small[lags + 1])
        position = tensors["position"].index_select(0, slots)
        index = self._index(position, horizon).add_(slots[:, None], alpha=self.memory)  # [S, N, D]
        seen = torch.take(tensors["ring_observed"], index)
        values = torch.take(tensors["ring"], index).sub_(level[:, None]).div_(scale[:, None])
        features = torch.empty((2 * lags, *index.shape[1:]), device=self.device)
        clipped, masks = features.split([lags, lags])
        masks.copy_(seen)
        candidates = torch.mul(values, masks, out=values).float()
        soft_clip_(clipped.copy_(candidates))
        return _Origins(
            level,
            unit,
            (scale / unit).float()[:, None],
            tensors["hidden"].index_select(0, slots).unflatten(1, (len(self.members), -1)).sum(dim=2),
            small,
            candidates,
            features.view(2 * lags, -1),
            seen.logical_not_(),
            newest[:, None],
            unseen[0][:, None],
        )

    def _index(self, position: Tensor, horizon: int) -> Tensor:
        """Return the slots of the ring with the values lags before each step ahead, int64 [S, N, D]."""
        found = self.ahead.get(horizon)
        if found is None:
            back = steps_back(self.back, horizon).T[:, None] + 1  # [S, 1, D]
            if self.memory * back.numel() <= _MAX_TABLE:
                back = (torch.arange(self.memory, device=self.device)[:, None] - back).remainder(self.memory)
            found = self.ahead[horizon] = back
        if found.shape[1] == self.memory:
            return found.index_select(1, position.remainder_(self.memory))
        return torch.sub(position[:, None], found).remainder_(self.memory)

    def _readout(self, member: _Member, hidden: Tensor) -> Tensor:
        """Return the gates' logits and the head's numbers, [S + 2 + Q, N · D]."""
        hidden = functional.silu(hidden, inplace=True)
        middle = torch.addmm(member.middle_bias, hidden, member.middle)
        hidden.add_(functional.silu(middle, inplace=True))
        return torch.addmm(member.out_bias, member.out, hidden.T)

    def _centre(self, gates: Tensor, origins: "_Origins") -> Tensor:
        """Return the mixtures of the candidates, in units, of logits [S + 2, N, D]: [N, D]."""
        seasonal, newest, _ = gates.split([self.lags, 1, 1])
        seasonal.masked_fill_(origins.missing, -math.inf)
        newest[0].masked_fill_(origins.unseen, -math.inf)
        seasonal, newest, _ = gates.softmax(dim=0).split([self.lags, 1, 1])
        centre = newest[0].mul_(origins.newest)
        if self.lags:
            centre.add_(seasonal.mul_(origins.candidates).sum(dim=0))
        return centre.mul_(origins.relative)

    def _own(self, raw: Tensor, centre: Tensor, widths: Tensor) -> Tensor:
        """Return the quantiles in units, float32 [W, N · D]."""
        k = self.config.quantile_levels.index(0.5)
        parts = functional.softplus(raw)
        torch.add(raw[k], centre, out=parts[k])
        return widths @ parts

    def _widths(self, levels: tuple[float, ...]) -> Tensor:
        """Return how the levels add up from the median and the widths between the trained levels, [W, Q]."""
        found = self.levels.get(levels)
        if found is None:
            trained = self.config.quantile_levels
            k, at = trained.index(0.5), torch.arange(len(trained))
            row, column = at[:, None], at[None, :]
            whole = ((k < column) & (column <= row)).double() - ((row <= column) & (column < k)).double()
            whole[:, k] = 1.0
            own = whole if levels == trained else interpolate_quantiles(whole.T, trained, levels).T
            found = self.levels[levels] = own.float().to(self.device).contiguous()
        return found


def _turns(step_us: int, horizon: int, device: torch.device) -> Tensor:
    """Return the matrices that turn a time's calendar features into those 1 … D steps later, float32 [D, C, C]."""
    lengths = torch.tensor([length for _, length in calendar_periods(step_us)], dtype=torch.float64)
    angles = torch.arange(1, horizon + 1)[:, None] * (math.tau * step_us / DAY_US) / lengths
    sine, cosine = torch.diag_embed(angles.sin()), torch.diag_embed(angles.cos())
    turns = torch.cat([torch.cat([cosine, -sine], dim=2), torch.cat([sine, cosine], dim=2)], dim=1)
    return turns.float().to(device)
