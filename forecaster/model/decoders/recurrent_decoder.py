"""The recurrent decoder: each step from the one before it, so that its paths are samples of the joint distribution.

p(y_1 … y_D | past) = Π p(y_k | y_1 … y_{k-1}, past): in training the actual values stand before each step (teacher
forcing), which needs no step to wait for another; a forecast draws each value and feeds it to the next step (ancestral
sampling).

Shapes: N origins, P paths of each, D horizon steps, A hidden, C candidates; see `decoder`.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from forecaster.config import ModelConfig
from forecaster.model.cells import make_stack
from forecaster.model.decoders.decoder import Decoded, DecoderInputs, Readout, Sizes, StepFeatures, in_float
from forecaster.model.inputs.normalizer import soft_clip
from forecaster.model.state import State

# (step k, head's parameters [N, P, …], logits of ending [N, P]) -> the values of step k, float64 [N, P]
Choose = Callable[[int, Tensor, Tensor | None], Tensor]


class Rollout(NamedTuple):
    """What of a decoding does not depend on the values that it draws.

    Args:
        origins: N.
        steps: the inputs of each step but the value before it, float32 [N, D, A].
        start: the initial hidden vectors, float32 [N, A].
        candidates: float32 [N, D, C].
        available: bool [N, D, C].
        moves: how the same season's earlier values move into each step, normalised, float32 [N, D, S].
        moves_known: bool [N, D, S].
    """

    origins: DecoderInputs
    steps: Tensor
    start: Tensor
    candidates: Tensor
    available: Tensor
    moves: Tensor
    moves_known: Tensor


class RecurrentDecoder(nn.Module):
    """One recurrent layer over the horizon.

    Args:
        config: resolved.
        sizes: of the origins' parts.
    """

    def __init__(self, config: ModelConfig, sizes: Sizes) -> None:
        super().__init__()
        size = config.decoder_size
        self.features = StepFeatures(sizes, size, bidirectional=config.bidirectional)
        self.from_step = nn.Linear(self.features.size, size)
        self.from_horizon = nn.Embedding(config.horizon, size)
        nn.init.normal_(self.from_horizon.weight, std=0.1)
        starts, inputs = config.context in ("initial", "both"), config.context in ("input", "both")
        starts = starts and config.cell != "output"  # which carries no hidden vector
        self.start = nn.Linear(self.features.context_size, size) if starts else None
        self.from_context = nn.Linear(self.features.context_size, size, bias=False) if inputs else None
        self.stack = make_stack(config, input_size=2 + size, hidden_size=size, periods=(1,))
        self.readout = Readout(config, num_candidates=2 * sizes.lags + 2, memory_size=sizes.context)

    def plan(self, origins: DecoderInputs) -> Rollout:
        """Return what is the same for all paths."""
        candidates, available = self.features.candidates(origins)
        step = self.features(origins, candidates, available)
        context = self.features.context(origins)
        steps = self.from_step(step) + self.from_horizon(torch.arange(step.shape[1], device=step.device))
        if self.from_context is not None:
            steps = steps + self.from_context(context)[:, None]
        start = torch.zeros_like(steps[:, 0]) if self.start is None else self.start(context).tanh()
        return Rollout(origins, steps, start, candidates, available, *_moves(origins))

    def forward(self, origins: DecoderInputs, target: Tensor) -> Decoded:
        """Return the distributions of all steps given the actual values before each, in one pass.

        Args:
            origins: N.
            target: float64 [N, D], NaN where missing: there the value before it is repeated.
        """
        plan = self.plan(origins)
        before = _latest(torch.cat([_newest(origins)[:, None], target[:, :-1]], dim=1))
        _, hidden = self.stack(self._initial(plan, 1), self._inputs(plan.steps, before, origins))
        return Decoded(*self.readout(hidden, *_candidates(plan, slice(None), before), origins))

    def rollout(self, origins: DecoderInputs, paths: int, choose: Choose) -> tuple[Decoded, Tensor]:
        """Walk P paths of every origin step by step, feeding each what `choose` makes of the step before.

        Returns:
            The distributions met, [N, P, D, …], and the values chosen, float64 [N, P, D].
        """
        plan = self.plan(origins)
        state, value = self._initial(plan, paths), _newest(origins)[:, None].expand(-1, paths)
        parameters, endings, values = [], [], []
        for k in range(plan.steps.shape[1]):
            state, found, ending = self.step(plan, k, state, value)
            value = choose(k, found, ending)
            parameters.append(found)
            endings.append(ending)
            values.append(value)
        ending = None if endings[0] is None else torch.stack([e for e in endings if e is not None], dim=2)
        return Decoded(torch.stack(parameters, dim=2), ending), torch.stack(values, dim=2)

    def step(self, plan: Rollout, k: int, state: State, value: Tensor) -> tuple[State, Tensor, Tensor | None]:
        """Return the stack's state [N · P, …], parameters [N, P, …] and endings [N, P] of step k.

        Args:
            plan: N origins.
            k: from 0.
            state: of the stack before it.
            value: before it, float64 [N, P].
        """
        n, paths = value.shape
        step = plan.steps[:, k : k + 1].expand(n, paths, -1)
        inputs = self._inputs(step, value, plan.origins).reshape(n * paths, 1, -1)
        state, hidden = self.stack(state, inputs)
        candidates = _candidates(plan, slice(k, k + 1), value)
        return state, *self.readout(hidden.reshape(n, paths, -1), *candidates, plan.origins)

    def initial(self, plan: Rollout, paths: int) -> tuple[State, Tensor]:
        """Return the stack's state before the first step, and the values before it, float64 [N, P]."""
        return self._initial(plan, paths), _newest(plan.origins)[:, None].expand(-1, paths)

    def _initial(self, plan: Rollout, paths: int) -> State:
        hidden = plan.start.repeat_interleave(paths, dim=0)[:, None]  # [N · P, 1 layer, A]
        return {"hidden": hidden, "cell": torch.zeros_like(hidden)}

    @staticmethod
    def _inputs(step: Tensor, before: Tensor, origins: DecoderInputs) -> Tensor:
        """Return inputs [N, X, 2 + A] of steps [N, X, A] and the values before them [N, X]."""
        frame = origins.frame
        known = soft_clip(((before - frame.level) / frame.scale).float())[..., None]
        return torch.cat([known, torch.ones_like(known), step], dim=-1)


def _moves(origins: DecoderInputs) -> tuple[Tensor, Tensor]:
    """Return how the seasonal candidates move from each step to the next, normalised, and whether that is known."""
    known = origins.seasonal_observed[:, 1:] & origins.seasonal_observed[:, :-1]
    moves = origins.seasonal.diff(dim=1) / origins.statistics.scale[:, None, None]
    first = (0, 0, 1, 0)  # nothing is known of the move into the first step
    return functional.pad(in_float(torch.where(known, moves, 0.0)), first), functional.pad(known, first)


def _candidates(plan: Rollout, steps: slice, before: Tensor) -> tuple[Tensor, Tensor]:
    """Return the candidates of steps given the values before them, float32 and bool [N, X, C + S].

    What direct decoders take from the origin, the newest value, is here the value before the step; it also stands with
    the same season's earlier moves added.

    Args:
        plan: N origins.
        steps: X of them, or one.
        before: float64 [N, X]; of one step, its P paths, [N, P].
    """
    frame, x = plan.origins.frame, before.shape[1]
    newest = in_float((before - frame.level) / frame.scale)[..., None]
    seen = torch.ones_like(newest, dtype=torch.bool)
    here = [
        part[:, steps].expand(-1, x, -1) for part in (plan.candidates, plan.available, plan.moves, plan.moves_known)
    ]
    candidates, available, moves, known = here
    return (
        torch.cat([candidates[..., :-2], newest, candidates[..., -1:], newest + moves], dim=-1),
        torch.cat([available[..., :-2], seen, available[..., -1:], known], dim=-1),
    )


def _newest(origins: DecoderInputs) -> Tensor:
    """Return the last observed value, float64 [N]; the level before the first."""
    return torch.where(origins.statistics.seen, origins.statistics.last, origins.statistics.level)


def _latest(values: Tensor) -> Tensor:
    """Return values [N, D] with each NaN replaced by the latest number before it; the first is a number."""
    steps = torch.arange(values.shape[1], device=values.device).expand_as(values)
    index = torch.where(torch.isfinite(values), steps, 0).cummax(dim=1).values
    return values.gather(1, index)
