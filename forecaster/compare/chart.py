"""The picture of a comparison: the error of each variant against what its state and its step cost.

Every variant is a height that both panels share, named at the right. No figure needs a colour to be read.

Knows nothing of MLflow or of files.
"""

import itertools
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from forecaster.compare.outcome import VariantOutcome

_BLUE, _GREY, _PALE = "#0072B2", "#7F7F7F", "#E6E6E6"
_DPI = 110
_INCHES_PER_NAME = 0.22


def comparison_chart(outcomes: Sequence[VariantOutcome]) -> Figure:
    """Return MASE against the bytes of a state, and against the time of a step of 64 series.

    Args:
        outcomes: those that did not fail, one or more.
    """
    height = max(_INCHES_PER_NAME * len(outcomes), 2.4) + 1.4
    figure = Figure(figsize=(11.0, height), dpi=_DPI, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    naive = outcomes[0].figures["seasonal_naive_mase"]
    errors = [outcome.figures["mase"] for outcome in outcomes]
    room = 0.06 * (max(errors) - min(errors)) or 0.1
    left.set_ylim(min(errors) - room, max(errors) + room)
    _draw(left, outcomes, "state_bytes")
    _draw(right, outcomes, "step_us_64")
    left.set(xlabel="bytes of one series' state", ylabel="MASE (lower is better)")
    right.set(xlabel="one step of 64 series (µs)")
    _name(right, outcomes, _INCHES_PER_NAME / (height - 1.4))
    figure.suptitle(f"Accuracy and cost of the variants (seasonal naive: MASE {naive:.3f})")
    return figure


def _draw(ax: Axes, outcomes: Sequence[VariantOutcome], figure: str) -> None:
    for one in outcomes:
        ax.axhline(one.figures["mase"], color=_PALE, linewidth=0.7, zorder=1)
    x, y = ([outcome.figures[key] for outcome in outcomes] for key in (figure, "mase"))
    ax.scatter(x, y, color=_BLUE, s=26, zorder=3)
    ax.set_xscale("log")
    ax.set_xlim(min(x) / 1.3, max(x) * 1.3)
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.spines[["top", "right"]].set_visible(False)


def _name(ax: Axes, outcomes: Sequence[VariantOutcome], gap: float) -> None:
    """Write the names at the right of the axes, each as near its height as its neighbours let it."""
    low, high = ax.get_ylim()
    ordered = sorted(outcomes, key=lambda one: one.figures["mase"])
    heights = [(one.figures["mase"] - low) / (high - low) for one in ordered]
    for one, at, to in zip(ordered, heights, apart(heights, gap), strict=True):
        line = {"arrowstyle": "-", "color": _GREY, "linewidth": 0.6, "shrinkA": 2, "shrinkB": 0, "relpos": (0, 0.5)}
        name = f"{one.name}  {one.figures['mase']:.3f}"
        ax.annotate(
            name, (1.0, at), xytext=(1.08, to), va="center", fontsize=9, arrowprops=line, xycoords="axes fraction"
        )


def apart(heights: Sequence[float], gap: float) -> list[float]:
    """Return ascending heights moved so that neighbours are `gap` or more apart, within 0 and 1 if there is room."""
    gap = min(gap, 1 / max(len(heights) - 1, 1))
    up = list(itertools.accumulate(heights, lambda before, one: max(one, before + gap)))
    down = itertools.accumulate(reversed(up), lambda above, one: min(one, above - gap), initial=1.0 + gap)
    return list(down)[:0:-1]
