"""A stack of recurrent layers with residual connections, over torch's fused kernels.

Layer l computes h_t = cell(u_t, h_{t-1}); its output is o_t = out(h_t), plus u_t from the second layer on, so that the
stack's output is the sum over its layers of out(h), which is why `summary` can read it off a state.

A layer may be deeper in three places (Goodfellow et al. 2016, fig. 10.13; Pascanu et al. 2014), each alone: between
input and cell, between hidden vector and hidden vector, between hidden vector and output. It may also be slower than
the series: with period d it advances at every d-th step and holds its hidden vector in between (a hierarchy of clocks,
Koutník et al. 2014).

Shapes: B series, T steps, I inputs, H hidden, L layers.
"""

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from forecaster.config import ModelConfig
from forecaster.model.output_recurrence import OutputRecurrentStack
from forecaster.model.state import State, TensorSpec

_KERNELS: dict[str, Callable[[int, int], nn.RNNBase]] = {
    "gru": lambda inputs, hidden: nn.GRU(inputs, hidden, batch_first=True),
    "lstm": lambda inputs, hidden: nn.LSTM(inputs, hidden, batch_first=True),
    "rnn_tanh": lambda inputs, hidden: nn.RNN(inputs, hidden, nonlinearity="tanh", batch_first=True),
    "rnn_relu": lambda inputs, hidden: nn.RNN(inputs, hidden, nonlinearity="relu", batch_first=True),
}
_KEPT = 0.99  # of a hidden vector from step to step: by a whole identity an endless stream would add up for ever
_INITIALIZERS: dict[str, Callable[[Tensor], Tensor]] = {
    "orthogonal": nn.init.orthogonal_,
    "xavier": nn.init.xavier_uniform_,
    "identity": lambda weight: nn.init.eye_(weight).mul_(_KEPT),
}
Carried = tuple[Tensor, ...]  # hidden [B, H], and an LSTM's cell [B, H]


class RecurrentStack(nn.Module):
    """L stacked layers of one kind of cell.

    Args:
        layers: the first takes I inputs, the others H.
        dropout: between layers and on the output, while training.
    """

    def __init__(self, layers: Sequence["RecurrentLayer"], *, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.dropout = nn.Dropout(dropout)
        self.hidden_size = layers[0].hidden_size
        self.has_cell = layers[0].has_cell

    def state_spec(self) -> Sequence[TensorSpec]:
        """Return the tensors that the stack keeps of a series: `hidden`, and `cell` for an LSTM, [L, H]."""
        names = ["hidden", "cell"] if self.has_cell else ["hidden"]
        return [TensorSpec(name, (len(self.layers), self.hidden_size), torch.float32) for name in names]

    def forward(self, state: State, inputs: Tensor, lengths: Tensor | None = None) -> tuple[State, Tensor]:
        """Advance by T steps.

        Args:
            state: with `hidden` (and `cell`) [B, L, H], and `position` [B] if a layer is slower than the series.
            inputs: [B, T, I].
            lengths: steps of each series, int64 [B], 1 to T; left out, all T.

        Returns:
            The new `hidden` (and `cell`), and the stack's output [B, T, H] (anything past a series' length).
        """
        names = ["hidden", "cell"] if self.has_cell else ["hidden"]
        ends: list[Carried] = []
        output = inputs
        for index, layer in enumerate(self._layers()):
            carried = tuple(state[name][:, index] for name in names)
            result, carried = layer(carried, output, lengths, state.get("position"))
            ends.append(carried)
            output = self.dropout(result if index == 0 else result + output)
        new: State = {name: torch.stack([end[k] for end in ends], dim=1) for k, name in enumerate(names)}
        return new, output

    def summary(self, state: State) -> Tensor:
        """Return the stack's latest output, [B, H]: the sum of the layers' outputs."""
        outputs = [layer.output(state["hidden"][:, index]) for index, layer in enumerate(self._layers())]
        return torch.stack(outputs).sum(dim=0)

    def _layers(self) -> list["RecurrentLayer"]:
        return [layer for layer in self.layers if isinstance(layer, RecurrentLayer)]


class RecurrentLayer(nn.Module):
    """One layer: a fused kernel, and what makes it deeper or slower.

    Args:
        cell: `gru`, `lstm`, `rnn_tanh` or `rnn_relu`.
        input_size: I.
        hidden_size: H.
        deep: any of `input`, `transition` and `output`.
        period: steps between two updates.
        initialization: of the recurrent weights: `orthogonal`, `xavier` or `identity`, gate by gate.
    """

    def __init__(
        self,
        cell: str,
        input_size: int,
        hidden_size: int,
        *,
        deep: Sequence[str] = (),
        period: int = 1,
        initialization: str = "orthogonal",
    ) -> None:
        super().__init__()
        self.hidden_size, self.period = hidden_size, period
        self.has_cell = cell == "lstm"
        self.into = nn.Sequential(nn.Linear(input_size, hidden_size), nn.SiLU()) if "input" in deep else nn.Identity()
        self.kernel = _KERNELS[cell](hidden_size if "input" in deep else input_size, hidden_size)
        self.transition = Transition(hidden_size) if "transition" in deep else None
        self.out = nn.Sequential(nn.Linear(hidden_size, hidden_size), nn.SiLU()) if "output" in deep else None
        for name, parameter in self.kernel.named_parameters():
            if "weight_hh" in name:  # each gate's block on its own
                for gate in parameter.data.split(hidden_size):
                    _INITIALIZERS[initialization](gate)
            elif "weight_ih" in name:
                nn.init.xavier_uniform_(parameter)
            else:
                nn.init.zeros_(parameter)
        if cell == "lstm":  # gates i, f, g, o: forget little at first (Jozefowicz et al. 2015)
            self.kernel.get_parameter("bias_ih_l0").data[hidden_size : 2 * hidden_size] = 1.0

    def output(self, hidden: Tensor) -> Tensor:
        """Return the layer's output of its hidden vectors, [..., H]."""
        return hidden if self.out is None else hidden + self.out(hidden)

    def forward(
        self, carried: Carried, inputs: Tensor, lengths: Tensor | None, position: Tensor | None
    ) -> tuple[Tensor, Carried]:
        """Advance by T steps; returns the output [B, T, H] and what is carried on."""
        inputs = self.into(inputs)
        if self.period == 1:
            hidden, carried = self._advance(carried, inputs, lengths)
        else:
            assert position is not None
            hidden, carried = self._advance_slowly(carried, inputs, lengths, position)
        return self.output(hidden), carried

    def _advance(self, carried: Carried, inputs: Tensor, lengths: Tensor | None) -> tuple[Tensor, Carried]:
        """Return the hidden vectors of every step [B, T, H] and what is carried on."""
        if self.transition is not None:
            return self._advance_deeply(carried, inputs, lengths)
        if lengths is None:
            return self._run(inputs, carried)
        packed = pack_padded_sequence(inputs, lengths.cpu(), batch_first=True, enforce_sorted=False)
        output, carried = self._run(packed, carried)
        padded, _ = pad_packed_sequence(cast(PackedSequence, output), batch_first=True, total_length=inputs.shape[1])
        return padded, carried

    def _run(self, inputs: Tensor | PackedSequence, carried: Carried) -> tuple[Tensor, Carried]:
        first = tuple(part[None].contiguous() for part in carried)
        output, last = self.kernel(inputs, first if self.has_cell else first[0])
        return output, tuple(part[0] for part in last) if self.has_cell else (last[0],)

    def _advance_deeply(self, carried: Carried, inputs: Tensor, lengths: Tensor | None) -> tuple[Tensor, Carried]:
        """Step by step: no fused kernel has a perceptron between two steps."""
        assert self.transition is not None
        hidden = []
        for t in range(inputs.shape[1]):
            _, moved = self._run(inputs[:, t : t + 1], (self.transition(carried[0]), *carried[1:]))
            if lengths is not None:
                going = (t < lengths)[:, None].to(inputs.device)
                moved = tuple(torch.where(going, new, old) for new, old in zip(moved, carried, strict=True))
            carried = moved
            hidden.append(carried[0])
        return torch.stack(hidden, dim=1), carried

    def _advance_slowly(
        self, carried: Carried, inputs: Tensor, lengths: Tensor | None, position: Tensor
    ) -> tuple[Tensor, Carried]:
        """Advance at the steps whose position is a multiple of the period; in between the hidden vector is held."""
        steps = inputs.shape[1]
        ends = torch.full_like(position, steps) if lengths is None else lengths.to(position)
        wait = -position % self.period  # steps until the first update
        count = torch.div(ends - wait + self.period - 1, self.period, rounding_mode="floor").clamp_min(0)  # of updates
        index = wait[:, None] + self.period * torch.arange(max(int(count.max()), 1), device=position.device)
        taken = inputs.gather(1, index.clamp_max(steps - 1)[..., None].expand(-1, -1, inputs.shape[-1]))
        hidden, moved = self._advance(carried, taken, count.clamp_min(1))
        some = (count > 0)[:, None]
        moved = tuple(torch.where(some, new, old) for new, old in zip(moved, carried, strict=True))
        held = torch.cat([carried[0][:, None], hidden], dim=1)
        since = torch.arange(steps, device=position.device) - wait[:, None]
        latest = torch.div(since, self.period, rounding_mode="floor") + 1  # 0: what was carried
        latest = latest.clamp(min=0).minimum(count[:, None])
        return held.gather(1, latest[..., None].expand(-1, -1, self.hidden_size)), moved


class Transition(nn.Module):
    """A gated perceptron from hidden vector to hidden vector (a highway, as in Zilly et al. 2017).

    h' = g · tanh(W₂ tanh(W₁ h)) + (1 - g) · h with g = σ(W₃ h): between vectors in [-1, 1] it stays there, so that
    ten thousand steps do not blow up.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.first = nn.Linear(hidden_size, hidden_size)
        self.second = nn.Linear(hidden_size, hidden_size)
        self.gate = nn.Linear(hidden_size, hidden_size)
        nn.init.constant_(self.gate.bias, -1.0)  # at first most is carried over

    def forward(self, hidden: Tensor) -> Tensor:
        """Return h' of hidden vectors [B, H]."""
        gate = self.gate(hidden).sigmoid()
        moved: Tensor = gate * self.second(self.first(hidden).tanh()).tanh() + (1 - gate) * hidden
        return moved


Stack = RecurrentStack | OutputRecurrentStack


def make_stack(
    config: ModelConfig, *, input_size: int, hidden_size: int, periods: Sequence[int], dropout: float = 0.0
) -> Stack:
    """Return a stack of the cells that a configuration asks for.

    Args:
        config: the cell, how deep it is, and how it starts.
        input_size: I.
        hidden_size: H.
        periods: of each layer.
        dropout: between layers and on the output, while training.
    """
    sizes = [input_size] + [hidden_size] * (len(periods) - 1)
    if config.cell == "output":
        return OutputRecurrentStack(sizes, hidden_size, dropout=dropout)
    deep = [name for name in ("input", "transition", "output") if getattr(config, f"deep_{name}")]
    layers = [
        RecurrentLayer(config.cell, size, hidden_size, deep=deep, period=period, initialization=config.initialization)
        for size, period in zip(sizes, periods, strict=True)
    ]
    return RecurrentStack(layers, dropout=dropout)
