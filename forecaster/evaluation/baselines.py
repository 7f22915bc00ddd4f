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
    autocorrelation at the season's lag is significant at 90 %, otherwise the naive forecast. M4's values are all
    positive; where one is not, the decomposition is additive, since a product cannot describe it.
    """
    if season < 2 or not is_seasonal(values, season):
        return naive(values, horizon)
    ahead = (len(values) + np.arange(horizon)) % season
    if values.min() <= 0:
        offsets = seasonal_offsets(values, season)
        shifted: FloatArray = values[-1] - offsets[(len(values) - 1) % season] + offsets[ahead]
        return shifted
    indices = seasonal_indices(values, season)  # of the season's phases, that of the first value first
    adjusted = values[-1] / indices[(len(values) - 1) % season]
    forecast: FloatArray = adjusted * indices[ahead]
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
    means = _phase_means(values / _trend(values, season), season)
    indices: FloatArray = means / means.mean()
    return indices


def seasonal_offsets(values: FloatArray, season: int) -> FloatArray:
    """Return the additive seasonal offsets by phase, mean zero, [season]: values minus a centred moving average."""
    means = _phase_means(values - _trend(values, season), season)
    offsets: FloatArray = means - means.mean()
    return offsets


def _trend(values: FloatArray, season: int) -> FloatArray:
    """Return the centred moving average over a season, NaN where it does not reach, [T]."""
    weights = np.ones(season + 1 - season % 2)
    if season % 2 == 0:
        weights[[0, -1]] = 0.5
    trend = np.full(len(values), np.nan)
    half = len(weights) // 2
    trend[half : len(values) - half] = np.convolve(values, weights / season, mode="valid")
    return trend


def _phase_means(values: FloatArray, season: int) -> FloatArray:
    return np.array([np.nanmean(values[phase::season]) for phase in range(season)])
