"""Scores of forecasts that are given as arrays: the baselines', or another program's.

They are scored by the sums that score a model, on the same pairs of origin and step. Knows series and origins; knows
nothing of models or files.

Shapes: T steps of a series, K origins, D horizon steps, Q quantiles.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from forecaster.data.windows import Series
from forecaster.evaluation.baselines import naive2
from forecaster.evaluation.origins import Origins
from forecaster.evaluation.rolling import fill_by_season, seasonal_steps_back
from forecaster.evaluation.scores import Backtest, Sums

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Forecasts = Callable[[Series, IntArray], FloatArray]  # after the steps [K] of a series: quantiles [K, D, Q]

_ORIGINS_AT_ONCE = 512
BASELINES = ("seasonal_naive", "naive", "naive2")


def score(
    series: Sequence[Series],
    forecasts: Forecasts,
    origins: Origins,
    units: dict[str, float],
    *,
    levels: tuple[float, ...] = (0.5,),
) -> Backtest:
    """Score forecasts of any making; with the one level 0.5 they are points, and have no intervals.

    Args:
        series: whole histories, what is forecast included.
        forecasts: is asked for each series once or more.
        origins: which.
        units: MASE's denominator for each series id.
        levels: [Q], with 0.5 among them.
    """
    ids = list(dict.fromkeys(one_series.unique_id for one_series in series))
    rows = {name: row for row, name in enumerate(ids)}
    sums = Sums.zeros(len(ids), origins.horizon, len(levels), torch.device("cpu"))
    for one_series in series:
        part = Sums.zeros(1, origins.horizon, len(levels), torch.device("cpu"))
        at = origins.of(one_series)
        for chunk in np.split(at, range(_ORIGINS_AT_ONCE, len(at), _ORIGINS_AT_ONCE)):
            if len(chunk):
                arrays = (forecasts(one_series, chunk), *_actual_and_naive(one_series, chunk, origins))
                quantiles, target, naive = (torch.from_numpy(np.ascontiguousarray(x))[None] for x in arrays)
                part.add(quantiles, target, naive, levels)
        sums.merge(part, torch.tensor([rows[one_series.unique_id]]))
    known = torch.tensor([units.get(name, math.nan) for name in ids], dtype=torch.float64)
    return sums.summary(ids, known, levels)


def score_baselines(
    series: Sequence[Series], origins: Origins, units: dict[str, float], names: Sequence[str] = BASELINES
) -> dict[str, Backtest]:
    """Return the scores of baselines by name; missing values are taken from a season before, else a step before."""

    def seasonal_naive(one_series: Series, at: IntArray) -> FloatArray:
        return _actual_and_naive(one_series, at, origins)[1][..., None]

    def naive(one_series: Series, at: IntArray) -> FloatArray:
        return np.repeat(_filled(one_series.values)[at], origins.horizon).reshape(len(at), origins.horizon, 1)

    def naive_2(one_series: Series, at: IntArray) -> FloatArray:
        values = _filled(fill_by_season(one_series.values, origins.season))
        first = int(np.isfinite(values).argmax())
        forecasts = np.empty((len(at), origins.horizon, 1))
        for row, step in enumerate(at):
            forecasts[row, :, 0] = naive2(values[first : step + 1], origins.horizon, origins.season)
        return forecasts

    made: dict[str, Forecasts] = dict(zip(BASELINES, (seasonal_naive, naive, naive_2), strict=True))
    return {name: score(series, made[name], origins, units) for name in names}


def _actual_and_naive(one_series: Series, at: IntArray, origins: Origins) -> tuple[FloatArray, FloatArray]:
    """Return what followed the steps `at` and its seasonal naive, NaN where there is none, both [K, D]."""
    behind = np.concatenate([one_series.values, np.full(origins.horizon, np.nan)])
    index = at[:, None] - seasonal_steps_back(origins.horizon, origins.season).numpy()
    naive = np.where(index >= 0, fill_by_season(one_series.values, origins.season)[index.clip(0)], np.nan)
    return behind[at[:, None] + np.arange(1, origins.horizon + 1)], naive


def _filled(values: FloatArray) -> FloatArray:
    """Return at each step its value, or the latest observed one before it."""
    return fill_by_season(values, 1)
