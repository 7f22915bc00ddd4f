"""Rolling-origin evaluation: one pass over each series, forecasts scored from every origin of it.

Each series is walked once with its state carried; after every step from the first origin on, the whole
horizon is decoded and scored against what came, beside the seasonal naive on the same pairs of origin and
step. Steps whose actual value is missing are not scored.

Shapes: B series, T steps, D horizon steps, Q quantiles.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from forecaster.data.windows import Series
from forecaster.model.heads import interpolate_quantiles, pinball_loss
from forecaster.model.seq2seq import Observations, Seq2Seq
from forecaster.model.state import State

FloatArray = npt.NDArray[np.float64]
COVERAGES = (0.5, 0.8, 0.9, 0.95)
_CHUNK_STEPS = 256
_SERIES_PER_BATCH = 64


def mase_unit(values: FloatArray, season: int) -> float:
    """Return the in-sample error of the seasonal naive, mean |y_t - y_{t-m}| over observed pairs.

    It is MASE's denominator (Hyndman & Koehler 2006). NaN if there is no such pair or no variation.
    """
    errors = np.abs(values[season:] - values[:-season])
    errors = errors[np.isfinite(errors)]
    unit = float(errors.mean()) if errors.size else 0.0
    return unit if unit > 0 else math.nan


def fill_by_season(values: FloatArray, season: int) -> FloatArray:
    """Return at each step its value, or the latest observed one a whole number of seasons before it."""
    cycles = -(-len(values) // season)
    table = np.full(cycles * season, np.nan)
    table[: len(values)] = values
    table = table.reshape(cycles, season)
    latest = np.maximum.accumulate(np.where(np.isfinite(table), np.arange(cycles)[:, None], 0), axis=0)
    filled: FloatArray = np.take_along_axis(table, latest, axis=0).ravel()[: len(values)]
    return filled


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesScore:
    """One series' mean errors over all its scored pairs; NaN where nothing could be scored."""

    unique_id: str
    pairs: int
    mase: float
    seasonal_naive_mase: float
    smape: float
    mae: float
    rmse: float
    pinball: float
    bias: float
    coverage: dict[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Backtest:
    """The result of a rolling-origin evaluation.

    Args:
        series: one score each.
        mase: mean over the series, like every figure below.
        seasonal_naive_mase: the seasonal naive on the same pairs.
        smape: in percent, 200·|y - ŷ| / (|y| + |ŷ|).
        pinball: mean over the trained quantiles, in MASE units.
        coverage: share of actual values inside the central interval of that nominal coverage.
        mase_by_horizon: [D].
        seasonal_naive_mase_by_horizon: [D].
        calibration: for each trained quantile level the share of actual values at or below it.
        origins: pairs of series and origin with at least one scored step.
    """

    series: tuple[SeriesScore, ...]
    mase: float
    seasonal_naive_mase: float
    smape: float
    pinball: float
    coverage: dict[float, float]
    mase_by_horizon: tuple[float, ...]
    seasonal_naive_mase_by_horizon: tuple[float, ...]
    calibration: dict[float, float]
    origins: int

    @property
    def skill(self) -> float:
        """One minus the ratio of the model's MASE to the seasonal naive's."""
        return 1.0 - self.mase / self.seasonal_naive_mase

    def metrics(self) -> dict[str, float]:
        """Return the figures by flat names, as a dashboard wants them."""
        named = {
            "mase": self.mase,
            "seasonal_naive_mase": self.seasonal_naive_mase,
            "skill": self.skill,
            "smape": self.smape,
            "pinball": self.pinball,
        }
        return named | {f"coverage_{round(100 * p)}": share for p, share in self.coverage.items()}


def rolling_origin(
    model: Seq2Seq, series: Sequence[Series], *, first_time_us: int, units: dict[str, float] | None = None
) -> Backtest:
    """Forecast from every origin whose first step is at `first_time_us` or later, and score.

    Args:
        model: in evaluation mode.
        series: whole histories; the parts before `first_time_us` warm the state up.
        first_time_us: the first time that is forecast.
        units: MASE's denominator for each series id; left out, computed on the parts before.
    """
    season = _season(model)
    if units is None:
        units = {s.unique_id: mase_unit(s.values[s.time_us < first_time_us], season) for s in series}
    scores = [
        _score(model, series[i : i + _SERIES_PER_BATCH], first_time_us, units)
        for i in range(0, len(series), _SERIES_PER_BATCH)
    ]
    return _summary(model, [s.unique_id for s in series], _Sums.concatenate(scores))


def _season(model: Seq2Seq) -> int:
    return (model.config.season_lengths or (1,))[0]


@dataclass(slots=True)
class _Sums:
    """Sums over origins, [B, D] each, in MASE units unless said otherwise."""

    count: Tensor
    absolute: Tensor
    naive: Tensor
    signed: Tensor
    squared: Tensor
    smape: Tensor  # percent
    pinball: Tensor  # mean over the levels
    inside: Tensor  # [B, D, COVERAGES]
    below: Tensor  # [B, D, Q]
    units: Tensor  # [B]
    origins: Tensor  # [B]

    @classmethod
    def zeros(cls, n: int, horizon: int, levels: int, units: Tensor) -> "_Sums":
        flat = [torch.zeros(n, horizon, dtype=torch.float64) for _ in range(7)]
        inside = torch.zeros(n, horizon, len(COVERAGES), dtype=torch.float64)
        below = torch.zeros(n, horizon, levels, dtype=torch.float64)
        return cls(*flat, inside, below, units, torch.zeros(n, dtype=torch.float64))

    @classmethod
    def concatenate(cls, parts: Sequence["_Sums"]) -> "_Sums":
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in cls.__slots__))

    def add(self, quantiles: Tensor, target: Tensor, naive: Tensor, levels: Tensor) -> None:
        """Add the forecasts [B, K, D, Q] of K origins against `target` and `naive` [B, K, D]."""
        scored = torch.isfinite(target) & torch.isfinite(naive)
        unit = self.units[:, None, None]
        point = quantiles[..., int(torch.searchsorted(levels, 0.5))]
        error = torch.where(scored, point - target, 0.0)

        def total(x: Tensor) -> Tensor:
            mask = scored if x.dim() == scored.dim() else scored[..., None]
            return torch.where(mask, x.double(), 0.0).sum(dim=1)

        self.count += total(torch.ones_like(target))
        self.absolute += total((error / unit).abs())
        self.signed += total(error / unit)
        self.squared += total((error / unit) ** 2)
        self.naive += total((naive - target).abs() / unit)
        size = point.abs() + target.abs()
        self.smape += total(torch.where(size > 0, 200.0 * error.abs() / size.clamp_min(1e-300), 0.0))
        self.pinball += total(pinball_loss(quantiles, target, levels).mean(-1) / unit)
        self.below += total(target[..., None] <= quantiles)
        trained = tuple(levels.tolist())
        for index, coverage in enumerate(COVERAGES):
            sides = (round((1 - coverage) / 2, 6), round((1 + coverage) / 2, 6))
            if sides[0] < trained[0] or sides[1] > trained[-1]:
                self.inside[..., index] = math.nan
                continue
            bounds = interpolate_quantiles(quantiles, trained, sides)
            self.inside[..., index] += total((bounds[..., 0] <= target) & (target <= bounds[..., 1]))
        self.origins += scored.any(dim=-1).sum(dim=1)


def _score(model: Seq2Seq, series: Sequence[Series], first_time_us: int, units: dict[str, float]) -> _Sums:
    horizon, season = model.config.horizon, _season(model)
    steps = max(len(s.values) for s in series)
    padded = np.full((len(series), steps + horizon), np.nan)
    naive = padded.copy()
    times = np.zeros((len(series), steps), dtype=np.int64)
    for row, one in enumerate(series):
        padded[row, : len(one.values)] = one.values
        naive[row, : len(one.values)] = fill_by_season(one.values, season)
        times[row] = one.start_us + model.step_us * np.arange(steps)
    values, time_us = torch.from_numpy(padded), torch.from_numpy(times)
    filled = torch.from_numpy(naive)
    levels = torch.tensor(model.config.quantile_levels, dtype=torch.float64)
    unit = torch.tensor([units[s.unique_id] for s in series], dtype=torch.float64)
    sums = _Sums.zeros(len(series), horizon, len(levels), unit)
    valid = time_us + model.step_us >= first_time_us
    state: State = model.initial_state(len(series))
    ahead = torch.arange(1, horizon + 1)
    back = season * torch.div(ahead + season - 1, season, rounding_mode="floor") - ahead
    with torch.inference_mode():
        for start in range(0, steps, _CHUNK_STEPS):
            window = slice(start, min(start + _CHUNK_STEPS, steps))
            chunk = values[:, window]
            seen = torch.isfinite(chunk)
            observed_before = state["observed_count"][:, None]
            state, encoded = model.scan(state, Observations(time_us[:, window], chunk.nan_to_num(0.0), seen))
            enough = observed_before + seen.cumsum(dim=1) >= (model.config.min_history or 1)
            usable = valid[:, window] & enough
            at = torch.nonzero(usable.any(dim=0))[:, 0]
            if not len(at):
                continue
            quantiles = model.quantiles(model.origins_of(encoded, at, horizon))
            quantiles = quantiles.reshape(len(series), len(at), horizon, -1)
            origin = start + at[:, None]
            target = values[:, origin + ahead]
            target = torch.where(usable[:, at, None], target, math.nan)
            # The seasonal naive reaches back from the origin; before the first season there is nothing.
            index = origin - back
            reference = torch.where(index >= 0, filled[:, index.clamp_min(0)], math.nan)
            sums.add(quantiles, target, reference, levels)
    return sums


def _summary(model: Seq2Seq, ids: Sequence[str], sums: _Sums) -> Backtest:
    per_series = {
        name: (getattr(sums, name).sum(1) / sums.count.sum(1))
        for name in ("absolute", "naive", "signed", "squared", "smape", "pinball")
    }
    inside = sums.inside.sum(1) / sums.count.sum(1)[:, None]
    scores = tuple(
        SeriesScore(
            unique_id=unique_id,
            pairs=int(sums.count[i].sum()),
            mase=float(per_series["absolute"][i]),
            seasonal_naive_mase=float(per_series["naive"][i]),
            smape=float(per_series["smape"][i]),
            mae=float(per_series["absolute"][i] * sums.units[i]),
            rmse=float(per_series["squared"][i].sqrt() * sums.units[i]),
            pinball=float(per_series["pinball"][i]),
            bias=float(per_series["signed"][i]),
            coverage={p: float(inside[i, k]) for k, p in enumerate(COVERAGES)},
        )
        for i, unique_id in enumerate(ids)
    )
    counts = sums.count.sum()
    below = sums.below.sum((0, 1)) / counts
    return Backtest(
        series=scores,
        mase=float(per_series["absolute"].nanmean()),
        seasonal_naive_mase=float(per_series["naive"].nanmean()),
        smape=float(per_series["smape"].nanmean()),
        pinball=float(per_series["pinball"].nanmean()),
        coverage={p: float(inside[:, k].nanmean()) for k, p in enumerate(COVERAGES)},
        mase_by_horizon=tuple(_by_horizon(sums.absolute, sums.count)),
        seasonal_naive_mase_by_horizon=tuple(_by_horizon(sums.naive, sums.count)),
        calibration=dict(zip(model.config.quantile_levels, below.tolist(), strict=True)),
        origins=int(sums.origins.sum()),
    )


def _by_horizon(total: Tensor, count: Tensor) -> list[float]:
    means: list[float] = (total / count).nanmean(dim=0).tolist()
    return means
