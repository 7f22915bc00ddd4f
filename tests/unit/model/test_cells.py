"""The recurrent stack against torch's own cells, unrolled by hand."""

import functools
from typing import get_args

import pytest
import torch
from torch import nn

from forecaster.config import Cell
from forecaster.model.cells import RecurrentStack

KINDS = {
    "gru": nn.GRUCell,
    "lstm": nn.LSTMCell,
    "rnn_tanh": functools.partial(nn.RNNCell, nonlinearity="tanh"),
    "rnn_relu": functools.partial(nn.RNNCell, nonlinearity="relu"),
}


def unrolled(name: str, stack: RecurrentStack, inputs: torch.Tensor) -> torch.Tensor:
    """Return the output [B, T, H] by torch's cells, step by step and layer by layer."""
    output = inputs
    for index, layer in enumerate(stack.layers):
        cell = KINDS[name](output.shape[-1], stack.hidden_size)
        cell.load_state_dict({name.removesuffix("_l0"): value for name, value in layer.state_dict().items()})
        hidden = torch.zeros(inputs.shape[0], stack.hidden_size)
        carried = (hidden, hidden.clone()) if stack.has_cell else hidden
        steps = []
        for t in range(inputs.shape[1]):
            carried = cell(output[:, t], carried)
            steps.append(carried[0] if stack.has_cell else carried)
        result = torch.stack(steps, dim=1)
        output = result if index == 0 else result + output
    return output


@pytest.mark.parametrize("cell", get_args(Cell))
@pytest.mark.parametrize("layers", [1, 3])
def test_the_stack_equals_torchs_cells(cell: str, layers: int) -> None:
    torch.manual_seed(0)
    stack = RecurrentStack(cell=cell, input_size=4, hidden_size=6, num_layers=layers, dropout=0.0)
    inputs = torch.randn(3, 11, 4)
    zeros = {"hidden": torch.zeros(3, layers, 6), "cell": torch.zeros(3, layers, 6)}
    with torch.inference_mode():
        state, output = stack(zeros, inputs)
        torch.testing.assert_close(output, unrolled(cell, stack, inputs), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(RecurrentStack.summary(state), output[:, -1], rtol=1e-5, atol=1e-6)


def gates(cell: str, initialization: str) -> list[torch.Tensor]:
    stack = RecurrentStack(
        cell=cell, input_size=4, hidden_size=6, num_layers=1, dropout=0.0, initialization=initialization
    )
    return list(stack.layers[0].weight_hh_l0.detach().split(6))  # type: ignore[union-attr, operator]


@pytest.mark.parametrize("cell", get_args(Cell))
def test_recurrent_weights_start_as_told(cell: str) -> None:
    for gate in gates(cell, "orthogonal"):
        torch.testing.assert_close(gate @ gate.T, torch.eye(6), rtol=1e-5, atol=1e-5)
    for gate in gates(cell, "identity"):
        assert torch.equal(gate, torch.eye(6))
    for gate in gates(cell, "xavier"):
        assert float(gate.abs().max()) <= (6 / 12) ** 0.5
        assert not torch.allclose(gate @ gate.T, torch.eye(6), atol=0.1)
