"""`StreamForecasts`, one stream, one observation a message, each answered by an acknowledgement and 24 steps."""

import statistics
from dataclasses import dataclass

from tests.benchmarks.figures import Bar, Figure, percentile, spread
from tests.benchmarks.load import Plan, Run
from tests.benchmarks.messages import Fleet, converse, observe
from tests.benchmarks.rig import Rig

SERIES, HISTORY = 1_000, 168
SECONDS, MOST = 4.0, 20_000  # of a run, and its messages
IN_FLIGHT = 64
BARS = (
    Bar("StreamForecasts, single stream at half load, p50", "ms", 2.0, "≤"),
    Bar("StreamForecasts, single stream at half load, p99", "ms", 10.0, "≤"),
)


@dataclass(frozen=True, slots=True)
class Paces:
    """What one stream does with one observation and one forecast in a message; medians of the runs.

    Args:
        alone_ms: p50 with one message in flight, milliseconds.
        rate: messages a second with 64 in flight.
        rate_p99_ms: their p99, milliseconds.
        half_ms: p50 and p99 when messages come at half that rate, milliseconds, of each run.
        generator: what the load generator took at most.
    """

    alone_ms: float
    rate: float
    rate_p99_ms: float
    half_ms: tuple[list[float], list[float]]
    generator: str


def paces(rig: Rig, state: str) -> Paces:
    """Measure a fresh server."""
    fleet = Fleet(SERIES)
    with rig.serving(state=state) as server:
        observe(rig.generator, server.address, fleet.history(HISTORY))

        def run(rate: float, plan: Plan) -> Run:
            count = min(max(rig.scaled(int(rate * SECONDS)), 200), MOST)
            return converse(rig.generator, server.address, fleet.singles(count), plan)

        rate, lone = (run(100.0, Plan(in_flight)).rate for in_flight in (IN_FLIGHT, 1))  # to warm up
        alone = [percentile(run(lone, Plan(1)).latencies, 50) for _ in range(rig.runs)]
        full = [run(rate, Plan(IN_FLIGHT)) for _ in range(rig.runs)]
        rate = statistics.median(one.rate for one in full)
        half = [run(rate / 2, Plan(rate=rate / 2)).latencies for _ in range(rig.runs)]
    return Paces(
        1e3 * statistics.median(alone),
        rate,
        1e3 * statistics.median(percentile(one.latencies, 99) for one in full),
        ([1e3 * percentile(one, 50) for one in half], [1e3 * percentile(one, 99) for one in half]),
        max(full, key=lambda one: one.cpu_seconds / one.seconds).cores,
    )


def measure(rig: Rig) -> list[Figure]:
    """Return the latencies at half of what one stream can carry."""
    found = paces(rig, "stream")
    load = (
        f"{found.rate / 2:,.0f} messages/s, half of what {IN_FLIGHT} in flight reach; p50 alone {found.alone_ms:.2f} ms"
    )
    notes = (f"{load}; {spread(found.half_ms[0])}; {found.generator}", spread(found.half_ms[1]))
    pairs = zip(BARS, found.half_ms, notes, strict=True)
    return [bar.met_by(statistics.median(values), note) for bar, values, note in pairs]
