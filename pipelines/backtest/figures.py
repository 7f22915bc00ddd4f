"""Pictures of a backtest: errors by horizon, by fold and by series.

Every function returns a `matplotlib.figure.Figure` and touches no global state of matplotlib. The colours are
Okabe and Ito's, which colour-blind readers tell apart; markers and hatches tell candidates apart without any.

Knows nothing of MLflow or of files.
"""

import numpy as np
import numpy.typing as npt
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipelines.backtest.comparison import NAIVE
from pipelines.backtest.result import CHALLENGER, CHAMPION, BacktestResult

_COLORS = {CHALLENGER: "#0072B2", CHAMPION: "#009E73", NAIVE: "#D55E00"}
_MARKERS = {CHALLENGER: "o", CHAMPION: "^", NAIVE: "s"}
_HATCHES = {CHALLENGER: "", CHAMPION: "///", NAIVE: "..."}
_GREY = "#7F7F7F"
_DPI = 144
_SIZE = (7.2, 3.9)
_MASE = "MASE (no unit; lower is better)"


def by_horizon(result: BacktestResult) -> Figure:
    """Return the error at each step ahead, of every candidate."""
    figure, ax = _new("Error by horizon")
    ahead = np.arange(1, result.horizon + 1)
    for name in reversed(result.candidates()):  # the challenger is drawn over the others
        ax.plot(
            ahead,
            result.by_horizon[name],
            color=_COLORS[name],
            marker=_MARKERS[name],
            markersize=4,
            linestyle="-" if name != NAIVE else "--",
            label=result.title(name),
        )
    ax.set(xlim=(0.5, result.horizon + 0.5), xlabel=f"steps ahead (1 step = {result.frequency})", ylabel=_MASE)
    ax.set_ylim(bottom=0)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(figure, ax)
    return figure


def by_fold(result: BacktestResult) -> Figure:
    """Return the error in each stretch of the window, of every candidate."""
    figure, ax = _new("Error by fold: is it better throughout, or on one odd day?")
    candidates = result.candidates()
    width, at = 0.8 / len(candidates), np.arange(len(result.folds))
    for k, name in enumerate(candidates):
        heights = [fold.figures[name]["mase"] for fold in result.folds]
        bars = ax.bar(
            at + (k - (len(candidates) - 1) / 2) * width,
            heights,
            width,
            color=_COLORS[name],
            edgecolor="white",
            hatch=_HATCHES[name],
            label=result.title(name),
        )
        if len(result.folds) * len(candidates) <= 15:
            ax.bar_label(bars, labels=[_number(height) for height in heights], fontsize=8, padding=2)
    labels = [f"{fold.first_time:%Y-%m-%d %H:%M}\n{fold.origins:,} forecasts" for fold in result.folds]
    ax.set_xticks(at, labels, fontsize="small")
    ax.set(xlabel="fold, by the time (UTC) of its first forecast", ylabel=_MASE)
    ax.margins(y=0.12)
    ax.grid(visible=False, axis="x")
    _legend(figure, ax)
    return figure


def by_series(result: BacktestResult, table: pl.DataFrame) -> Figure:
    """Return each series as a point: the challenger's error against the champion's, or else the seasonal naive's.

    Args:
        result: of the backtest.
        table: a row for each series, with the columns `challenger_mase` and so on.
    """
    other = CHAMPION if CHAMPION in result.versions else NAIVE
    figure, ax = _new("Series by series: below the line the challenger is better")
    x, y = (_errors(table, name) for name in (other, CHALLENGER))
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    top = 1.08 * max(x.max(initial=0), y.max(initial=0)) or 1.0
    low = 0.92 * min(x.min(initial=top), y.min(initial=top))
    ax.plot([low, top], [low, top], color=_GREY, linewidth=1, linestyle="--", label="equally good")
    ax.scatter(
        x, y, s=22, color=_COLORS[CHALLENGER], edgecolor="white", linewidth=0.5, label=f"a series ({len(x):,} in all)"
    )
    ax.set(xlim=(low, top), ylim=(low, top))
    ax.set(xlabel=f"MASE of the {result.title(other)}", ylabel=f"MASE of the {result.title(CHALLENGER)}")
    _legend(figure, ax)
    return figure


def _new(title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE, dpi=_DPI, layout="constrained")
    ax = figure.subplots()
    ax.set_title(title, loc="left", fontsize="medium")
    ax.grid(color="#E6E6E6", linewidth=0.7)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    return figure, ax


def _legend(figure: Figure, ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize="small")


def _errors(table: pl.DataFrame, name: str) -> npt.NDArray[np.float64]:
    return np.asarray(table[f"{name}_mase"].to_numpy(), dtype=np.float64)


def _number(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else "-"
