"""The network whose only memory is its previous output (Goodfellow et al. 2016, fig. 10.4).

h_t = tanh(W x_t + U o_t + b), where o_t is what the network said at the step before, or, where it is known, the true
value in its place (teacher forcing): then no step waits for another and all of them are computed in parallel. Only
where a value is missing does the network's own output go round.

Shapes: B series, T steps, I inputs, H hidden, L layers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from forecaster.model.state import State, TensorSpec


class OutputRecurrentStack(nn.Module):
    """L layers with residual connections and one readout; the interface is `RecurrentStack`'s.

    The inputs begin with the step's value and whether it is known (1 or 0).

    Args:
        sizes: of the layers' inputs.
        hidden_size: H.
        dropout: between layers and on the output, while training.
    """

    def __init__(self, sizes: Sequence[int], hidden_size: int, *, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(size, hidden_size) for size in sizes)
        self.from_output = nn.ModuleList(nn.Linear(1, hidden_size, bias=False) for _ in sizes)
        self.readout = nn.Linear(hidden_size, 1)
        self.dropout = nn.Dropout(dropout)
        self.hidden_size = hidden_size

    def state_spec(self) -> Sequence[TensorSpec]:
        """Return the tensors that the stack keeps of a series: `hidden` [L, H], of which only the readout is used."""
        return [TensorSpec("hidden", (len(self.layers), self.hidden_size), torch.float32)]

    def forward(self, state: State, inputs: Tensor, lengths: Tensor | None = None) -> tuple[State, Tensor]:
        """Advance by T steps; see `RecurrentStack.forward`."""
        steps = inputs.shape[1]
        missing = inputs[..., 1] == 0
        given = torch.where(missing, 0.0, inputs[..., 0])[..., None]  # [B, T, 1]
        hidden = self._hidden(inputs, given)  # [B, T, L, H]
        if missing.any():
            by_step = list(hidden.unbind(1))
            for t in torch.nonzero(missing.any(dim=0))[:, 0].tolist():
                before = by_step[t - 1] if t else state["hidden"]
                own = self.readout(before.sum(dim=1))
                again = self._hidden(inputs[:, t], torch.where(missing[:, t, None], own, given[:, t]))
                by_step[t] = torch.where(missing[:, t, None, None], again, by_step[t])
            hidden = torch.stack(by_step, dim=1)
        last = torch.full((len(inputs),), steps, device=inputs.device) if lengths is None else lengths.to(inputs.device)
        new = hidden[torch.arange(len(inputs), device=inputs.device), last - 1]
        return {"hidden": new}, self.dropout(hidden.sum(dim=2))

    def summary(self, state: State) -> Tensor:
        """Return the stack's latest output, [B, H]: the sum of the layers' hidden vectors."""
        return state["hidden"].sum(dim=1)

    def one_step_loss(self, context: Tensor, values: Tensor, observed: Tensor) -> Tensor:
        """Return the squared error of the readout one step ahead, which is what trains it.

        Args:
            context: the stack's outputs, [B, T, H].
            values: normalised, [B, T].
            observed: bool [B, T].
        """
        error = self.readout(context[:, :-1])[..., 0] - values[:, 1:]
        loss: Tensor = (error.square() * observed[:, 1:]).sum()
        return loss

    def _hidden(self, inputs: Tensor, previous: Tensor) -> Tensor:
        """Return the layers' hidden vectors [..., L, H] of inputs [..., I] and previous outputs [..., 1]."""
        hidden, below = [], inputs
        for layer, back in zip(self.layers, self.from_output, strict=True):
            hidden.append((layer(below) + back(previous)).tanh())
            below = hidden[-1] if len(hidden) == 1 else hidden[-1] + below
        return torch.stack(hidden, dim=-2)
