"""What became of a variant: its figures, its cost on the server, or why it failed; and all of them as a table.

Knows models and their figures; knows nothing of MLflow or of how they were trained.

Shapes: B series.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from forecaster.data.grid import Grid
from forecaster.model.ensemble import Model
from forecaster.model.inputs.observations import Observations
from forecaster.threads import torch_threads

_STEPS = 60  # that are timed
# column, figure, how it is shown
COLUMNS = (
    ("parameters", "parameters", "{:,.0f}"),
    ("training s", "training_seconds", "{:.0f}"),
    ("state bytes", "state_bytes", "{:,.0f}"),
    ("step µs, 1 series", "step_us_1", "{:,.0f}"),
    ("step µs, 64 series", "step_us_64", "{:,.0f}"),
    ("MASE", "mase", "{:.3f}"),
    ("sMAPE", "smape", "{:.2f}"),
    ("pinball", "pinball", "{:.4f}"),
    ("80 % coverage", "coverage_80", "{:.1%}"),
    ("skill", "skill", "{:.1%}"),
)


@dataclass(frozen=True, slots=True)
class VariantOutcome:
    """One variant after its training.

    Args:
        name: of the variant.
        figures: by name, those of `COLUMNS` and others; empty if it failed.
        failure: why it failed, empty if it did not.
    """

    name: str
    figures: dict[str, float] = field(default_factory=dict)
    failure: str = ""


def cost_of(model: Model) -> dict[str, float]:
    """Return what serving a model costs: parameters, bytes of a series' state, and microseconds of a step."""
    return {
        "parameters": float(sum(weights.numel() for weights in model.parameters())),
        "state_bytes": float(model.state_spec.num_bytes),
        "step_us_1": step_us(model, 1),
        "step_us_64": step_us(model, 64),
    }


def step_us(model: Model, series: int) -> float:
    """Return the time of one step of `series` series together, in microseconds, on one thread as served.

    It is the shortest of many: what other processes take from a shared machine is not the model's.
    """
    with torch_threads(1), torch.inference_mode():
        return min(_steps_us(model, series))


def _steps_us(model: Model, series: int) -> list[float]:
    state, taken = model.initial_state(series), []
    width = len(model.covariates.dynamic)
    covariates = torch.zeros((series, width), dtype=torch.float64) if width else None
    for step in range(_STEPS):
        time_us = torch.full((series,), Grid(model.step_us).time(0, step))
        values = torch.full((series,), math.sin(step), dtype=torch.float64)
        observation = Observations.of(time_us, values, covariates)
        began = time.perf_counter()
        state = model.step(state, observation)
        taken.append(1e6 * (time.perf_counter() - began))
    return taken


def ranked(outcomes: Sequence[VariantOutcome]) -> list[VariantOutcome]:
    """Return the outcomes with the lowest MASE first, and those that failed last."""
    return sorted(outcomes, key=lambda one: (bool(one.failure), _or_last(one.figures.get("mase", math.nan))))


def table(outcomes: Sequence[VariantOutcome]) -> str:
    """Return the outcomes, in their order, as a Markdown table whose columns line up in a terminal too."""
    head = ["variant", *(column for column, _, _ in COLUMNS)]
    rows = [[outcome.name, *(_cell(outcome, name, form) for _, name, form in COLUMNS)] for outcome in outcomes]
    widths = [max(len(row[k]) for row in [head, *rows]) for k in range(len(head))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [
        " | ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in [head, rule, *rows]
    ]
    failures = [f"{outcome.name} failed: {outcome.failure}" for outcome in outcomes if outcome.failure]
    return "\n".join([*(f"| {line} |" for line in lines), *([""] if failures else []), *failures])


def _cell(outcome: VariantOutcome, name: str, form: str) -> str:
    if outcome.failure:
        return "failed" if name == "mase" else ""
    return form.format(outcome.figures[name])


def _or_last(value: float) -> float:
    return math.inf if math.isnan(value) else value
