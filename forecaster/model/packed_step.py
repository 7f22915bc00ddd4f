"""One step of N series, straight on a slab's tensors: what `Seq2Seq.scan` does for T = 1, with the fewest operations.

Of the ring it reads the values that the seasonal lags ask for and writes one slot. For networks whose layers are plain
(`packed_cells.is_plain`) and without attention; members of an ensemble share everything but their cells.

Shapes: C slots, N series, M memory, S seasonal lags, P = S + 3 statistics, I inputs, E other inputs, K members,
L layers, H hidden.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from forecaster.model.inputs import value_size
from forecaster.model.packed_cells import PackedCell
from forecaster.model.packed_state import MASK, Present, present, put_rows, soft_clip_, sum_columns
from forecaster.model.seq2seq import Seq2Seq
from forecaster.model.state import State

_KEPT_SIZES = 8


class _Buffers:
    """What a step of N series writes on its way; made once for each N."""

    def __init__(self, n: int, lags: int, cells: Sequence[PackedCell], device: torch.device) -> None:
        seen, logs, size = 2 + 2 * lags, 2 + lags, 3 + lags

        def empty(rows: int, dtype: torch.dtype) -> Tensor:
            return torch.empty((rows, n), dtype=dtype, device=device)

        self.numbers = empty(seen + logs, torch.float64)  # value, then those before it, then the logarithms
        self.values, self.logs = self.numbers[:seen], self.numbers[seen:]
        self.value, self.past, self.behind = self.values[0], self.values[1:], self.values[: size - 1]
        self.relative, self.changes = self.logs[0], self.logs[1:]
        self.inputs = empty(2 * seen + logs, torch.float32)
        self.clipped, self.masks, self.features = self.inputs[: seen + logs], self.inputs[seen + logs :], self.inputs.T
        self.new, self.known = empty(size, torch.float64), empty(size, torch.float64)
        self.new_value, self.new_changes = self.new[0], self.new[1:]
        self.sizes = [size, size, 1]
        self.gates = cells[0].buffers(n)


class PackedStep:
    """The step of one model or of an ensemble's members.

    Args:
        members: of one configuration, in evaluation mode.
    """

    def __init__(self, members: Sequence[Seq2Seq]) -> None:
        first = members[0]
        config, lags = first.config, first.lags
        self.device = next(first.parameters()).device
        self.memory, self.lags = first.memory, len(lags)
        self.decay = 1.0 - 1.0 / float(config.timescale or 1)
        self.columns = sum_columns(1 + len(lags), self.device)
        back = torch.tensor([1, *lags, *(lag - 1 for lag in lags)], device=self.device)[:, None]
        # For each slot of the ring that comes next, those of the values looked back at, int64 [1 + 2 S, M].
        self.behind = (torch.arange(self.memory, device=self.device) - back).remainder(self.memory)
        self.cells = [[PackedCell(layer, config.cell) for layer in member.encoder.layers] for member in members]
        self.names = ("hidden", "cell") if config.cell == "lstm" else ("hidden",)
        own = value_size(lags)
        order, masks = _columns(len(lags))
        self.first: list[tuple[Tensor, Tensor]] = []  # of each member: weights of the features, and of other inputs
        for cells in self.cells:
            weights = torch.cat([cells[0].into, torch.zeros_like(cells[0].into[:1])])  # the last for what is unused
            features = weights[torch.tensor(order, device=self.device)]
            features[len(order) - masks :] *= MASK
            self.first.append((features.contiguous(), cells[0].into[own:]))
        self.buffers: dict[int, _Buffers] = {}

    def at(self, calendar: Tensor) -> list[Tensor]:
        """Return the first layers' biases at a time, from its features, float32 [1, E]; kept by who calls."""
        biases = []
        for cells, (_, rest) in zip(self.cells, self.first, strict=True):
            bias, inputs = cells[0].bias.clone(), cells[0].into.shape[1]
            bias[:inputs] += (calendar @ rest[: calendar.shape[1]])[0]
            biases.append(bias)
        return biases

    def step(
        self,
        tensors: State,
        slots: Tensor,
        time_us: Tensor,
        values: Tensor,
        biases: Sequence[Tensor] | None,
        others: Sequence[tuple[int, Tensor]],
    ) -> None:
        """Advance the series in `slots` by one step in place.

        Args:
            tensors: [C, ...] each.
            slots: int64 [N], all different.
            time_us: of the step, int64 [N].
            values: float64 [N], NaN where missing.
            biases: see `at`, if all times are one.
            others: further inputs of the first layer, float32 [N, E], each with its place among them.
        """
        b = self._buffers(len(slots))
        self._see(b, tensors, slots, values)
        carried = [tensors[name].index_select(0, slots) for name in self.names]  # [N, K · L, H]
        self._advance(b, biases, others, carried)
        for name, new in zip(self.names, carried, strict=True):
            put_rows(tensors[name], slots, new)
        tensors["time_us"].put_(slots, time_us)

    def _see(self, b: _Buffers, tensors: State, slots: Tensor, values: Tensor) -> None:
        """Advance the statistics and the ring, and fill in the features."""
        position = tensors["position"].index_select(0, slots)
        turn = position.remainder(self.memory)
        index = self.behind.index_select(1, turn).add_(slots, alpha=self.memory)
        torch.take(tensors["ring"], index, out=b.past)
        b.past.masked_fill_(torch.take(tensors["ring_observed"], index).logical_not_(), torch.nan)
        columns = torch.add(self.columns, slots, alpha=len(self.columns))
        carry = torch.take(tensors["normalizer"], columns)
        weights, sums, last = carry.split(b.sizes)
        torch.div(sums[0], weights[0], out=b.value)  # the level before this step, for the deviation from it
        torch.sub(values, b.behind, out=b.new_changes).abs_()
        b.new_value.copy_(values)
        b.value.copy_(values)
        torch.eq(b.new, b.new, out=b.known)
        b.new.nan_to_num_()
        torch.add(b.known, weights, alpha=self.decay, out=weights)
        torch.add(b.new, sums, alpha=self.decay, out=sums)
        observed = values.eq(values)
        torch.where(observed, b.new_value, last[0], out=last[0])
        tensors["normalizer"].put_(columns, carry)
        at = turn.add_(slots, alpha=self.memory)
        tensors["ring"].put_(at, b.new_value)
        tensors["ring_observed"].put_(at, observed)
        tensors["observed_count"].index_add_(0, slots, observed.long())
        tensors["position"].put_(slots, position.add_(1))
        self._express(b, present(weights, sums))

    def _express(self, b: _Buffers, stats: Present) -> None:
        """Turn the values that are not normalised yet into the network's inputs."""
        level, magnitude, scale, changes = stats
        torch.eq(b.values, b.values, out=b.masks)
        b.values.sub_(level).div_(scale).nan_to_num_()
        torch.div(scale, magnitude.add_(scale), out=b.relative)
        torch.div(changes, scale, out=b.changes)
        b.logs.log_()
        b.clipped.copy_(b.numbers)
        soft_clip_(b.clipped)

    def _advance(
        self,
        b: _Buffers,
        biases: Sequence[Tensor] | None,
        others: Sequence[tuple[int, Tensor]],
        carried: Sequence[Tensor],
    ) -> None:
        """Advance the hidden vectors of all members in place."""
        layers = len(self.cells[0])
        parts = [part.unbind(1) for part in carried]
        left = b.gates[1]
        for k, (cells, (weights, rest)) in enumerate(zip(self.cells, self.first, strict=True)):
            output: Tensor | None = None
            for index, cell in enumerate(cells):
                own = [part[k * layers + index] for part in parts]
                b.gates[0].copy_(biases[k] if biases is not None and index == 0 else cell.bias)
                if output is None:
                    left.addmm_(b.features, weights)
                    for place, other in others:
                        left.addmm_(other, rest[place : place + other.shape[1]])
                else:
                    left.addmm_(output, cell.into)
                cell.finish(b.gates, own[0], own[1] if len(own) > 1 else None)
                output = own[0] if output is None else output + own[0]

    def _buffers(self, n: int) -> _Buffers:
        found = self.buffers.get(n)
        if found is None:
            if len(self.buffers) >= _KEPT_SIZES:
                self.buffers.pop(next(iter(self.buffers)))
            found = self.buffers[n] = _Buffers(n, self.lags, self.cells[0], self.device)
        return found


def _columns(lags: int) -> tuple[list[int], int]:
    """Return which column of `inputs.value_inputs` stands in each row here (-1: none), and how many of them are masks.

    Rows: the value, the one before it, S a lag before, S a lag before the next step; the relative scale, S + 1 changes;
    the masks of the first.
    """
    here, next_step = [4 + 4 * k for k in range(lags)], [2 + 4 * k for k in range(lags)]
    numbers = [0, -1, *here, *next_step]
    masks = [1, -1, *(column + 1 for column in (*here, *next_step))]
    return [*numbers, *range(2 + 4 * lags, 4 + 5 * lags), *masks], len(masks)
