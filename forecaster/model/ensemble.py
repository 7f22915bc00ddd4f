"""Several networks of one architecture as one model: one set of memories and statistics, K hidden states.

The members share everything of a state that does not depend on weights, so that a state grows by the members' hidden
vectors only; a forecast is the mean of the members' quantiles, level by level (Vincent averaging), which cannot cross.

Shapes: B series, T steps, N origins, D horizon steps, K members, L layers, H hidden, Q quantiles.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from forecaster.errors import UnsupportedError
from forecaster.model.decoders.sampling import Paths
from forecaster.model.inputs.observations import Encoded, Observations
from forecaster.model.seq2seq import Prediction, Seq2Seq
from forecaster.model.state import State, StateSpec, TensorSpec


class Ensemble(nn.Module):
    """K networks that were trained alike from different seeds; the interface is `Seq2Seq`'s.

    Args:
        members: one or more, of the same configuration.
    """

    def __init__(self, members: Sequence[Seq2Seq]) -> None:
        super().__init__()
        first = members[0]
        shared = (first.config, first.step_us, first.covariates)
        if any((member.config, member.step_us, member.covariates) != shared for member in members):
            raise ValueError(
                "the members of an ensemble have one configuration, one time step and one set of covariates"
            )
        self.members = nn.ModuleList(members)
        self.config, self.step_us, self.memory = first.config, first.step_us, first.memory
        self.covariates = first.covariates
        # What each member has of its own.
        names = {"outputs", *(tensor.name for tensor in first.encoder.state_spec())}
        self._own = [tensor.name for tensor in first.state_spec if tensor.name in names]
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
        one = observation.each(lambda field: field[:, None])
        return self.scan(state, one)[0]

    def scan(
        self, state: State, observations: Observations, lengths: Tensor | None = None
    ) -> tuple[State, tuple[Encoded, ...]]:
        """Advance by T steps at once; see `Seq2Seq.scan`."""
        scanned = [member.scan(part, observations, lengths) for member, part in self._parts(state)]
        new = dict(scanned[0][0])
        for name in self._own:
            new[name] = torch.cat([part[name] for part, _ in scanned], dim=1)
        return new, tuple(encoded for _, encoded in scanned)

    def decode(self, state: State, horizon: int, future: Tensor | None = None) -> Tensor:
        """Return the mean of the members' quantiles, float64 [B, D, Q]; see `Seq2Seq.decode`."""
        return self.predict(state, horizon, future).quantiles

    def predict(self, state: State, horizon: int, future: Tensor | None = None) -> Prediction:
        """Return the mean of the members' quantiles and probabilities; see `Seq2Seq.predict`."""
        parts = [member.predict(part, horizon, future) for member, part in self._parts(state)]
        return Prediction(*(torch.stack(fields).mean(dim=0) for fields in zip(*parts, strict=True)))

    def sample(self, state: State, horizon: int, paths: int, seeds: Tensor, future: Tensor | None = None) -> Paths:
        """Return paths of the mixture: each member draws its share of them; see `Seq2Seq.sample`."""
        found = []
        for k, (member, part) in enumerate(self._parts(state)):
            share = len(range(k, paths, len(self.members)))
            if share:  # another stream of numbers for each member
                found.append(member.sample(part, horizon, share, seeds * len(self.members) + k, future))
        return Paths(torch.cat([one.values for one in found], dim=1), torch.cat([one.lengths for one in found], dim=1))

    def beam(
        self, state: State, horizon: int, *, paths: int, width: int, length_power: float, future: Tensor | None = None
    ) -> Paths:
        """Raise UnsupportedError: the members' best paths are not the mixture's."""
        raise UnsupportedError("beam search needs a single network: this model is an ensemble")

    def quantiles_after(self, encoded: Any, steps: Tensor, horizon: int, future: Tensor | None = None) -> Tensor:
        """Return the mean of the members' quantiles just after `steps` (int64 [K]) of a scan, float64 [N, D, Q]."""
        pairs = zip(self._networks(), encoded, strict=True)
        return torch.stack([member.quantiles_after(e, steps, horizon, future) for member, e in pairs]).mean(dim=0)

    def _networks(self) -> list[Seq2Seq]:
        return [member for member in self.members if isinstance(member, Seq2Seq)]

    def _parts(self, state: State) -> list[tuple[Seq2Seq, State]]:
        """Return each member with its state."""
        return list(zip(self._networks(), self._split(state), strict=True))

    def _split(self, state: State) -> list[State]:
        """Return each member's state."""
        own = {name: state[name].chunk(len(self.members), dim=1) for name in self._own}
        return [{**state, **{name: parts[k] for name, parts in own.items()}} for k in range(len(self.members))]


Model = Seq2Seq | Ensemble
