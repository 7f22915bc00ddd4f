"""Advance many series by different numbers of steps with few fused scans and little padding.

Knows the model's `scan`; knows nothing of series ids, stores or journals.

Shapes: N series, R rows (given values), T steps.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from forecaster.data.grid import Grid
from forecaster.model.ensemble import Model
from forecaster.model.inputs.observations import Observations
from forecaster.model.state import State, select

_MAX_STEPS = 512  # of one scan
_MAX_CELLS = 262_144  # series × steps of one scan, padding included


@dataclass(frozen=True, slots=True)
class Runs:
    """For each of N series a run of consecutive steps; steps without a row are missing.

    Args:
        start_us: time of each run's first step, int64 [N].
        lengths: steps of each run, 1 or more, int64 [N].
        row_run: for each row its run, int64 [R].
        row_step: for each row its step within the run, from 0, int64 [R].
        values: float64 [R]; NaN means missing.
        covariates: past ones, then known-future ones, NaN where missing, float64 [R, C]; None means that all are.
    """

    start_us: Tensor
    lengths: Tensor
    row_run: Tensor
    row_step: Tensor
    values: Tensor
    covariates: Tensor | None = None

    def of(self, runs: Tensor) -> "Runs":
        """Return some of the runs, ascending, int64 [M]."""
        if len(runs) == len(self.lengths):
            return self
        place = torch.full((len(self.lengths),), -1, dtype=torch.int64)
        place[runs] = torch.arange(len(runs))
        row_run = place[self.row_run]
        rows = row_run >= 0
        beside = None if self.covariates is None else self.covariates[rows]
        parts = (row_run[rows], self.row_step[rows], self.values[rows])
        return Runs(self.start_us[runs], self.lengths[runs], *parts, beside)


def advance(model: Model, state: State, runs: Runs) -> State:
    """Return the states [N] after their runs.

    Series are taken by ascending length, so that a scan pads little: runs of one step, the usual case, are
    one batched step.
    """
    order = torch.argsort(runs.lengths, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order))
    by_row = torch.argsort(rank[runs.row_run], stable=True)
    row_rank = rank[runs.row_run][by_row]
    row_step, values = runs.row_step[by_row], runs.values[by_row]
    covariates = None if runs.covariates is None else runs.covariates[by_row]
    lengths = runs.lengths[order]
    new = {name: torch.empty_like(tensor) for name, tensor in state.items()}
    device = state["position"].device  # the runs are on the host
    low = 0
    while low < len(order):
        longest = min(int(lengths[low]) * 2, _MAX_STEPS) if int(lengths[low]) > 1 else 1
        room = max(_MAX_CELLS // longest, 1)
        fits = int(torch.searchsorted(lengths, longest, right=True)) if longest < _MAX_STEPS else len(order)
        high = min(max(fits, low + 1), low + room)
        rows = slice(*(int(x) for x in torch.searchsorted(row_rank, torch.tensor([low, high]))))
        part = order[low:high]
        beside = None if covariates is None else covariates[rows]
        at = (row_rank[rows] - low, row_step[rows])
        runs_part = Runs(runs.start_us[part], lengths[low:high], *at, values[rows], beside)
        there = part.to(device)
        done = _advance_group(model, select(state, there), runs_part)
        for name, tensor in done.items():
            new[name][there] = tensor
        low = high
    return new


def _advance_group(model: Model, state: State, runs: Runs) -> State:
    """Scan one group in chunks; a run that has ended drops out (lengths ascend)."""
    longest, device = int(runs.lengths[-1]), state["position"].device
    for begin in range(0, longest, _MAX_STEPS):
        steps = min(_MAX_STEPS, longest - begin)
        alive = int(torch.searchsorted(runs.lengths, begin, right=True))
        rows = (runs.row_run >= alive) & (runs.row_step >= begin) & (runs.row_step < begin + steps)
        n = len(runs.lengths) - alive
        at = (runs.row_run[rows] - alive, runs.row_step[rows] - begin)
        padded = torch.full((n, steps), torch.nan, dtype=torch.float64)
        padded[at] = runs.values[rows]
        beside = None
        if runs.covariates is not None:
            beside = torch.full((n, steps, runs.covariates.shape[-1]), torch.nan, dtype=torch.float64)
            beside[at] = runs.covariates[rows]
        times = Grid(model.step_us).time(runs.start_us[alive:, None], begin + torch.arange(steps))
        lengths = (runs.lengths[alive:] - begin).clamp_max(steps)
        observations = Observations.of(times, padded, beside).each(lambda field: field.to(device))
        part = {name: tensor[alive:] for name, tensor in state.items()}
        done, _ = model.scan(part, observations, None if int(lengths.min()) == steps else lengths.to(device))
        state = {name: torch.cat([tensor[:alive], done[name]]) for name, tensor in state.items()}
    return state
