"""The model alone, without a server: a stateful step and a decode beside a window encoded anew and the same decode.

Shapes: B series, T steps.
"""

import statistics

import torch

from forecaster.model.observations import Observations
from tests.benchmarks.figures import Bar, Figure, spread
from tests.benchmarks.rig import HORIZON, Rig, seconds_of
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
    model = rig.bundle.model
    seen = torch.ones(batch, WINDOW, dtype=torch.bool)
    hours = torch.arange(WINDOW).expand(batch, -1) * HOUR_US
    window = Observations(hours, torch.randn(batch, WINDOW, dtype=torch.float64), seen)
    ratios, stateful, anew = [], [], []
    with torch.inference_mode():
        state, _ = model.scan(model.initial_state(batch), window)
        one = Observations(window.time_us[:, -1] + HOUR_US, window.values[:, 0], seen[:, 0])
        for _ in range(rig.runs):
            stateful.append(seconds_of(lambda: model.decode(model.step(state, one), HORIZON), 50))
            anew.append(
                seconds_of(lambda: model.decode(model.scan(model.initial_state(batch), window)[0], HORIZON), 10)
            )
            ratios.append(stateful[-1] / anew[-1])
        parts = (seconds_of(lambda: model.step(state, one), 50), seconds_of(lambda: model.decode(state, HORIZON), 50))
    note = (
        f"{1e6 * statistics.median(stateful):,.0f} µs (step {1e6 * parts[0]:,.0f}, decode {1e6 * parts[1]:,.0f}) ÷ "
        f"{1e6 * statistics.median(anew):,.0f} µs; {spread(ratios)}"
    )
    return bar.met_by(statistics.median(ratios), note)
