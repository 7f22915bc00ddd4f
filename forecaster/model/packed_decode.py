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

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from forecaster.data.features import DAY_US, calendar_periods
from forecaster.model.direct_decoder import DirectDecoder
from forecaster.model.inputs import steps_back
from forecaster.model.packed_state import Array, Arrays, Sums, present, soft_clip_
from forecaster.model.quantiles import interpolate_quantiles
from forecaster.model.seq2seq import Seq2Seq

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
        level: float64 [N, 1].
        unit: float64 [N, 1], what quantiles are measured in.
        relative: the scale in units, float32 [N, 1].
        summaries: of each member, the encoder's output, float32 [N, H].
        small: the changes' logarithms, the last value (clipped), whether there is none; float32 [N, S + 3].
        candidates: the values lags before each step ahead, float32 [S, N, D].
        features: these clipped, and whether there are such, float32 [N · D, 2 S].
        missing: the opposite, bool [S, N, D].
        newest: the last value, float32 [N, 1].
        unseen: whether there is none, bool [N, 1].
    """

    level: Array
    unit: Array
    relative: Array
    summaries: list[Tensor]
    small: Tensor
    candidates: Array
    features: Tensor
    missing: Array
    newest: Array
    unseen: Array


class PackedDecode:
    """The forecasts of one model or of an ensemble's members.

    Args:
        members: of one configuration, in evaluation mode.
    """

    def __init__(self, members: Sequence[Seq2Seq]) -> None:
        first = members[0]
        config = self.config = first.config
        self.memory, self.lags, self.size = first.memory, len(first.lags), config.decoder_size
        self.back = torch.tensor(first.lags, dtype=torch.int64)
        self.sums = Sums(self.lags)
        turned = _turns(first.step_us, config.horizon) if config.calendar else torch.zeros((config.horizon, 0, 0))
        self.members = [_Member(member, turned) for member in members]
        self.ahead: dict[int, Array] = {}
        self.levels: dict[tuple[float, ...], Tensor] = {}

    def at(self, calendar: Tensor) -> list[Tensor]:
        """Return what each step ahead of times adds to the hidden layers, from their features, float32 [N, D · A]."""
        return [torch.addmm(member.horizon, calendar, member.calendar) for member in self.members]

    def predict(
        self,
        slab: Arrays,
        slots: Array,
        out: Array,
        ahead: Sequence[Tensor],
        future: Tensor | None,
        static: Tensor | None,
        levels: tuple[float, ...],
    ) -> None:
        """Write the quantiles of the series in `slots` at `levels` into `out`, float64 [N, D, W].

        Args:
            slab: [C, ...] each; they stay as they are.
            slots: int64 [N].
            out: [N, D, W].
            ahead: see `at`, of each series or of one time for all.
            future: features of the known-future covariates, float32 [N, D, F].
            static: features of the series, float32 [N, E].
            levels: within the trained ones.
        """
        n, horizon = out.shape[:2]
        origins = self._origins(slab, slots, horizon)
        widths = self._widths(levels)
        total: Tensor | None = None
        for k, member in enumerate(self.members):
            context = torch.addmm(member.bias, origins.summaries[k], member.summary)
            context.addmm_(origins.small, member.small)
            if static is not None:
                context.addmm_(static, member.static)
            table = ahead[k].view(-1, self.config.horizon, self.size)[:, :horizon]
            hidden = (table + context[:, None]).view(-1, self.size)  # [N · D, A]
            if self.lags:
                hidden.addmm_(origins.features, member.seasonal)
            if future is not None:
                hidden.addmm_(future.reshape(len(hidden), -1), member.future)
            raw = self._readout(member, hidden)
            centre = _centre(raw[: self.lags + 2].view(-1, n, horizon).numpy(), origins)
            own = self._own(raw[self.lags + 2 :], torch.from_numpy(centre).view(-1), widths)
            total = own if total is None else total.add_(own)
        assert total is not None
        if len(self.members) > 1:
            total.mul_(1.0 / len(self.members))
        target = out.transpose(2, 0, 1)  # [W, N, D]
        np.multiply(total.view(target.shape).numpy(), origins.unit, out=target)
        target += origins.level

    def _origins(self, slab: Arrays, slots: Array, horizon: int) -> "_Origins":
        """Return what the decoders take in of the present states."""
        lags = self.lags
        weights, sums, last = self.sums.split(slab["normalizer"].reshape(-1).take(self.sums.index(slots)))
        level, _, scale, changes = present(weights, sums)
        unit = np.minimum.reduce(changes[1:]) if lags else changes[0]
        small = np.empty((lags + 3, len(slots)), np.float32)
        unseen = small[lags + 2]
        small[: lags + 1] = np.log(changes / scale)
        unseen[:] = weights[0] == 0
        last -= level
        last /= scale  # zero before the first value
        newest = small[lags + 1]
        newest[:] = last
        soft_clip_(newest)
        relative = (scale / unit).astype(np.float32)[:, None]
        unit, level, scale = unit[:, None], level[:, None], scale[:, None]
        index = self._index(slab["position"][slots], horizon)
        index += (slots * self.memory)[:, None]
        seen = slab["ring_observed"].reshape(-1).take(index)
        values = slab["ring"].reshape(-1).take(index)
        values -= level
        values /= scale
        values *= seen
        candidates = values.astype(np.float32)
        features = np.empty((2 * lags, *index.shape[1:]), np.float32)
        features[:lags] = candidates
        soft_clip_(features[:lags])
        features[lags:] = seen
        hidden = slab["hidden"][slots].reshape(len(slots), len(self.members), -1, slab["hidden"].shape[2])
        return _Origins(
            level,
            unit,
            relative,
            [torch.from_numpy(hidden[:, k].sum(axis=1)) for k in range(len(self.members))],
            torch.from_numpy(small).T,
            candidates,
            torch.from_numpy(features).view(2 * lags, len(slots) * horizon).T,
            ~seen,
            last.astype(np.float32)[:, None],
            unseen[:, None] > 0,
        )

    def _index(self, position: Array, horizon: int) -> Array:
        """Return the slots of the ring with the values lags before each step ahead, int64 [S, N, D]."""
        found = self.ahead.get(horizon)
        if found is None:
            back = steps_back(self.back, horizon).T[:, None].numpy() + 1  # [S, 1, D]
            if self.memory * back.size <= _MAX_TABLE:
                back = (np.arange(self.memory)[:, None] - back) % self.memory
            found = self.ahead[horizon] = np.ascontiguousarray(back)
        if found.shape[1] == self.memory:
            return found.take(position % self.memory, axis=1)
        return (position[:, None] - found) % self.memory

    def _readout(self, member: _Member, hidden: Tensor) -> Tensor:
        """Return the gates' logits and the head's numbers, [S + 2 + Q, N · D]."""
        hidden = functional.silu(hidden, inplace=True)
        middle = torch.addmm(member.middle_bias, hidden, member.middle)
        hidden.add_(functional.silu(middle, inplace=True))
        return torch.addmm(member.out_bias, member.out, hidden.T)

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
            found = self.levels[levels] = own.float().contiguous()
        return found


def _centre(gates: Array, origins: _Origins) -> Array:
    """Return the mixtures of the candidates, in units, of logits [S + 2, N, D], which are used up: [N, D]."""
    np.copyto(gates[:-2], -np.inf, where=origins.missing)
    np.copyto(gates[-2], -np.inf, where=origins.unseen)
    gates -= np.maximum.reduce(gates)
    np.exp(gates, out=gates)
    relative = origins.relative / np.add.reduce(gates)
    gates[:-2] *= origins.candidates
    gates[-2] *= origins.newest
    centre = np.add.reduce(gates[:-1])
    centre *= relative
    return centre  # type: ignore[no-any-return]


def _turns(step_us: int, horizon: int) -> Tensor:
    """Return the matrices that turn a time's calendar features into those 1 … D steps later, float32 [D, C, C]."""
    lengths = torch.tensor([length for _, length in calendar_periods(step_us)], dtype=torch.float64)
    angles = torch.arange(1, horizon + 1)[:, None] * (math.tau * step_us / DAY_US) / lengths
    sine, cosine = torch.diag_embed(angles.sin()), torch.diag_embed(angles.cos())
    turns = torch.cat([torch.cat([cosine, -sine], dim=2), torch.cat([sine, cosine], dim=2)], dim=1)
    return turns.float()
