"""Bulk `Observe`, durable, over loopback gRPC, beside the bare step of torch's own GRU of the same size."""

import statistics

from tests.benchmarks.figures import Bar, Figure, spread
from tests.benchmarks.messages import Fleet, observe
from tests.benchmarks.rig import Rig, bare_step_seconds

SERIES = 100_000
TICKS = 2  # of all series, in each run
BARS = (Bar("bulk Observe, durable: rate ÷ bare GRU step's", "×", 0.5, "≥"),)


def measure(rig: Rig) -> list[Figure]:
    """Return the rate of observations in proportion to the bare step's; both are timed in turns."""
    fleet = Fleet(rig.scaled(SERIES, least=512))
    ratios, rates = [], []
    with rig.serving(state="bulk") as server:
        observe(rig.generator, server.address, fleet.tick(2))  # the states' memory is made here
        for _ in range(rig.runs):
            requests = fleet.tick(TICKS)
            step = bare_step_seconds()
            run = observe(rig.generator, server.address, requests)
            rates.append(TICKS * fleet.size / run.seconds)
            ratios.append(rates[-1] * step)
    note = (
        f"{statistics.median(rates):,.0f} observations/s of {fleet.size:,} series, bare step {1e6 * step:.2f} µs at "
        f"batch 512, one thread; ratio {spread(ratios)}; {run.cores}"
    )
    return [BARS[0].met_by(statistics.median(ratios), note)]
