"""Pictures of a search: how the best error fell from trial to trial, and which options it depends on.

Every function returns a `matplotlib.figure.Figure` and touches no global state of matplotlib. The colours are Okabe
and Ito's; trials that were cut short have another shape too.

Knows Optuna's trials; knows nothing of MLflow or of files.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.trial import FrozenTrial, TrialState

_BLUE, _ORANGE, _GREY = "#0072B2", "#D55E00", "#7F7F7F"
_DPI = 110
_ROOM = 0.15  # of the axis above the complete trials, in which those stand that were worse


def history_chart(trials: Sequence[FrozenTrial]) -> Figure:
    """Return each trial's error by its number, and the best so far.

    Args:
        trials: by number, one complete or more. One that was cut short stands at the error of its last epoch.
    """
    figure = Figure(figsize=(7.5, 4.2), dpi=_DPI, layout="constrained")
    ax = figure.subplots()
    done = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    errors = np.array([trial.value for trial in done], dtype=float)
    top = errors.max() + _ROOM * max(errors.max() - errors.min(), 0.1 * errors.max())
    numbers = [trial.number for trial in done]
    best = np.minimum.accumulate(errors)
    at, shown = [*numbers, max(trial.number for trial in trials)], [*best, best[-1]]
    ax.step(at, shown, where="post", color=_ORANGE, linewidth=1.8, label="best so far")
    ax.scatter(numbers, errors, color=_BLUE, s=28, zorder=3, label="complete")
    cut = [trial for trial in trials if trial.state is TrialState.PRUNED and trial.value is not None]
    if cut:
        last = [min(float(trial.value or 0.0), top) for trial in cut]
        label = "cut short (last epoch's error, or above)"
        ax.scatter([trial.number for trial in cut], last, color=_GREY, marker="x", s=26, label=label)
    ax.set(title="Search for a better configuration", xlabel="trial", ylabel="validation MASE (lower is better)")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.margins(y=0.08)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    _plain(ax)
    return figure


def importance_chart(importances: Mapping[str, float]) -> Figure:
    """Return how much of the error's variation each option accounts for.

    Args:
        importances: shares by option, one or more.
    """
    figure = Figure(figsize=(7.5, 1.5 + 0.34 * len(importances)), dpi=_DPI, layout="constrained")
    ax = figure.subplots()
    names = sorted(importances, key=lambda name: importances[name])
    shares = [100 * importances[name] for name in names]
    ax.barh(names, shares, color=_BLUE, height=0.62)
    for at, share in enumerate(shares):
        ax.annotate(f"{share:.0f} %", (share, at), xytext=(4, 0), textcoords="offset points", va="center", fontsize=9)
    ax.set(title="Which options matter", xlabel="share of the importance (PED-ANOVA, %)", xlim=(0, 1.12 * max(shares)))
    _plain(ax)
    ax.grid(visible=False, axis="y")
    return figure


def _plain(ax: Axes) -> None:
    ax.grid(color="#E6E6E6", linewidth=0.7)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
