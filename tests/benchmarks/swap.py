"""Another version under load: 10,000 series are rebuilt from 168 observations each while requests keep coming."""

import math
import statistics
import time

import grpc

from forecaster.v1 import forecast_service_pb2 as api
from forecaster.v1 import model_service_pb2, model_service_pb2_grpc, observation_pb2
from tests.benchmarks.figures import Bar, Figure, percentile, spread
from tests.benchmarks.load import Plan, Run, joined, unary
from tests.benchmarks.messages import FORECAST, OBSERVE, Fleet, observe
from tests.benchmarks.rig import Rig, make_bundle, served_model, setting
from tests.integration.conftest import Server, register_bundle

SERIES, HISTORY = 10_000, 168
RATE, ROWS = 100.0, 10  # requests a second, observing and forecasting in turns; series of each
BEFORE, BEHIND, MOST = 6.0, 2.0, 240.0  # seconds of load before the swap, behind it, and in all
BARS = (
    Bar("swap of 10,000 series under load: failed requests", "", 0.0, "≤"),
    Bar("swap of 10,000 series under load: longest pause", "ms", 200.0, "<"),
    Bar("swap of 10,000 series under load: p99 during it ÷ before", "×", 3.0, "≤"),
)


def measure(rig: Rig) -> list[Figure]:
    """Return what failed in all runs, and the longest time that any request waited, from when it was due."""
    if not hasattr(model_service_pb2_grpc.ModelServiceServicer, "ActivateModel"):
        return [bar.missing("this version cannot swap models (no ModelService.ActivateModel)") for bar in BARS]
    fleet = Fleet(rig.scaled(SERIES, least=100) // ROWS * ROWS)
    failed, pauses, calm, seconds = [0], [], [], []
    late: list[tuple[float, float]] = []  # p99 before and during
    options = setting("poll_seconds", 86_400)  # the swap begins when it is told to
    with rig.serving(*options, state="swap") as server:
        observe(rig.generator, server.address, fleet.history(HISTORY))
        for k in range(rig.runs):
            register_bundle(rig.tracking, make_bundle(seed=k + 1))
            began, ended, run, wrong = _swap(rig, server, fleet)
            failed.append(len(run.errors) + wrong)
            seconds.append(ended - began)
            sent = [k / RATE for k in range(len(run.latencies))]
            during = [x for at, x in zip(sent, run.latencies, strict=True) if began - 1 <= at <= ended + BEHIND]
            pauses.append(max(during))
            before = [x for at, x in zip(sent, run.latencies, strict=True) if at < began - 1]
            calm.append(max(before))
            late.append((percentile(before, 99), percentile(during, 99)))
    note = (
        f"{fleet.size:,} series × {HISTORY}, {rig.runs} swaps of {min(seconds):.1f} to {max(seconds):.1f} s, "
        f"{RATE:g} requests/s of {ROWS} series"
    )
    longest = f"the longest of all; before a swap {1e3 * max(calm):.0f} ms; {run.cores}"
    ratios = [during / before for before, during in late]
    middle = " ÷ ".join(f"{1e3 * statistics.median(one[k] for one in late):.1f}" for k in (1, 0))
    return [
        BARS[0].met_by(sum(failed), note),
        BARS[1].met_by(1e3 * max(pauses), longest),
        BARS[2].met_by(statistics.median(ratios), f"{middle} ms; {spread(ratios)}"),
    ]


def _swap(rig: Rig, server: Server, fleet: Fleet) -> tuple[float, float, Run, int]:
    """Swap the newest version in.

    Returns:
        When it began and ended, seconds from the first request; the requests; the answers that were not what was asked.
    """
    stop_file = rig.folder / "stop"
    stop_file.unlink(missing_ok=True)
    count, per_hour, first_hour = int(MOST * RATE / 2), fleet.size // ROWS, fleet.hour
    observations = [request for _ in range(math.ceil(count / per_hour)) for request in fleet.tick(rows=ROWS)]
    forecasts = fleet.forecasts(ROWS)
    requests = joined([observations[:count], [forecasts[k % per_hour] for k in range(count)]])
    plan = Plan(rate=RATE, stop_file=str(stop_file), samples=len(requests))
    started = time.monotonic()
    load = rig.generator.begin(unary, server.address, [OBSERVE, FORECAST], requests, plan)
    time.sleep(BEFORE)
    began = time.monotonic()
    try:
        ended = _activate(server.address, deadline=started + MOST - BEHIND)
        time.sleep(BEHIND)
    finally:
        stop_file.touch()
        run = load.result()
    # All series have to be at one hour again: the rest of the last hour is sent without load.
    observed = (len(run.latencies) + 1) // 2
    hours = math.ceil(observed / per_hour)
    fleet.hour = first_hour + hours
    if rest := observations[observed : hours * per_hour]:
        observe(rig.generator, server.address, rest)
    return began - started, ended - started, run, _wrong(run)


def _activate(address: str, deadline: float) -> float:
    """Have the newest version served, and return when it was; raises RuntimeError if it fails or takes too long."""
    with grpc.insecure_channel(address) as channel:
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        request = model_service_pb2.ActivateModelRequest(version="champion")
        wanted = stub.ActivateModel(request, timeout=60).model.version
    while (served := served_model(address)).version != wanted:
        if time.monotonic() > deadline:
            raise RuntimeError(f"version {wanted} was not served in time, {served.version} is")
        time.sleep(0.1)
    return time.monotonic()


def _wrong(run: Run) -> int:
    """Return how many answers did not apply or forecast all that was asked for."""
    wrong = 0
    for k, sample in run.samples.items():
        if k % 2:
            wrong += len(api.ForecastResponse.FromString(sample).forecasts) != ROWS
        else:
            outcomes = api.ObserveResponse.FromString(sample).outcomes
            wrong += any(outcome != observation_pb2.OUTCOME_APPLIED for outcome in outcomes)
    return wrong
