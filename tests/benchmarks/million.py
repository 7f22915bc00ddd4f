"""A million series of which a tenth is in memory: what the process takes, and what a series that is not there costs."""

from forecaster.v1 import forecast_service_pb2 as api
from tests.benchmarks.figures import Bar, Figure, percentile
from tests.benchmarks.load import Plan, unary
from tests.benchmarks.messages import OBSERVE, ROWS, Fleet, check, observe
from tests.benchmarks.rig import Rig, has_setting, resident_bytes, served_model, setting
from tests.integration.conftest import Server

SERIES, RESIDENT = 1_000_000, 100_000
BATCH, BATCHES = 1_000, 500
LARGEST_BATCH = 65_536  # the server's default
OVERHEAD_BYTES = 600_000_000
BARS = (
    Bar("1,000,000 series, 100,000 resident: process ÷ (1.5 × states + 600 MB)", "×", 1.0, "≤"),
    Bar("cold series touched, 1,000 in a request, p99", "ms", 100.0, "≤"),
)


def measure(rig: Rig) -> list[Figure]:
    """Return the process's memory and the latency of observing series that have left it."""
    if not has_setting("max_resident_series"):
        return [bar.missing("this version keeps all series in memory (no serving.max_resident_series)") for bar in BARS]
    fleet, resident = Fleet(rig.scaled(SERIES, least=20 * BATCH)), rig.scaled(RESIDENT, least=2 * BATCH)
    options = [*setting("max_resident_series", resident), *setting("max_series", fleet.size)]
    if resident < LARGEST_BATCH:  # a scaled run: a batch's series have to be in memory together
        options += [*setting("max_batch_observations", resident), *setting("max_request_observations", resident)]
    with rig.serving(*options, state="million") as server:
        observe(rig.generator, server.address, fleet.tick(rows=min(ROWS, resident)))
        filled = resident_bytes(server)
        touched = _touch(rig, server, fleet, resident)
        most = max(filled, resident_bytes(server))
        states = served_model(server.address).state_bytes * resident
    note = (
        f"{most / 1e6:,.0f} MB ({filled / 1e6:,.0f} after the filling), states {states / 1e6:,.0f} MB, "
        f"{fleet.size:,} series, {resident:,} resident"
    )
    cold = f"p50 {1e3 * percentile(touched, 50):.1f} ms, longest {1e3 * max(touched):.1f} ms of {len(touched)} requests"
    return [
        BARS[0].met_by(most / (1.5 * states + OVERHEAD_BYTES), note),
        BARS[1].met_by(1e3 * percentile(touched, 99), cold),
    ]


def _touch(rig: Rig, server: Server, fleet: Fleet, resident: int) -> list[float]:
    """Return the seconds of each batch of cold series, one after the other; none is touched twice."""
    cold = fleet.size - resident
    batches = min(BATCHES, cold // BATCH)
    requests = [fleet.part(k * BATCH, (k + 1) * BATCH, rows=1) for k in range(batches)]
    run = rig.generator(unary, server.address, [OBSERVE], requests, Plan(in_flight=1))
    check(run, api.ObserveResponse)
    return run.latencies
