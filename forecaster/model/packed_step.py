"""One step of N series, straight on a slab's tensors: what `Seq2Seq.scan` does for T = 1, with the fewest operations.

Of the ring it reads the values that the seasonal lags ask for and writes one slot. For networks whose layers are plain
(`packed_cells.is_plain`) and without attention, on the CPU; members of an ensemble share everything but their cells.

Shapes: C slots, N series, M memory, S seasonal lags, P = S + 3 statistics, I inputs, E other inputs, K members,
L layers, H hidden.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from forecaster.model.cells import RecurrentLayer
from forecaster.model.inputs import value_size
from forecaster.model.packed_cells import PackedCell
from forecaster.model.packed_state import MASK, Array, Arrays, Present, Sums, clear_missing, present, soft_clip_
from forecaster.model.seq2seq import Seq2Seq

_KEPT_SIZES = 8


class _Buffers:
    """What a step of N series writes on its way; made once for each N."""

    def __init__(self, n: int, lags: int, cells: Sequence[Sequence[PackedCell]]) -> None:
        seen, logs, size = 2 + 2 * lags, 2 + lags, 3 + lags
        numbers = np.empty((seen + logs, n))
        self.numbers = numbers  # the value, those before it, the logarithms
        self.values, self.past, self.behind = numbers[:seen], numbers[1:seen], numbers[: size - 1]
        self.logs, self.relative, self.changes = numbers[seen:], numbers[seen], numbers[seen + 1 :]
        self.new = np.empty((size, n))
        inputs = torch.empty((2 * seen + logs, n))
        self.inputs = inputs.T
        self.clipped, self.masks = inputs[: seen + logs].numpy(), inputs[seen + logs :].numpy()
        self.gates = cells[0][0].buffers(n)
        shape = (n, len(cells) * len(cells[0]), cells[0][0].size)
        carried = [torch.empty(shape) for _ in cells[0][0].carried]
        self.rows = [part.view(n, -1).numpy() for part in carried]
        self.carried = list(zip(*(part.unbind(1) for part in carried), strict=True))  # [K · L] of [N, H] each


class PackedStep:
    """The step of one model or of an ensemble's members.

    Args:
        members: of one configuration, in evaluation mode.
    """

    def __init__(self, members: Sequence[Seq2Seq]) -> None:
        first = members[0]
        config, lags = first.config, first.lags
        self.memory, self.lags, self.sums = first.memory, len(lags), Sums(len(lags))
        self.decay = 1.0 - 1.0 / float(config.timescale or 1)
        back = np.array([1, *lags, *(lag - 1 for lag in lags)])[:, None]
        # For each slot of the ring that comes next, those of the values looked back at, int64 [1 + 2 S, M].
        self.behind = (np.arange(self.memory) - back) % self.memory
        self.cells = [
            [PackedCell(layer, config.cell) for layer in member.encoder.layers if isinstance(layer, RecurrentLayer)]
            for member in members
        ]
        own = value_size(lags)
        order, masks = _columns(len(lags))
        self.first: list[tuple[Tensor, Tensor]] = []  # of each member: weights of the features, and of other inputs
        for cells in self.cells:
            weights = torch.cat([cells[0].into, torch.zeros_like(cells[0].into[:1])])  # the last for what is unused
            features = weights[order]
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
        slab: Arrays,
        slots: Array,
        time_us: Array,
        values: Array,
        biases: Sequence[Tensor] | None,
        others: Sequence[tuple[int, Tensor]],
    ) -> None:
        """Advance the series in `slots` by one step in place.

        Args:
            slab: [C, ...] each.
            slots: int64 [N], all different.
            time_us: of the step, int64 [N].
            values: float64 [N], NaN where missing.
            biases: see `at`, if all times are one.
            others: further inputs of the first layer, float32 [N, E], each with its place among them.
        """
        b = self._buffers(len(slots))
        self._see(b, slab, slots, values)
        slab["time_us"][slots] = time_us
        names = self.cells[0][0].carried
        resident = [slab[name].reshape(len(slab[name]), -1) for name in names]
        for part, rows in zip(resident, b.rows, strict=True):
            part.take(slots, axis=0, out=rows, mode="clip")  # the mode in which nothing is copied twice
        self._advance(b, biases, others)
        for part, rows in zip(resident, b.rows, strict=True):
            part[slots] = rows

    def _see(self, b: _Buffers, slab: Arrays, slots: Array, values: Array) -> None:
        """Advance the statistics and the ring, and fill in the features."""
        ring, ring_observed, normalizer = (slab[name].reshape(-1) for name in ("ring", "ring_observed", "normalizer"))
        position = slab["position"][slots]
        turn, base = position % self.memory, slots * self.memory
        index = self.behind.take(turn, axis=1)
        index += base
        ring.take(index, out=b.past, mode="clip")
        np.copyto(b.past, np.nan, where=~ring_observed.take(index))
        columns = self.sums.index(slots)
        carry = normalizer.take(columns)
        weights, sums, last = self.sums.split(carry)
        np.divide(sums[0], weights[0], out=b.values[0])  # the level before this step, for the deviation from it
        changes = np.subtract(values, b.behind, out=b.new[1:])
        np.abs(changes, out=changes)
        b.new[0] = b.values[0] = values
        known = b.new == b.new
        np.copyto(b.new, 0.0, where=~known)
        carry[: 2 * self.sums.size] *= self.decay
        weights += known
        sums += b.new
        np.copyto(last, values, where=known[0])
        normalizer[columns] = carry
        turn += base
        ring[turn], ring_observed[turn] = b.new[0], known[0]
        slab["observed_count"][slots] += known[0]
        position += 1
        slab["position"][slots] = position
        _express(b, present(weights, sums))

    def _advance(self, b: _Buffers, biases: Sequence[Tensor] | None, others: Sequence[tuple[int, Tensor]]) -> None:
        """Advance the hidden vectors of all members in place."""
        carried = iter(b.carried)
        left = b.gates[1]
        for k, (cells, (weights, rest)) in enumerate(zip(self.cells, self.first, strict=True)):
            output: Tensor | None = None
            for cell in cells:
                own = next(carried)
                b.gates[0].copy_(cell.bias if biases is None or output is not None else biases[k])
                if output is None:
                    left.addmm_(b.inputs, weights)
                    for place, other in others:
                        left.addmm_(other, rest[place : place + other.shape[1]])
                else:
                    left.addmm_(output, cell.into)
                cell.finish(b.gates, *own)
                output = own[0] if output is None else output + own[0]

    def _buffers(self, n: int) -> _Buffers:
        found = self.buffers.get(n)
        if found is None:
            if len(self.buffers) >= _KEPT_SIZES:
                self.buffers.pop(next(iter(self.buffers)))
            found = self.buffers[n] = _Buffers(n, self.lags, self.cells)
        return found


def _express(b: _Buffers, stats: Present) -> None:
    """Turn the values that are not normalised yet into the network's inputs; see `inputs.value_inputs`."""
    level, magnitude, scale, changes = stats
    b.masks[:] = b.values == b.values
    b.values -= level
    b.values /= scale
    clear_missing(b.values, 0.0)
    magnitude += scale
    np.divide(scale, magnitude, out=b.relative)
    np.divide(changes, scale, out=b.changes)
    np.log(b.logs, out=b.logs)
    b.clipped[:] = b.numbers
    soft_clip_(b.clipped)


def _columns(lags: int) -> tuple[list[int], int]:
    """Return which column of `inputs.value_inputs` stands in each row here (-1: none), and how many of them are masks.

    Rows: the value, the one before it, S a lag before, S a lag before the next step; the relative scale, S + 1 changes;
    the masks of the first.
    """
    here, next_step = [4 + 4 * k for k in range(lags)], [2 + 4 * k for k in range(lags)]
    numbers = [0, -1, *here, *next_step]
    masks = [1, -1, *(column + 1 for column in (*here, *next_step))]
    return [*numbers, *range(2 + 4 * lags, 4 + 5 * lags), *masks], len(masks)
