"""A little engine around `Calibration`: known forecasts, turns of observations and forecasts, and a log of both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import norm

from forecaster.config import ModelConfig
from forecaster.model.inputs.normalizer import width
from forecaster.model.state import State, StateSpec, TensorSpec
from forecaster.model.stepping.ragged import Runs
from forecaster.serving.calibration.calibration import NEVER, Calibration
from forecaster.serving.storage.issued import Issued

HOUR_US = 3_600_000_000
LEVELS = (0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.975)
GAUSSIAN = norm.ppf(LEVELS)
Values = npt.NDArray[np.float64]


def calibration(
    horizon: int, rates: tuple[float, float] = (0.2, 0.1), levels: tuple[float, ...] = LEVELS, *, ends: bool = False
) -> Calibration:
    """Return the calibration of some model of hours."""
    config = ModelConfig(horizon=horizon, season_lengths=(), quantile_levels=levels, end_of_sequence=ends)
    return Calibration(config.resolve(HOUR_US), HOUR_US, "f" * 64, rates=rates)


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive steps of a series; NaN is a missing value, None a step without a row; `fresh` starts it afresh."""

    start_us: int
    values: tuple[float | None, ...]
    fresh: bool = False


def as_runs(runs: Sequence[Run]) -> Runs:
    """Return them as the model takes them."""
    rows = [(i, step, v) for i, run in enumerate(runs) for step, v in enumerate(run.values) if v is not None]
    columns = np.array(rows, dtype=np.float64).reshape(-1, 3)
    return Runs(
        torch.tensor([run.start_us for run in runs], dtype=torch.int64),
        torch.tensor([len(run.values) for run in runs], dtype=torch.int64),
        torch.from_numpy(columns[:, 0].astype(np.int64)),
        torch.from_numpy(columns[:, 1].astype(np.int64)),
        torch.from_numpy(columns[:, 2].copy()),
    )


@dataclass
class Series:
    """States of S series in slots of their own order, and what was written down."""

    calibration: Calibration
    names: tuple[str, ...]
    unit: float = 1.0
    log: list[Issued | Mapping[int, Run]] = field(default_factory=list)

    def __post_init__(self) -> None:
        n = len(self.names)
        self.slots = np.arange(n)[::-1].copy()  # of series i
        self.position, self.clock_us = np.zeros(n, dtype=np.int64), np.full(n, -HOUR_US)
        spec = StateSpec([*self.calibration.spec, TensorSpec("normalizer", (width(1),), torch.float64)])
        self.tensors: State = spec.zeros(n)
        self.tensors["normalizer"][:, [0, 2, 5]] = 1.0
        self.tensors["normalizer"][:, [3, 6]] = self.unit
        self.targets = self.calibration.next_target(self.tensors, np.arange(n))

    def observe(self, runs: Mapping[int, Run], issued: Issued | None = None) -> None:
        """Apply runs of some series; with `issued`, as a replay."""
        self.log.append(runs)
        which = np.array(list(runs), dtype=np.int64)
        for i, run in runs.items():
            if run.fresh:
                self.position[i] = 0
                for one in self.calibration.spec:
                    self.tensors[one.name][self.slots[i]] = 0
                self.targets[self.slots[i]] = NEVER
        at = self.slots[which], self.position[which]
        if issued is None:
            self.calibration.score(self.tensors, self.targets, *at, as_runs(list(runs.values())))
        else:
            place = {self.names[i]: k for k, i in enumerate(runs)}
            run_of = np.array([place.get(name, -1) for name in issued.series_ids], dtype=np.int64)
            self.calibration.replay(self.tensors, self.targets, at, as_runs(list(runs.values())), issued, run_of)
        for i, run in runs.items():
            self.position[i] += len(run.values)
            if run.values:
                self.clock_us[i] = run.start_us + (len(run.values) - 1) * HOUR_US

    def forecast(self, which: Sequence[int], quantiles: Values, shown: Sequence[int] | None = None) -> Issued | None:
        """Give forecasts [N, D, Q] of some series, of which so many steps are shown if they may end."""
        at = np.array(which, dtype=np.int64)
        ahead = quantiles.shape[1]
        ended = np.zeros((len(at), ahead)) if shown is None else 1.0 * (np.arange(ahead) >= np.array(shown)[:, None])
        origins = self.position[at], self.clock_us[at], np.full(len(at), ahead)
        issued = self.calibration.issue(
            self.tensors, self.targets, self.slots[at], (quantiles, ended), origins, self.names_of
        )
        if issued is not None:
            self.log.append(issued)
        return issued

    def names_of(self, slots: npt.NDArray[np.int64]) -> list[str]:
        """Return the names of the series in `slots`."""
        by_slot = {int(slot): name for slot, name in zip(self.slots, self.names, strict=True)}
        return [by_slot[slot] for slot in slots.tolist()]

    def next_run(self, i: int, values: Sequence[float | None]) -> Run:
        """Return the run of these values behind the series' clock."""
        return Run(int(self.clock_us[i]) + HOUR_US, tuple(values))

    def horizons(self, name: str, series: int) -> npt.NDArray[np.float64]:
        """Return one series' rows of a tensor, [K, …]."""
        return self.tensors[name][self.slots[series]].double().numpy()  # type: ignore[no-any-return]


def replayed(series: Series, cuts: Sequence[int]) -> Series:
    """Return fresh states after the log, of which the parts between the cuts are applied at once."""
    again = Series(series.calibration, series.names, series.unit)
    for low, high in zip([0, *cuts], [*cuts, len(series.log)], strict=True):
        part = series.log[low:high]
        issued = [one for one in part if isinstance(one, Issued)]
        runs: dict[int, Run] = {}
        for one in part:
            if isinstance(one, Issued):
                continue
            for i, run in one.items():
                before = runs.get(i)
                joined = before is not None and not run.fresh
                runs[i] = Run(before.start_us, before.values + run.values, before.fresh) if before and joined else run
        for name in {name for one in issued for name in one.series_ids}:
            i = series.names.index(name)
            runs.setdefault(i, again.next_run(i, ()))
        again.observe(runs, Issued.joined(issued) if issued else None)
    return again
