"""The recurrent stack against torch's own cells unrolled by hand, and its deeper and slower variants against loops."""

import functools
import itertools

import pytest
import torch
from torch import nn

from forecaster.config import ModelConfig
from forecaster.model.cells import RecurrentLayer, RecurrentStack, Transition, make_stack
from forecaster.model.output_recurrence import OutputRecurrentStack

KINDS = {
    "gru": nn.GRUCell,
    "lstm": nn.LSTMCell,
    "rnn_tanh": functools.partial(nn.RNNCell, nonlinearity="tanh"),
    "rnn_relu": functools.partial(nn.RNNCell, nonlinearity="relu"),
}
DEEP = [(), ("input",), ("transition",), ("output",), ("input", "transition", "output")]


def make(cell: str, layers: int = 2, **changes: object) -> RecurrentStack:
    config = ModelConfig(cell=cell, num_layers=layers, **changes)  # type: ignore[arg-type]
    stack = make_stack(config, input_size=4, hidden_size=6, periods=config.layer_periods or (1,) * layers)
    assert isinstance(stack, RecurrentStack)
    return stack


def unrolled(cell: str, stack: RecurrentStack, inputs: torch.Tensor, first: int = 0) -> torch.Tensor:
    """Return the output [B, T, H] by torch's cells, step by step and layer by layer; `first` is the first position."""
    output = inputs
    for index, layer in enumerate(stack.layers):
        assert isinstance(layer, RecurrentLayer)
        below = layer.into(output)
        one = KINDS[cell](below.shape[-1], stack.hidden_size).to(inputs.dtype)
        one.load_state_dict({name.removesuffix("_l0"): value for name, value in layer.kernel.state_dict().items()})
        hidden = torch.zeros(inputs.shape[0], stack.hidden_size, dtype=inputs.dtype)
        memory, steps = hidden.clone(), []
        for t in range(inputs.shape[1]):
            if (first + t) % layer.period == 0:
                before = hidden if layer.transition is None else layer.transition(hidden)
                carried = one(below[:, t], (before, memory) if stack.has_cell else before)
                hidden, memory = carried if stack.has_cell else (carried, memory)
            steps.append(hidden if layer.out is None else hidden + layer.out(hidden))
        result = torch.stack(steps, dim=1)
        output = result if index == 0 else result + output
    return output


def zeros(n: int, layers: int = 2) -> dict[str, torch.Tensor]:
    hidden = torch.zeros(n, layers, 6)
    return {"hidden": hidden, "cell": hidden.clone(), "position": torch.zeros(n, dtype=torch.int64)}


@torch.inference_mode()
@pytest.mark.parametrize("cell", sorted(KINDS))
@pytest.mark.parametrize("deep", DEEP)
@pytest.mark.parametrize("periods", [None, (1, 3), (2, 5)])
def test_the_stack_equals_torchs_cells(cell: str, deep: tuple[str, ...], periods: tuple[int, int] | None) -> None:
    torch.manual_seed(0)
    stack = make(cell, layer_periods=periods, **{f"deep_{name}": True for name in deep})
    inputs = torch.randn(3, 11, 4)
    state, output = stack(zeros(3), inputs)
    torch.testing.assert_close(output, unrolled(cell, stack, inputs), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(stack.summary(state), output[:, -1], rtol=1e-5, atol=1e-6)


@torch.inference_mode()
@pytest.mark.parametrize("deep", DEEP)
@pytest.mark.parametrize("period", [2, 3, 7])
def test_a_slow_layer_ticks_by_each_series_own_position(deep: tuple[str, ...], period: int) -> None:
    """Series of different positions and lengths in one batch, in chunks of every size."""
    torch.manual_seed(1)
    stack = make("lstm", layer_periods=(1, period), **{f"deep_{name}": True for name in deep})
    inputs, starts = torch.randn(4, 12, 4), torch.tensor([0, 1, 2, 5])
    lengths = torch.tensor([12, 1, 7, 3])
    before = {**zeros(4), "hidden": torch.randn(4, 2, 6), "cell": torch.randn(4, 2, 6), "position": starts}
    together, output = stack(before, inputs, lengths)
    for row, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
        state = {name: tensor[row : row + 1] for name, tensor in before.items()}
        for low, high in itertools.pairwise(sorted({0, 1, 3, 6, length}) if length > 6 else [0, length]):
            state["position"] = torch.tensor([start + low])
            moved, part = stack(state, inputs[row : row + 1, low:high])
            torch.testing.assert_close(part, output[row : row + 1, low:high], rtol=1e-5, atol=1e-6)
            state = {**state, **moved}
        for name in ("hidden", "cell"):
            torch.testing.assert_close(state[name][0], together[name][row], rtol=1e-5, atol=1e-6)


def test_the_gradient_of_a_transition_is_right() -> None:
    torch.manual_seed(2)
    transition = Transition(4).double()
    hidden = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(transition, (hidden,))
    stack = make("gru", deep_transition=True, layer_periods=(1, 2)).double()
    inputs = torch.randn(2, 5, 4, dtype=torch.float64, requires_grad=True)
    state = {**zeros(2), "hidden": torch.zeros(2, 2, 6, dtype=torch.float64)}
    assert torch.autograd.gradcheck(lambda x: stack(state, x, torch.tensor([5, 3]))[0]["hidden"], (inputs,))


def test_a_transition_keeps_bounded_vectors_bounded() -> None:
    transition = Transition(5)
    for parameter in transition.parameters():
        torch.nn.init.normal_(parameter, std=5.0)
    with torch.inference_mode():
        hidden = 2 * torch.rand(1000, 5) - 1
        for _ in range(100):
            hidden = transition(hidden)
    assert float(hidden.abs().max()) <= 1.0


def output_stack() -> OutputRecurrentStack:
    stack = make_stack(ModelConfig(cell="output"), input_size=5, hidden_size=6, periods=(1, 1))
    assert isinstance(stack, OutputRecurrentStack)
    return stack


def test_output_recurrence_is_a_loop_over_the_previous_output() -> None:
    torch.manual_seed(3)
    stack, inputs = output_stack(), torch.randn(3, 9, 5)
    inputs[..., 1] = (torch.rand(3, 9) > 0.4).float()
    hidden, outputs = torch.zeros(3, 2, 6), []
    with torch.inference_mode():
        for t in range(9):
            known = inputs[:, t, 1] > 0
            previous = torch.where(known, inputs[:, t, 0], stack.readout(hidden.sum(1))[:, 0])[:, None]
            first = torch.tanh(stack.layers[0](inputs[:, t]) + stack.from_output[0](previous))
            second = torch.tanh(stack.layers[1](first) + stack.from_output[1](previous))
            hidden = torch.stack([first, second], dim=1)
            outputs.append(hidden.sum(1))
        state, output = stack({"hidden": torch.zeros(3, 2, 6)}, inputs)
    torch.testing.assert_close(output, torch.stack(outputs, 1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(state["hidden"], hidden, rtol=1e-5, atol=1e-6)


def test_output_recurrence_forgets_everything_but_its_output() -> None:
    """Where values are known, the step before makes no difference: that is why training needs no loop."""
    torch.manual_seed(4)
    stack, inputs = output_stack(), torch.randn(2, 6, 5)
    inputs[..., 1] = 1.0
    with torch.inference_mode():
        _, whole = stack({"hidden": torch.zeros(2, 2, 6)}, inputs)
        _, last = stack({"hidden": torch.randn(2, 2, 6)}, inputs[:, -1:])
    torch.testing.assert_close(whole[:, -1:], last)


def test_the_gradient_of_output_recurrence_is_right() -> None:
    torch.manual_seed(5)
    stack = output_stack().double()
    mask = torch.tensor([[1, 0, 0, 1, 0], [0, 1, 1, 0, 1]], dtype=torch.float64)[..., None]
    state = {"hidden": torch.zeros(2, 2, 6, dtype=torch.float64)}

    def run(values: torch.Tensor, rest: torch.Tensor) -> torch.Tensor:
        return stack(state, torch.cat([values, mask, rest], dim=-1))[1]

    inputs = [torch.randn(2, 5, size, dtype=torch.float64, requires_grad=True) for size in (1, 3)]
    assert torch.autograd.gradcheck(run, inputs)


def gates(cell: str, initialization: str) -> list[torch.Tensor]:
    layer = RecurrentLayer(cell, 4, 6, initialization=initialization)
    return list(layer.kernel.weight_hh_l0.detach().split(6))  # type: ignore[union-attr, operator]


@pytest.mark.parametrize("cell", sorted(KINDS))
def test_recurrent_weights_start_as_told(cell: str) -> None:
    for gate in gates(cell, "orthogonal"):
        torch.testing.assert_close(gate @ gate.T, torch.eye(6), rtol=1e-5, atol=1e-5)
    for gate in gates(cell, "identity"):
        torch.testing.assert_close(gate, 0.99 * torch.eye(6))
    for gate in gates(cell, "xavier"):
        assert float(gate.abs().max()) <= (6 / 12) ** 0.5
        assert not torch.allclose(gate @ gate.T, torch.eye(6), atol=0.1)
