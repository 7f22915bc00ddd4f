"""What a benchmark finds: figures with their bars, the table and the JSON file. It measures nothing."""

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the table.

    Args:
        name: what was measured.
        value: a ratio or a percentile; None if it could not be measured.
        unit: of the value; `×` for a ratio.
        bar: what was wanted of it, in words; empty if nothing was.
        holds: whether the bar is met; a figure without a value never holds.
        note: how it came about, or why it did not.
        cores: of the machine.
        load: of the machine over the last minute, when the figure was made.
    """

    name: str
    value: float | None
    unit: str
    bar: str
    holds: bool
    note: str
    cores: int
    load: float


@dataclass(frozen=True, slots=True)
class Bar:
    """What is measured and wanted.

    Args:
        name: of the figure.
        unit: of the figure.
        limit: the bar.
        rule: how a value has to stand to it.
    """

    name: str
    unit: str
    limit: float
    rule: str

    def met_by(self, value: float, note: str = "", *, unless: str = "") -> Figure:
        """Return the figure of a value; `unless` names a reason for which it does not count, whatever the value."""
        stands = {"≥": value >= self.limit, ">": value > self.limit, "≤": value <= self.limit, "<": value < self.limit}
        return self._figure(value, stands[self.rule] and not unless, "; ".join(filter(None, (unless, note))))

    def missing(self, why: str) -> Figure:
        """Return the figure of what could not be measured; it does not hold."""
        return self._figure(None, False, f"not available: {why}")

    def _figure(self, value: float | None, holds: bool, note: str) -> Figure:
        bar = f"{self.rule} {self.limit:g}"
        return Figure(self.name, value, self.unit, bar, holds, note, os.cpu_count() or 1, os.getloadavg()[0])


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest of the values that `percent` of them do not exceed (nearest rank)."""
    ascending = sorted(values)
    return ascending[max(math.ceil(percent / 100 * len(ascending)), 1) - 1]


def spread(values: Sequence[float]) -> str:
    """Return the extremes of several runs in words."""
    return f"{min(values):.3g} to {max(values):.3g} in {len(values)} runs"


def print_table(figures: Sequence[Figure]) -> None:
    """Print one line for each figure, and what it says beside it."""
    width = max((len(one.name) for one in figures), default=0)
    for one in figures:
        value = "–" if one.value is None else f"{one.value:,.4g} {one.unit}"
        print(f"  {one.name:<{width}}  {value:>14}  {one.bar:>9}  {'holds' if one.holds else 'MISSED':<6}  {one.note}")


def write_json(figures: Sequence[Figure], path: pathlib.Path, scale: float) -> None:
    """Write the figures as a list of objects, each with the share of the full sizes that it was measured with."""
    path.parent.mkdir(parents=True, exist_ok=True)
    objects = [{**dataclasses.asdict(one), "scale": scale} for one in figures]
    path.write_text(json.dumps(objects, indent=1, ensure_ascii=False) + "\n")
