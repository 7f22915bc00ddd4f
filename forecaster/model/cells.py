"""A stack of recurrent layers with residual connections, over torch's fused kernels.

Layer l computes h_t = cell(u_t, h_{t-1}); its output is h_t + u_t from the second layer on, so that the
stack's output is the sum of its layers' hidden states, which is why `summary` can read it off a state.

Shapes: B series, T steps, I inputs, H hidden, L layers.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from forecaster.model.state import State, TensorSpec

_LAYERS: dict[str, Callable[[int, int], nn.RNNBase]] = {
    "gru": lambda inputs, hidden: nn.GRU(inputs, hidden, batch_first=True),
    "lstm": lambda inputs, hidden: nn.LSTM(inputs, hidden, batch_first=True),
    "rnn_tanh": lambda inputs, hidden: nn.RNN(inputs, hidden, nonlinearity="tanh", batch_first=True),
    "rnn_relu": lambda inputs, hidden: nn.RNN(inputs, hidden, nonlinearity="relu", batch_first=True),
}
_INITIALIZERS: dict[str, Callable[[Tensor], Tensor]] = {
    "orthogonal": nn.init.orthogonal_,
    "xavier": nn.init.xavier_uniform_,
    "identity": nn.init.eye_,
}


class RecurrentStack(nn.Module):
    """L stacked layers of one kind of cell.

    Args:
        cell: `gru`, `lstm`, `rnn_tanh` or `rnn_relu`.
        input_size: I.
        hidden_size: H.
        num_layers: L.
        dropout: between layers and on the output, while training.
        initialization: of the recurrent weights: `orthogonal`, `xavier` or `identity`, gate by gate.
    """

    def __init__(
        self,
        *,
        cell: str,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        dropout: float,
        initialization: str = "orthogonal",
    ) -> None:
        super().__init__()
        sizes = [input_size] + [hidden_size] * (num_layers - 1)
        self.layers = nn.ModuleList(_LAYERS[cell](size, hidden_size) for size in sizes)
        self.dropout = nn.Dropout(dropout)
        self.hidden_size = hidden_size
        self.has_cell = cell == "lstm"
        for name, parameter in self.named_parameters():
            if "weight_hh" in name:  # each gate's block on its own
                for gate in parameter.data.split(hidden_size):
                    _INITIALIZERS[initialization](gate)
            elif "weight_ih" in name:
                nn.init.xavier_uniform_(parameter)
            else:
                nn.init.zeros_(parameter)

    def state_spec(self) -> Sequence[TensorSpec]:
        """Return the tensors that the stack keeps of a series: `hidden`, and `cell` for an LSTM, [L, H]."""
        names = ["hidden", "cell"] if self.has_cell else ["hidden"]
        return [TensorSpec(name, (len(self.layers), self.hidden_size), torch.float32) for name in names]

    def forward(self, state: State, inputs: Tensor, lengths: Tensor | None = None) -> tuple[State, Tensor]:
        """Advance by T steps.

        Args:
            state: with `hidden` (and `cell`) [B, L, H].
            inputs: [B, T, I].
            lengths: steps of each series, int64 [B], 1 to T; left out, all T.

        Returns:
            The new `hidden` (and `cell`), and the stack's output [B, T, H] (zero past a series' length).
        """
        hidden, cell = [], []
        output = inputs
        for index, layer in enumerate(self.layers):
            h0 = state["hidden"][:, index][None].contiguous()
            carried = (h0, state["cell"][:, index][None].contiguous()) if self.has_cell else h0
            result, carried = _run(layer, output, carried, lengths)
            hidden.append(carried[0][0] if self.has_cell else carried[0])
            if self.has_cell:
                cell.append(carried[1][0])
            output = self.dropout(result if index == 0 else result + output)
        new: State = {"hidden": torch.stack(hidden, dim=1)}
        if self.has_cell:
            new["cell"] = torch.stack(cell, dim=1)
        return new, output

    @staticmethod
    def summary(state: State) -> Tensor:
        """Return the stack's latest output, [B, H]: the sum of the layers' hidden states."""
        return state["hidden"].sum(dim=1)


def _run(
    layer: nn.Module, inputs: Tensor, carried: Tensor | tuple[Tensor, Tensor], lengths: Tensor | None
) -> tuple[Tensor, Tensor | tuple[Tensor, Tensor]]:
    if lengths is None:
        output, carried = layer(inputs, carried)
        return output, carried
    packed = pack_padded_sequence(inputs, lengths.cpu(), batch_first=True, enforce_sorted=False)
    output, carried = layer(packed, carried)
    padded, _ = pad_packed_sequence(output, batch_first=True, total_length=inputs.shape[1])
    return padded, carried
