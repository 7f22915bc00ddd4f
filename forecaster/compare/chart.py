"""The picture of a comparison: the error of each variant against what its state and its step cost.

Knows nothing of MLflow or of files.
"""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from forecaster.compare.outcome import Outcome

_BLUE, _ORANGE, _GREY = "#0072B2", "#D55E00", "#7F7F7F"  # Okabe and Ito
_DPI = 110
_ABOVE_PT, _APART_PX = 5, 13  # of a label over its point, of two labels


def comparison_chart(outcomes: Sequence[Outcome]) -> Figure:
    """Return MASE against the bytes of a state, and against the time of a step of 64 series.

    Args:
        outcomes: those that did not fail, one or more.
    """
    figure = Figure(figsize=(13.0, 0.32 * len(outcomes) + 3.4), dpi=_DPI, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    naive = outcomes[0].figures["seasonal_naive_mase"]
    for ax, name, label in (
        (left, "state_bytes", "bytes of one series' state"),
        (right, "step_us_64", "one step of 64 series (µs)"),
    ):
        _draw(ax, outcomes, name)
        ax.axhline(naive, color=_ORANGE, linewidth=1.2, linestyle="--", label="seasonal naive")
        ax.set(xscale="log", xlabel=label)
        ax.margins(x=0.12, y=0.08)
    left.set_ylabel("MASE of the validation tail (lower is better)")
    left.legend(frameon=False, loc="best")
    figure.suptitle("Accuracy and cost of the variants")
    return figure


def _draw(ax: Axes, outcomes: Sequence[Outcome], name: str) -> None:
    x, y = ([one.figures[key] for one in outcomes] for key in (name, "mase"))
    ax.scatter(x, y, color=_BLUE, s=26, zorder=3)
    for one, across, up in zip(outcomes, x, y, strict=True):
        ax.annotate(one.name, (across, up), xytext=(0, _ABOVE_PT), textcoords="offset points", ha="center", fontsize=8)
    ax.grid(color="#E6E6E6", linewidth=0.7, which="both")
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
