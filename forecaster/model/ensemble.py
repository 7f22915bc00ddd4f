"""Several networks of one architecture as one model: one set of memories and statistics, K hidden states.

The members share everything of a state that does not depend on weights, so that a state grows by the members' hidden
vectors only; a forecast is the mean of the members' quantiles, level by level (Vincent averaging), which cannot cross.

Shapes: B series, T steps, N origins, D horizon steps, K members, L layers, H hidden, Q quantiles.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from forecaster.model.seq2seq import Encoded, Observations, Seq2Seq
from forecaster.model.state import State, StateSpec, TensorSpec


class Ensemble(nn.Module):
    """K networks that were trained alike from different seeds; the interface is `Seq2Seq`'s.

    Args:
        members: one or more, of the same configuration.
    """

    def __init__(self, members: Sequence[Seq2Seq]) -> None:
        super().__init__()
        first = members[0]
        if any(member.config != first.config or member.step_us != first.step_us for member in members):
            raise ValueError("the members of an ensemble have one configuration and one time step")
        self.members = nn.ModuleList(members)
        self.config, self.step_us, self.memory = first.config, first.step_us, first.memory
        self._own = [tensor.name for tensor in first.encoder.state_spec()]  # what each member has of its own
        self.state_spec = StateSpec(
            TensorSpec(name, (len(members) * shape[0], *shape[1:]), dtype) if name in self._own else spec
            for spec in first.state_spec
            for name, shape, dtype in [spec]
        )

    def initial_state(self, n: int) -> State:
        """Return the state of `n` fresh series."""
        return self.state_spec.zeros(n, next(self.parameters()).device)

    def step(self, state: State, observation: Observations) -> State:
        """Return the state after one step; the fields of `observation` are [B]."""
        one = Observations(*(field[:, None] for field in observation))
        return self.scan(state, one)[0]

    def scan(
        self, state: State, observations: Observations, lengths: Tensor | None = None
    ) -> tuple[State, tuple[Encoded, ...]]:
        """Advance by T steps at once; see `Seq2Seq.scan`."""
        scanned = [
            member.scan(part, observations, lengths)
            for member, part in zip(self._networks(), self._split(state), strict=True)
        ]
        new = dict(scanned[0][0])
        for name in self._own:
            new[name] = torch.cat([part[name] for part, _ in scanned], dim=1)
        return new, tuple(encoded for _, encoded in scanned)

    def decode(self, state: State, horizon: int) -> Tensor:
        """Return the mean of the members' quantiles, float64 [B, D, Q]; see `Seq2Seq.decode`."""
        forecasts = [
            member.decode(part, horizon) for member, part in zip(self._networks(), self._split(state), strict=True)
        ]
        return torch.stack(forecasts).mean(dim=0)

    def quantiles_after(self, encoded: Any, steps: Tensor, horizon: int) -> Tensor:
        """Return the mean of the members' quantiles just after `steps` (int64 [K]) of a scan, float64 [N, D, Q]."""
        forecasts = [m.quantiles_after(e, steps, horizon) for m, e in zip(self._networks(), encoded, strict=True)]
        return torch.stack(forecasts).mean(dim=0)

    def _networks(self) -> list[Seq2Seq]:
        return [member for member in self.members if isinstance(member, Seq2Seq)]

    def _split(self, state: State) -> list[State]:
        """Return each member's state."""
        own = {name: state[name].chunk(len(self.members), dim=1) for name in self._own}
        return [{**state, **{name: parts[k] for name, parts in own.items()}} for k in range(len(self.members))]


Model = Seq2Seq | Ensemble
