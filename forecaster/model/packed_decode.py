"""The direct decoder's quantiles, straight from a slab's tensors, with the fewest operations.

What `Seq2Seq.predict` does for a plain encoder, a direct decoder and a quantile head. The calendar of the steps ahead
is a rotation of the origin's, so that it comes out of one product with the origin's features; the accumulated widths
are a product with a triangular matrix, which gives only the levels that are asked for.

Shapes: C slots, N series, D horizon steps, S seasonal lags, A decoder's hidden, Q levels, W wanted ones, H hidden,
K members, L layers.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from forecaster.data.features import DAY_US, calendar_periods
from forecaster.model.direct_decoder import DirectDecoder
from forecaster.model.inputs import steps_back
from forecaster.model.packed_state import present, soft_clip_, sum_columns, take
from forecaster.model.quantiles import interpolate_quantiles
from forecaster.model.seq2seq import Seq2Seq
from forecaster.model.state import State


class _Member:
    """One network's decoder: its weights by what they are multiplied with."""

    def __init__(self, model: Seq2Seq, turned: Tensor) -> None:
        decoder = model.decoder
        assert isinstance(decoder, DirectDecoder)
        hidden, lags = model.config.hidden_size, len(model.lags)
        readout, step = decoder.readout, decoder.from_step.weight.detach().t()
        context = decoder.from_context.weight.detach().t()
        self.bias = decoder.from_context.bias.detach()
        self.summary, self.ratios = context[:hidden].contiguous(), context[hidden : hidden + 1 + lags].contiguous()
        self.static = context[hidden + 1 + lags :].contiguous()
        self.newest = step[[lags, 2 * lags + 1]].contiguous()  # clipped and available, of the last value
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
        turned = (
            _turns(first.step_us, config.horizon, self.device)
            if config.calendar
            else torch.zeros((config.horizon, 0, 0))
        )
        self.members = [_Member(member, turned) for member in members]
        self.ahead: dict[int, Tensor] = {}
        self.levels: dict[tuple[float, ...], Tensor] = {}

    def predict(
        self,
        tensors: State,
        slots: Tensor,
        out: Tensor,
        calendar: Tensor,
        future: Tensor | None,
        static: Tensor | None,
        levels: tuple[float, ...],
    ) -> None:
        """Write the quantiles of the series in `slots` at `levels` into `out`, float64 [N, D, W].

        Args:
            tensors: [C, ...] each; they stay as they are.
            slots: int64 [N].
            out: [N, D, W].
            calendar: features of the present time, float32 [N, C] or [1, C] for all.
            future: features of the known-future covariates, float32 [N, D, F].
            static: features of the series, float32 [N, E].
            levels: within the trained ones.
        """
        n, horizon = out.shape[:2]
        carry = take(tensors["normalizer"], torch.add(self.columns, slots, alpha=len(self.columns)))
        size = self.lags + 3
        weights, last = carry[:size], carry[2 * size]
        level, _, scale, changes = present(weights, carry[size : 2 * size])
        unit = changes[1:].amin(dim=0) if self.lags else changes[0]
        candidates, features = self._seasonal(tensors, slots, level, scale, horizon)
        newest = torch.stack([((last - level) / scale).float(), (weights[0] > 0).float()])
        clipped = torch.stack([soft_clip_(newest[0].clone()), newest[1]])
        ratios = torch.log(changes / scale).float()
        summaries = tensors["hidden"].index_select(0, slots).unflatten(1, (len(self.members), -1)).sum(dim=2)
        missing = (features[self.lags :] == 0, newest[1] == 0)
        relative = (scale / unit).float()
        widths = self._widths(levels)
        total: Tensor | None = None
        for k, member in enumerate(self.members):
            context = torch.addmm(member.bias, summaries[:, k], member.summary).addmm_(ratios.T, member.ratios)
            context.addmm_(clipped.T, member.newest)
            if static is not None:
                context.addmm_(static, member.static)
            steps = horizon * self.size
            hidden = torch.addmm(member.horizon[:steps], calendar, member.calendar[:, :steps])
            hidden = (hidden.view(len(calendar), horizon, self.size) + context[:, None]).view(n * horizon, self.size)
            if self.lags:
                hidden.addmm_(features.view(2 * self.lags, -1).T, member.seasonal)
            if future is not None:
                hidden.addmm_(future.reshape(n * horizon, -1), member.future)
            raw = self._readout(member, hidden)
            centre = self._centre(raw[: self.lags + 2].view(-1, n, horizon), candidates, newest[0], missing, relative)
            own = self._own(raw[self.lags + 2 :], centre.view(-1), widths)
            total = own if total is None else total.add_(own)
        assert total is not None
        if len(self.members) > 1:
            total.mul_(1.0 / len(self.members))
        target = out.permute(2, 0, 1)  # [W, N, D]
        torch.mul(total.view(-1, n, horizon), unit[:, None], out=target)
        target.add_(level[:, None])

    def _seasonal(
        self, tensors: State, slots: Tensor, level: Tensor, scale: Tensor, horizon: int
    ) -> tuple[Tensor, Tensor]:
        """Return the normalised values lags before each step ahead, float32 [S, N, D], and the features [2 S, N, D]."""
        ahead = self.ahead.get(horizon)
        if ahead is None:
            ahead = self.ahead[horizon] = steps_back(self.back, horizon).T[:, None].contiguous() + 1  # [S, 1, D]
        position = tensors["position"].index_select(0, slots)[:, None]
        index = torch.sub(position, ahead).remainder_(self.memory).add_(slots[:, None], alpha=self.memory)
        values = take(tensors["ring"], index).sub_(level[:, None]).div_(scale[:, None])
        seen = take(tensors["ring_observed"], index)
        candidates = values.mul_(seen).float()
        features = torch.empty((2 * self.lags, *index.shape[1:]), device=self.device)
        features[: self.lags] = candidates
        soft_clip_(features[: self.lags])
        features[self.lags :] = seen
        return candidates, features

    def _readout(self, member: _Member, hidden: Tensor) -> Tensor:
        """Return the gates' logits and the head's numbers, [S + 2 + Q, N · D]."""
        hidden = functional.silu(hidden, inplace=True)
        middle = torch.addmm(member.middle_bias, hidden, member.middle)
        hidden.add_(functional.silu(middle, inplace=True))
        return torch.addmm(member.out_bias, member.out, hidden.T)

    def _centre(
        self, gates: Tensor, candidates: Tensor, newest: Tensor, missing: tuple[Tensor, Tensor], relative: Tensor
    ) -> Tensor:
        """Return the mixtures of the candidates, in units: [N, D]."""
        lags = self.lags
        gates[:lags].masked_fill_(missing[0], -math.inf)
        gates[lags].masked_fill_(missing[1][:, None], -math.inf)
        gates = gates.softmax(dim=0)
        centre = gates[lags] * newest[:, None]
        if lags:
            centre.add_(candidates.mul(gates[:lags]).sum(dim=0))
        return centre.mul_(relative[:, None])

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
