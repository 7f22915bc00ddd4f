"""Forecasts that need no model: naive, seasonal naive, and the M4 competition's Naive2.

They are what every figure is compared with. Knows arrays; knows nothing of series ids, times or models.

Shapes: T history steps, D horizon steps.
"""

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
_CRITICAL = 1.645  # of a normal, two-sided 90 %


def naive(values: FloatArray, horizon: int) -> FloatArray:
    """Return the last value `horizon` times, [D]."""
    return np.full(horizon, values[-1])


def seasonal_naive(values: FloatArray, horizon: int, season: int) -> FloatArray:
    """Return the last season again and again, [D]; the naive forecast if there is not a whole one."""
    if len(values) < season:
        return naive(values, horizon)
    return np.resize(values[-season:], horizon)


def naive2(values: FloatArray, horizon: int, season: int) -> FloatArray:
    """Return the naive forecast of the seasonally adjusted values, put back into season, [D].

    As in the M4 competition (Makridakis et al. 2020): adjusted by a classical multiplicative decomposition if the
    autocorrelation at the season's lag is significant at 90 %, otherwise the naive forecast.
    """
    if season < 2 or not is_seasonal(values, season):
        return naive(values, horizon)
    indices = seasonal_indices(values, season)  # of the season's phases, that of the first value first
    adjusted = values[-1] / indices[(len(values) - 1) % season]
    forecast: FloatArray = adjusted * indices[(len(values) + np.arange(horizon)) % season]
    return forecast


def is_seasonal(values: FloatArray, season: int) -> bool:
    """Return whether |autocorrelation| at the season exceeds Bartlett's 90 % limit; it takes three seasons to tell."""
    if len(values) < 3 * season:
        return False
    centred = values - values.mean()
    variance = centred @ centred
    if variance == 0:
        return False
    correlations = np.array([centred[lag:] @ centred[:-lag] / variance for lag in range(1, season + 1)])
    limit = _CRITICAL * np.sqrt((1 + 2 * (correlations[:-1] ** 2).sum()) / len(values))
    return bool(abs(correlations[-1]) > limit)


def seasonal_indices(values: FloatArray, season: int) -> FloatArray:
    """Return the multiplicative seasonal indices by phase, mean one, [season]: values over a centred moving average."""
    weights = np.ones(season + 1 - season % 2)
    if season % 2 == 0:
        weights[[0, -1]] = 0.5
    trend = np.full(len(values), np.nan)
    half = len(weights) // 2
    trend[half : len(values) - half] = np.convolve(values, weights / season, mode="valid")
    ratios = values / trend
    means = np.array([np.nanmean(ratios[phase::season]) for phase in range(season)])
    indices: FloatArray = means / means.mean()
    return indices
