"""What a backtest found: figures of every candidate over the window, by fold and by horizon; as JSON and as a table.

Knows figures; knows nothing of models or of MLflow.
"""

import dataclasses
import datetime as dt
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from forecaster.evaluation.scores import COVERAGES
from forecaster.evaluation_report import without_nan
from forecaster.registry.rule import Measured, judged_interval
from pipelines.backtest.comparison import NAIVE
from pipelines.backtest.difference import Difference

CHALLENGER, CHAMPION = "challenger", "champion"
CANDIDATES = (CHALLENGER, CHAMPION, NAIVE)
TITLES = {CHALLENGER: "challenger", CHAMPION: "champion", NAIVE: "seasonal naive"}
FIGURES = {  # column, name of the figure, how it is shown
    "MASE": ("mase", "{:.4f}"),
    "sMAPE": ("smape", "{:.2f} %"),
    "pinball": ("pinball", "{:.4f}"),
    "80 % coverage": ("coverage_80", "{:.1%}"),
}
_POINT = ("mase", "smape", "mae", "rmse")  # a point forecast has no other figures

Figures = dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """A stretch of the window.

    Args:
        first_time: the first step of its first forecasts.
        last_time: the first step of its last.
        origins: scored forecasts.
        figures: of each candidate, by name.
    """

    first_time: dt.datetime
    last_time: dt.datetime
    origins: int
    figures: dict[str, Figures]


@dataclass(frozen=True, slots=True, kw_only=True)
class BacktestResult:
    """What a backtest found.

    Args:
        run_id: MLflow's, of its run.
        model: the registered model's name.
        versions: of challenger and champion; without a champion only the challenger's.
        frequency: the time step.
        horizon: steps that were compared.
        data: the hash of the data set.
        whole: the window.
        folds: stretches of the window.
        by_horizon: MASE of each candidate at each step ahead.
        series: that were scored.
        difference: between challenger and champion; None without a champion, or for a few series.
        notes: what a reader has to know.
    """

    run_id: str
    model: str
    versions: dict[str, str]
    frequency: str
    horizon: int
    data: str
    whole: Fold
    folds: tuple[Fold, ...]
    by_horizon: dict[str, tuple[float, ...]]
    series: int
    difference: Difference | None
    notes: tuple[str, ...]

    def measured(self) -> Measured:
        """Return what the rule of promotion looks at."""
        figures = self.whole.figures
        shares = {share: figures[CHALLENGER].get(f"coverage_{round(100 * share)}", math.nan) for share in COVERAGES}
        nominal, coverage = judged_interval(shares)
        return Measured(
            mase=figures[CHALLENGER]["mase"],
            naive_mase=figures[NAIVE]["mase"],
            coverage=coverage,
            nominal=nominal,
            origins=self.whole.origins,
            champion_mase=figures[CHAMPION]["mase"] if CHAMPION in figures else None,
        )

    def candidates(self) -> list[str]:
        """Return the candidates that were scored."""
        return [name for name in CANDIDATES if name in self.whole.figures]

    def title(self, candidate: str) -> str:
        """Return a candidate's name for people, with its version."""
        version = self.versions.get(candidate)
        return TITLES[candidate] + (f", version {version}" if version is not None else "")

    def rows(self) -> tuple[list[str], list[list[str]]]:
        """Return the heads of a table for people and its rows, one for each candidate; '-' is not applicable."""
        heads = ["", *FIGURES, *(f"MASE, fold\N{NO-BREAK SPACE}{k}" for k in range(1, len(self.folds) + 1))]
        rows = []
        for name in self.candidates():
            cells = [_cell(self.whole.figures[name], figure, form) for figure, form in FIGURES.values()]
            cells += [_cell(fold.figures[name], "mase", "{:.4f}") for fold in self.folds]
            rows.append([self.title(name), *cells])
        return heads, rows

    def summary(self) -> str:
        """Return what was scored, as a line."""
        whole = self.whole
        return (
            f"{whole.origins:,} forecasts of {self.series:,} series, {self.horizon} steps of {self.frequency} ahead,"
            f" from {utc_text(whole.first_time)} to {utc_text(whole.last_time)}"
        )

    def remarks(self) -> list[str]:
        """Return what a reader has to know beside the figures, a line each."""
        return [*self.notes, *([self.difference.line()] if self.difference is not None else [])]

    def table(self) -> str:
        """Return all of it for people, in lines."""
        heads, rows = self.rows()
        widths = [max(len(row[k]) for row in (heads, *rows)) for k in range(len(heads))]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
            for row in (heads, *rows)
        ]
        return "\n".join([f"backtest: {self.summary()}", *lines, *self.remarks()])

    def to_json(self) -> str:
        """Return all of it as JSON, with null for what is not finite."""
        return json.dumps(without_nan(dataclasses.asdict(self)), indent=2, default=utc_text) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "BacktestResult":
        """Read what `to_json` wrote."""
        read = json.loads(text)
        difference = read["difference"]
        named = {
            "whole": _fold(read["whole"]),
            "folds": tuple(_fold(one) for one in read["folds"]),
            "by_horizon": {name: tuple(map(_number, steps)) for name, steps in read["by_horizon"].items()},
            "difference": Difference(**difference) if difference is not None else None,
            "notes": tuple(read["notes"]),
        }
        return cls(**(read | named))


def figures_of(candidate: str, metrics: Mapping[str, float]) -> Figures:
    """Return those of a candidate's metrics that are its own and apply to it."""
    beside = f"{NAIVE}_mase"  # which the metrics of every model have
    return {name: value for name, value in metrics.items() if (name in _POINT or candidate != NAIVE) and name != beside}


def utc_text(time: dt.datetime) -> str:
    """Return a time for people and files, in UTC."""
    return time.astimezone(dt.UTC).isoformat().replace("+00:00", "Z")


def _fold(read: dict[str, Any]) -> Fold:
    return Fold(
        first_time=dt.datetime.fromisoformat(read["first_time"]),
        last_time=dt.datetime.fromisoformat(read["last_time"]),
        origins=read["origins"],
        figures={who: {name: _number(one) for name, one in found.items()} for who, found in read["figures"].items()},
    )


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _cell(figures: Figures, name: str, form: str) -> str:
    value = figures.get(name, math.nan)
    if not math.isfinite(value):
        return "-"
    return form.format(value)
