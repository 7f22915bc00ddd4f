"""One step of N series, straight on a slab's tensors, by the compiled kernel: its weights and what it takes in.

For networks whose layers are plain and without attention, on the CPU; members of an ensemble share everything but
their cells.

Shapes: C slots, N series, I inputs, E other inputs, K members, L layers, H hidden, G gates, R rows.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from forecaster.data.features import calendar_periods
from forecaster.model.cells import RecurrentLayer
from forecaster.model.seq2seq import Seq2Seq
from forecaster.model.state import State, Views
from forecaster.model.stepping import step_kernel
from forecaster.model.stepping.ragged import Runs

Array = npt.NDArray[Any]

_SLAB = ("normalizer", "ring", "ring_observed", "position", "observed_count", "time_us")


class PackedStep:
    """The step of one model or of an ensemble's members.

    Args:
        members: of one configuration, in evaluation mode.
    """

    def __init__(self, members: Sequence[Seq2Seq]) -> None:
        first = members[0]
        config = first.config
        self.others = first.inputs.dynamic_size + blocks(members) * first.inputs.static_size
        self._memory, self._step_us = views(first), first.step_us
        self.lags = np.array(first.lags, dtype=np.int64)
        decay = 1.0 - 1.0 / float(config.timescale or 1)
        self.plan = step_kernel.KINDS.index(config.cell), self.lags, decay, periods_of(first)
        layers = [[_weights(layer, config.cell) for layer in member.encoder.layers] for member in members]
        size, gates = layers[0][0][1].shape
        upper = [into for member in layers for into, _, _ in member[1:]] or [torch.zeros((size, gates))] * len(layers)
        self.weights = (
            _stacked(in_blocks([member[0][0] for member in layers], members, behind=0)),
            _stacked(upper).reshape(len(layers), -1, size, gates),
            _stacked([torch.stack([back for _, back, _ in member]) for member in layers]),
            _stacked([torch.stack([bias for _, _, bias in member]) for member in layers]),
        )

    def step(self, tensors: State, slots: Array, time_us: Array, values: Array, others: Array | None) -> None:
        """Advance the series in `slots` by one step in place. All arrays are contiguous and writable.

        Args:
            tensors: contiguous, [C, ...] each.
            slots: int64 [N], all different.
            time_us: of the step, int64 [N].
            values: float64 [N], NaN where missing.
            others: features of covariates, static ones in `blocks`, float32 [N, E]; None: all missing.
        """
        beside = np.zeros((len(slots), self.others), np.float32) if others is None else others
        step_kernel.step(self._memory.of(tensors), slots, time_us, values, beside, self.plan, self.weights)

    def run(self, tensors: State, slots: Array, runs: Runs, others: tuple[Array, Array]) -> None:
        """Advance the series in `slots` by their runs in place.

        Args:
            tensors: contiguous, [C, ...] each.
            slots: int64 [N], all different.
            runs: one of each series, their rows by ascending run and step.
            others: features of covariates, of each row float32 [R, E], and of each run's steps without one [N, E].
        """
        lengths, row_run = runs.lengths.numpy(), runs.row_run.numpy()
        order = np.argsort(-lengths, kind="stable")
        begins, ends = (np.searchsorted(row_run, order, side=side) for side in ("left", "right"))
        rows = begins, ends, _flat(runs.row_step.numpy()), _flat(runs.values.numpy())
        step_kernel.run(
            self._memory.of(tensors),
            slots[order],
            runs.start_us.numpy()[order],
            lengths[order],
            self._step_us,
            rows,
            (others[0], others[1][order]),
            self.plan,
            self.weights,
        )


def blocks(members: Sequence[Seq2Seq]) -> int:
    """Return how often static features stand side by side: each member embeds categories for itself."""
    return len(members) if members[0].covariates.categories else 1


def in_blocks(weights: Sequence[Tensor], members: Sequence[Seq2Seq], *, behind: int) -> list[Tensor]:
    """Return the members' weights [I, G] with zeros for the static features of the other members, see `blocks`.

    Args:
        weights: of each member.
        members: whose they are.
        behind: how many inputs follow the static ones.
    """
    count, size = blocks(members), members[0].inputs.static_size
    if count == 1:
        return list(weights)
    end = len(weights[0]) - behind
    zeros = weights[0].new_zeros((size, weights[0].shape[1]))
    return [
        torch.cat([own[: end - size], *(own[end - size : end] if j == k else zeros for j in range(count)), own[end:]])
        for k, own in enumerate(weights)
    ]


def views(model: Seq2Seq) -> Views:
    """Return the views of a slab in the kernels' order: hidden, cell (hidden again without one), and the others."""
    names = {tensor.name for tensor in model.state_spec}
    return Views(("hidden", "cell" if "cell" in names else "hidden", *_SLAB))


def periods_of(model: Seq2Seq) -> Array:
    """Return the calendar's periods that a model sees, float64 [P, 2]."""
    periods = calendar_periods(model.step_us) if model.config.calendar else []
    return np.array(periods, dtype=np.float64).reshape(-1, 2)


def _weights(layer: torch.nn.Module, cell: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weights of inputs [I, G] and hidden vectors [H, G], and the biases.

    A GRU's new vector takes W x + b and r · (U h + c) apart, and its biases [4 H] are those of r, z, W x and U h.
    """
    assert isinstance(layer, RecurrentLayer)
    into, back, bias_into, bias_back = (
        layer.kernel.get_parameter(name).detach()
        for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    )
    bias = bias_into + bias_back
    if cell == "gru":
        last = 2 * layer.hidden_size
        bias = torch.cat([bias[:last], bias_into[last:], bias_back[last:]])
    return into.t(), back.t(), bias


def _flat(array: Array) -> Array:
    """Return an array without gaps and not read-only: kernels are compiled for nothing else."""
    return array if array.flags.c_contiguous and array.flags.writeable else array.copy(order="C")


def _stacked(tensors: Sequence[Tensor]) -> Array:
    return np.ascontiguousarray(torch.stack(list(tensors)).numpy())
