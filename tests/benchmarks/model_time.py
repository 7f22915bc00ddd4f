"""The model alone, without a server: a stateful step and a decode beside a window encoded anew and the same decode.

Steps and decodes are the serving process's own (`Stepper`); the window is scanned by torch's fused kernel.

Shapes: B series, T steps.
"""

import itertools
import statistics

import torch

from forecaster.model.inputs.observations import Observations
from forecaster.model.state import State
from forecaster.model.stepping.stepping import Stepper
from tests.benchmarks.figures import Bar, Figure, spread
from tests.benchmarks.rig import HORIZON, LEVELS, Rig, seconds_of
from tests.integration.conftest import HOUR_US

WINDOW = 168
BATCHES = (1, 64)
BARS = tuple(
    Bar(f"model time, step + decode ÷ re-encode {WINDOW} + decode, batch {batch}", "×", 1 / 20, "≤")
    for batch in BATCHES
)


def measure(rig: Rig) -> list[Figure]:
    """Return the ratio for one series and for a batch, both sides timed in turns."""
    return [_measure(rig, bar, batch) for bar, batch in zip(BARS, BATCHES, strict=True)]


def _measure(rig: Rig, bar: Bar, batch: int) -> Figure:
    model, stepper, slots = rig.bundle.model, Stepper(rig.bundle.model), torch.arange(batch)
    hours = torch.arange(WINDOW).expand(batch, -1) * HOUR_US
    window = Observations.of(hours, torch.randn(batch, WINDOW, dtype=torch.float64))
    clock = itertools.count(WINDOW)
    ratios, stateful, anew = [], [], []
    with torch.inference_mode():
        fresh = model.initial_state(batch)
        kept, _ = model.scan(fresh, window)

        def step() -> None:
            time_us = torch.full((batch,), next(clock) * HOUR_US)  # a new hour each time: nothing of it is known
            stepper.step(kept, slots, time_us, window.values[:, 0])

        def decode(state: State) -> None:
            stepper.predict(state, slots, HORIZON, levels=LEVELS)

        for _ in range(rig.runs):
            stateful.append(seconds_of(lambda: (step(), decode(kept)), 50))
            anew.append(seconds_of(lambda: decode(model.scan(fresh, window)[0]), 10))
            ratios.append(stateful[-1] / anew[-1])
        parts = (seconds_of(step, 50), seconds_of(lambda: decode(kept), 50))
    note = (
        f"{1e6 * statistics.median(stateful):,.0f} µs (step {1e6 * parts[0]:,.0f}, decode {1e6 * parts[1]:,.0f}) ÷ "
        f"{1e6 * statistics.median(anew):,.0f} µs; {spread(ratios)}"
    )
    return bar.met_by(statistics.median(ratios), note)
