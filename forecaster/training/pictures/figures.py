"""Pictures of a trained model: fan chart, calibration, error by horizon, gradient by lag.

Every function returns a `matplotlib.figure.Figure` and touches no global state of matplotlib. The colours are
Okabe and Ito's, which colour-blind readers tell apart.

Knows nothing of MLflow or of files.

Shapes: T history steps, D horizon steps, Q quantiles.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.dates as mdates
import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from forecaster.data.windows import Series, split_at
from forecaster.evaluation.rolling import forecast
from forecaster.model.ensemble import Model
from forecaster.model.heads.quantiles import interpolate_quantiles

_BLACK, _BLUE, _ORANGE, _GREY = "#000000", "#0072B2", "#D55E00", "#7F7F7F"
_BANDS = ((0.95, "#D6E8F4"), (0.8, "#A6CEE6"), (0.5, "#6FB1D8"))  # nominal coverage, tint of blue; widest first
_DPI = 110


@dataclass(frozen=True, slots=True)
class Fan:
    """One series' forecast from one origin beside what came.

    Args:
        unique_id: of the series.
        time: of the steps shown, datetime64 [T + D].
        actual: [T + D], NaN where missing.
        quantiles: of the last D steps, float64 [D, Q].
        levels: [Q].
    """

    unique_id: str
    time: npt.NDArray[np.datetime64]
    actual: npt.NDArray[np.float64]
    quantiles: npt.NDArray[np.float64]
    levels: tuple[float, ...]


def fans(model: Model, series: Sequence[Series], origin_us: int) -> list[Fan]:
    """Forecast the whole horizon of each of the series from the last step before `origin_us` on."""
    horizon, before = model.config.horizon, split_at(series, origin_us)[0]
    known = {one.unique_id: one for one in before}  # the latest segment of each
    whole = {(one_series.unique_id, one_series.start_us): one_series for one_series in series}
    pairs = [(one, whole[one.unique_id, one.start_us]) for one in known.values()]
    if not pairs:
        return []
    future = torch.from_numpy(np.stack([_future(model, *pair) for pair in pairs]))
    quantiles = forecast(model, list(known.values()), horizon, future).numpy()
    shown = []
    for one, values in zip(known.values(), quantiles, strict=True):
        first = max(len(one) - 3 * horizon, 0)
        actual = np.full(len(one) + horizon, np.nan)
        came = whole[one.unique_id, one.start_us].values[: len(actual)]
        actual[: len(came)] = came
        time_us = one.grid.time(one.start_us, np.arange(first, len(actual)))
        shown.append(
            Fan(one.unique_id, time_us.astype("datetime64[us]"), actual[first:], values, model.config.quantile_levels)
        )
    return shown


def last_origin(series: Sequence[Series], horizon: int, first_us: int) -> int:
    """Return the latest time from which a whole horizon is known of the longest series, `first_us` if that is later."""
    end_us = max(one_series.end_us for one_series in series)
    return max(end_us - horizon * series[0].step_us, first_us)


def _future(model: Model, before: Series, whole: Series) -> npt.NDArray[np.float64]:
    """Return the known-future covariates of the steps that follow `before`, NaN behind the end, [D, F]."""
    future = np.full((model.config.horizon, len(model.covariates.future)), np.nan)
    came = whole.dynamic[len(before) : len(before) + len(future), len(model.covariates.past) :]
    future[: len(came)] = came
    return future


def fan_chart(shown: Sequence[Fan], *, columns: int = 2, title: str | None = None) -> Figure:
    """Return one panel for each forecast: the median, the 50, 80 and 95 % intervals, and what came."""
    columns = min(len(shown), columns)
    rows = math.ceil(len(shown) / columns)
    figure = Figure(figsize=(5.2 * columns, 2.4 * rows + 0.8), dpi=_DPI, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax, fan in zip(axes.flat, shown, strict=False):
        _draw_fan(ax, fan)
    for ax in axes.flat[len(shown) :]:
        ax.set_axis_off()
    for ax in axes[-1]:
        ax.set_xlabel("time (UTC)")
    figure.supylabel("value, in the series' own unit", fontsize="medium")
    figure.suptitle(title or f"Forecasts of {len(shown[0].quantiles)} steps and what came")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5 if columns > 1 else 3, frameon=False)
    return figure


def _draw_fan(ax: Axes, fan: Fan) -> None:
    ahead = fan.time[-len(fan.quantiles) :]
    quantiles = torch.from_numpy(fan.quantiles)
    for coverage, tint in _BANDS:
        sides = (round((1 - coverage) / 2, 6), round((1 + coverage) / 2, 6))
        if sides[0] >= fan.levels[0] and sides[1] <= fan.levels[-1]:
            low, high = interpolate_quantiles(quantiles, fan.levels, sides).unbind(-1)
            name = f"{coverage:.0%} interval"
            ax.fill_between(ahead, low, high, color=tint, linewidth=0, label=name)
    ax.plot(ahead, fan.quantiles[:, fan.levels.index(0.5)], color=_BLUE, linewidth=1.8, label="median forecast")
    ax.plot(fan.time, fan.actual, color=_BLACK, linewidth=1.1, label="actual")
    known = np.isfinite(np.pad(fan.actual, 1, constant_values=np.nan))
    alone = known[1:-1] & ~known[:-2] & ~known[2:]  # a line needs two neighbours
    ax.plot(fan.time[alone], fan.actual[alone], color=_BLACK, marker=".", markersize=3, linestyle="none")
    ax.axvline(ahead[0], color=_GREY, linewidth=0.8, linestyle=":")
    ax.set_title(fan.unique_id, fontsize="medium", loc="left")
    locator = mdates.AutoDateLocator(minticks=3, maxticks=6)
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(mdates.ConciseDateFormatter(locator))
    ax.margins(x=0.01)
    _plain(ax)


def calibration_chart(calibration: Mapping[float, float]) -> Figure:
    """Return nominal against observed probability; on the diagonal the quantiles are honest."""
    figure = Figure(figsize=(5.2, 5.0), dpi=_DPI, layout="constrained")
    ax = figure.subplots()
    ax.plot([0, 100], [0, 100], color=_GREY, linewidth=1, linestyle="--", label="perfectly calibrated")
    nominal, observed = ([100 * p for p in side] for side in (calibration.keys(), calibration.values()))
    ax.plot(nominal, observed, color=_BLUE, marker="o", markersize=4.5, label="model")
    ax.set(xlim=(0, 100), ylim=(0, 100), aspect="equal", title="Calibration of the quantiles")
    ax.set(xlabel="quantile level (%)", ylabel="actual values at or below it (%)")
    ax.legend(frameon=False, loc="upper left")
    _plain(ax)
    return figure


def horizon_chart(mase: Sequence[float], seasonal_naive_mase: Sequence[float], frequency: str) -> Figure:
    """Return the error at each step ahead, of the model and of the seasonal naive."""
    figure = Figure(figsize=(7.0, 4.0), dpi=_DPI, layout="constrained")
    ax = figure.subplots()
    ahead = np.arange(1, len(mase) + 1)
    ax.plot(ahead, seasonal_naive_mase, color=_ORANGE, marker="s", markersize=3.5, label="seasonal naive")
    ax.plot(ahead, mase, color=_BLUE, marker="o", markersize=3.5, label="model")
    ax.set(xlim=(0.5, len(mase) + 0.5))
    ax.set_ylim(bottom=0)
    ax.set(title="Error by horizon", xlabel=f"steps ahead (1 step = {frequency})", ylabel="MASE (no unit)")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(frameon=False, loc="lower right")
    _plain(ax)
    return figure


def gradient_chart(norms: Sequence[float], frequency: str) -> Figure:
    """Return how the gradient of the loss fades with the steps it goes back, relative to that at the origin.

    A lag whose gradient is zero is left out: the scale is logarithmic.
    """
    figure = Figure(figsize=(7.0, 4.0), dpi=_DPI, layout="constrained")
    ax = figure.subplots()
    shown = np.where(np.asarray(norms) > 0, norms, np.nan)
    ax.axhline(1.0, color=_GREY, linewidth=1, linestyle="--", label="as at the origin")
    ax.plot(np.arange(len(shown)), shown, color=_BLUE, linewidth=1.8, label="gradient")
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("{x:g}" if np.nanmin(shown) > 0.1 else NullFormatter())
    ax.set(title="How far back the loss is felt", xlabel=f"steps before the origin (1 step = {frequency})")
    ax.set_ylabel("norm of the gradient (1 = at the origin)")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(frameon=False, loc="lower left")
    _plain(ax)
    return figure


def _plain(ax: Axes) -> None:
    ax.grid(color="#E6E6E6", linewidth=0.7)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
