"""Rolling-origin evaluation: one pass over each series, forecasts scored from every origin of it.

Each series is walked once with its state carried; after every step from the first origin on, the whole
horizon is decoded and scored against what came, beside the seasonal naive on the same pairs of origin and
step. A pair is not scored where the actual value is missing or the seasonal naive has none.

Knows nothing of training, of files or of MLflow.

Shapes: B segments of series, T steps, K origins, D horizon steps, Q quantiles.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from forecaster.data.grid import Grid
from forecaster.data.windows import Series
from forecaster.evaluation.origins import Origins
from forecaster.evaluation.scores import COVERAGES, Backtest, SeriesScore, Sums
from forecaster.model.covariates import attributes_of, with_attributes
from forecaster.model.ensemble import Model
from forecaster.model.inputs.observations import Observations
from forecaster.model.state import State
from forecaster.model.stepping.ragged import Runs, advance

__all__ = [
    "COVERAGES",
    "Backtest",
    "SeriesScore",
    "Shared",
    "fill_by_season",
    "forecast",
    "mase_unit",
    "mase_units",
    "rolling_origin",
    "score_model",
]

FloatArray = npt.NDArray[np.float64]
_CHUNK_STEPS = 256
_SEGMENTS_PER_BATCH = 64
_FOR_EVER_US = 2**62
_MAX_CELLS = 2_000_000  # origins × horizon × quantiles of one decoding


@dataclass(frozen=True, slots=True)
class Shared:
    """A backtest that several processes share, each scoring the forecasts of its own series.

    Args:
        mine: ids of this process's series.
        add_up: returns the sum of all processes' sums.
    """

    mine: Collection[str]
    add_up: Callable[[Tensor], Tensor]


def mase_unit(values: FloatArray, season: int) -> float:
    """Return the in-sample error of the seasonal naive, mean |y_t - y_{t-m}| over observed pairs.

    It is MASE's denominator (Hyndman & Koehler 2006). NaN if there is no such pair or no variation.
    """
    return _mean_change([values], season)


def mase_units(series: Sequence[Series], season: int) -> dict[str, float]:
    """Return MASE's denominator for each series id, over all its segments.

    Where no season repeats, it is the mean change from step to step; NaN for a series that never changes.
    """
    values: dict[str, list[FloatArray]] = {}
    for one_series in series:
        values.setdefault(one_series.unique_id, []).append(one_series.values)
    units = {name: _mean_change(parts, season) for name, parts in values.items()}
    return {name: _mean_change(values[name], 1) if math.isnan(unit) else unit for name, unit in units.items()}


def _mean_change(parts: Sequence[FloatArray], lag: int) -> float:
    changes = np.concatenate([np.abs(values[lag:] - values[:-lag]) for values in parts])
    changes = changes[np.isfinite(changes)]
    mean = float(changes.mean()) if changes.size else 0.0
    return mean if mean > 0 else math.nan


def fill_by_season(values: FloatArray, season: int) -> FloatArray:
    """Return at each step its value, or the latest observed one a whole number of seasons before it."""
    cycles = -(-len(values) // season)
    padded = np.full(cycles * season, np.nan)
    padded[: len(values)] = values
    table = padded.reshape(cycles, season)
    latest = np.maximum.accumulate(np.where(np.isfinite(table), np.arange(cycles)[:, None], 0), axis=0)
    filled: FloatArray = np.take_along_axis(table, latest, axis=0).ravel()[: len(values)]
    return filled


def seasonal_steps_back(horizon: int, season: int) -> Tensor:
    """Return how far before an origin's last step the seasonal naive of each of the next steps lies, int64 [D]."""
    ahead = torch.arange(1, horizon + 1)
    cycles = torch.div(ahead + season - 1, season, rounding_mode="floor")
    return season * cycles - ahead  # 0 or more: the naive knows no more than the model


def rolling_origin(
    model: Model,
    series: Sequence[Series],
    *,
    first_time_us: int,
    last_time_us: int = _FOR_EVER_US,
    units: dict[str, float] | None = None,
    shared: Shared | None = None,
) -> Backtest:
    """Forecast from every origin whose first step is at `first_time_us` or later, and score.

    Args:
        model: in evaluation mode.
        series: whole histories, in one segment or more each; what lies before `first_time_us` warms the
            state up.
        first_time_us: the first time that is forecast.
        last_time_us: the first step of the last origin; `first_time_us` for one origin only.
        units: MASE's denominator for each series id; left out, of the parts before `first_time_us`.
        shared: with other processes, None if there are none.
    """
    origins = Origins(
        first_time_us=first_time_us,
        last_time_us=last_time_us,
        horizon=model.config.horizon,
        season=(model.config.season_lengths or (1,))[0],
        min_history=model.config.min_history or 1,
    )
    if units is None:
        units = mase_units([one_series.before(first_time_us) for one_series in series], origins.season)
    return score_model(model, series, origins, units, shared=shared)[0]


def score_model(
    model: Model,
    series: Sequence[Series],
    origins: Origins,
    units: dict[str, float],
    folds: Sequence[int] = (),
    shared: Shared | None = None,
) -> list[Backtest]:
    """Score a model's forecasts from origins that need not be its own, in one walk over the series.

    Args:
        model: in evaluation mode.
        series: whole histories, in one segment or more each.
        origins: which; their horizon is at most the model's, and their season is the seasonal naive's.
        units: MASE's denominator for each series id.
        folds: first times of stretches of time, ascending, that are scored apart; left out, there is only the whole.
        shared: with other processes, None if there are none.

    Returns:
        The figures of all origins, then those of each fold. A forecast belongs to the fold of its first step.
    """
    edges = [*folds, origins.last_time_us + 1] if folds else [origins.first_time_us, origins.last_time_us + 1]
    scored = [one_series for one_series in series if one_series.end_us > origins.first_time_us]
    scored = scored if shared is None else [one for one in scored if one.unique_id in shared.mine]
    ids = list(dict.fromkeys(one_series.unique_id for one_series in series))
    rows = {name: row for row, name in enumerate(ids)}
    totals = [_sums(model, len(ids), origins.horizon) for _ in edges[1:]]
    for start in range(0, len(scored), _SEGMENTS_PER_BATCH):
        batch = scored[start : start + _SEGMENTS_PER_BATCH]
        at = torch.tensor([rows[one.unique_id] for one in batch])
        for total, part in zip(totals, _score(model, batch, origins, edges), strict=True):
            total.merge(part, at)
    totals = totals if shared is None else [total.each(shared.add_up) for total in totals]
    whole = _sums(model, len(ids), origins.horizon)
    for total in totals:
        whole.merge(total, torch.arange(len(ids)))
    known = torch.tensor([units.get(name, math.nan) for name in ids], dtype=torch.float64)
    return [one.summary(ids, known, model.config.quantile_levels) for one in [whole, *(totals if folds else [])]]


def forecast(model: Model, series: Sequence[Series], horizon: int, future: Tensor | None = None) -> Tensor:
    """Return the quantiles of the `horizon` steps that follow each of the series, float64 [B, D, Q].

    Args:
        model: in evaluation mode.
        series: what is known of each.
        horizon: D.
        future: known-future covariates of the steps that follow, NaN where missing, float64 [B, D, F].
    """
    lengths = torch.tensor([len(one_series) for one_series in series])
    runs = Runs(
        torch.tensor([one_series.start_us for one_series in series]),
        lengths,
        torch.repeat_interleave(torch.arange(len(series)), lengths),
        torch.cat([torch.arange(len(one_series)) for one_series in series]),
        torch.from_numpy(np.concatenate([one_series.values for one_series in series])),
        torch.from_numpy(np.concatenate([one_series.dynamic for one_series in series]))
        if model.covariates.dynamic
        else None,
    )
    with torch.inference_mode():
        return model.decode(advance(model, fresh_state(model, series), runs), horizon, future)


def fresh_state(model: Model, series: Sequence[Series]) -> State:
    """Return the states of fresh series that know their static covariates."""
    state = model.initial_state(len(series))
    device = next(model.parameters()).device
    numbers, codes = (part.to(device) for part in attributes_of(series, model.covariates))
    return with_attributes(state, numbers, codes)


def _sums(model: Model, n: int, horizon: int) -> Sums:
    device = next(model.parameters()).device
    return Sums.zeros(n, horizon, len(model.config.quantile_levels), device)


class _Batch:
    """Segments side by side, [B, T + D] with NaN behind each segment's end, and their seasonal naive."""

    def __init__(self, model: Model, series: Sequence[Series], origins: Origins) -> None:
        self.steps, self._horizon = max(len(one_series) for one_series in series), origins.horizon
        padded = np.full((2, len(series), self.steps + self._horizon), np.nan)
        for row, one_series in enumerate(series):
            padded[0, row, : len(one_series)] = one_series.values
            padded[1, row, : len(one_series)] = fill_by_season(one_series.values, origins.season)
        device = next(model.parameters()).device
        self.values, self._filled = torch.from_numpy(padded).to(device)
        self._covariates = self._side_by_side(model, series).to(device)
        self._past = len(model.covariates.past)
        starts = torch.tensor([one_series.start_us for one_series in series], device=device)
        self.time_us = Grid(model.step_us).time(starts[:, None], torch.arange(self.steps, device=device))
        self._ahead = torch.arange(1, self._horizon + 1, device=device)
        self._back = seasonal_steps_back(self._horizon, origins.season).to(device)

    def observations(self, start: int, stop: int) -> Observations:
        beside = self._covariates[:, start:stop] if self._covariates.shape[-1] else None
        return Observations.of(self.time_us[:, start:stop], self.values[:, start:stop], beside)

    def future(self, at: Tensor) -> Tensor:
        """Return the known-future covariates of the steps behind the origins after `at` [K], [B · K, D, F]."""
        return self._covariates[:, at[:, None] + self._ahead, self._past :].flatten(0, 1)

    def _side_by_side(self, model: Model, series: Sequence[Series]) -> Tensor:
        """Return the covariates of the segments, [B, T + D, C] with NaN behind each segment's end."""
        width = len(model.covariates.dynamic)
        padded = np.full((len(series), self.steps + self._horizon, width), np.nan)
        for row, one_series in enumerate(series) if width else ():
            padded[row, : len(one_series)] = one_series.dynamic
        return torch.from_numpy(padded)

    def actual_and_naive(self, at: Tensor) -> tuple[Tensor, Tensor]:
        """Return what followed the origins after the steps `at` [K], and its seasonal naive, [B, K, D]."""
        index = at[:, None] - self._back
        naive = torch.where(index >= 0, self._filled[:, index.clamp_min(0)], math.nan)
        return self.values[:, at[:, None] + self._ahead], naive


def _score(model: Model, series: Sequence[Series], origins: Origins, edges: Sequence[int]) -> list[Sums]:
    """Return the sums of the origins between each edge, a time, and the next one."""
    horizon, levels = origins.horizon, model.config.quantile_levels
    batch, stride_us = _Batch(model, series, origins), Grid(model.step_us).span_us(origins.stride)
    sums = [_sums(model, len(series), horizon) for _ in edges[1:]]
    state = fresh_state(model, series)
    origins_at_once = max(_MAX_CELLS // (len(series) * horizon * len(levels)), 1)
    with torch.inference_mode():
        for start in range(0, batch.steps, _CHUNK_STEPS):
            stop = min(start + _CHUNK_STEPS, batch.steps)
            seen_before = state["observed_count"][:, None]
            observations = batch.observations(start, stop)
            state, encoded = model.scan(state, observations)
            enough = seen_before + observations.observed.cumsum(dim=1) >= origins.min_history
            ahead_us = Grid(model.step_us).next(observations.time_us)
            usable = enough & (ahead_us >= origins.first_time_us) & (ahead_us <= origins.last_time_us)
            usable &= (ahead_us - origins.first_time_us) % stride_us < model.step_us
            steps = torch.nonzero(usable.any(dim=0))[:, 0]
            for at in steps.split(origins_at_once) if len(steps) else ():
                quantiles = model.quantiles_after(encoded, at, horizon, batch.future(start + at))
                target, naive = batch.actual_and_naive(start + at)
                for part, since_us, until_us in zip(sums, edges, edges[1:], strict=False):
                    inside = (usable & (ahead_us >= since_us) & (ahead_us < until_us))[:, at, None]
                    if inside.any():
                        actual = torch.where(inside, target, math.nan)
                        part.add(quantiles.reshape(*target.shape, -1), actual, naive, levels)
    return sums
