"""Late and corrected values: what they cost who observes, and how long a series answers from the state of before."""

import statistics
import time

import grpc
import numpy as np

from forecaster.v1 import forecast_pb2, observation_pb2
from forecaster.v1 import forecast_service_pb2 as api
from forecaster.v1.forecast_service_pb2_grpc import ForecastServiceStub
from tests.benchmarks.figures import Bar, Figure, spread
from tests.benchmarks.load import Plan, unary
from tests.benchmarks.messages import OBSERVE, Fleet, observe
from tests.benchmarks.rig import Rig
from tests.integration.conftest import HOUR_US, START

SERIES, HISTORY, HOURS = 10_000, 168, 48
SHARE, MOST_LATE = 0.01, 24  # of the rows, steps
YEARS_HOURS = 2 * 8760
DISTANCES = {"1 step": 1, "a day": 24, "a month": 30 * 24, "a year": 8760}
_START_US = int(START.timestamp() * 1e6)
BARS = (
    Bar("Observe, 10,000 series, 1 % of the rows late: rate ÷ in order", "×", 0.9, "≥"),
    *(Bar(f"correction of {name} ago, 2 years of hours: until known", "ms", 1000.0, "≤") for name in DISTANCES),
)


def measure(rig: Rig) -> list[Figure]:
    """Return both, the former timed in turns and until nobody waits to be folded any more."""
    fleet = Fleet(rig.scaled(SERIES, least=100))
    ratios, rates = [], []
    rng = np.random.default_rng(0)
    with rig.serving("--serving.late_steps=48", state="late") as server:
        observe(rig.generator, server.address, fleet.history(HISTORY))
        with grpc.insecure_channel(server.address) as channel:
            stub = ForecastServiceStub(channel)
            for _ in range(rig.runs):
                rows = fleet.size * HOURS
                plain = observe(rig.generator, server.address, fleet.tick(HOURS)).seconds
                requests = _late(fleet, rng)
                began = time.perf_counter()
                run = rig.generator(unary, server.address, [OBSERVE], requests, Plan(4))
                _await_all(stub, fleet)
                whole = time.perf_counter() - began
                rates.append((rows / whole, rows / plain, rows / run.seconds))
                ratios.append(plain / whole)
            figures = [_distance(stub, name, steps, rig.runs) for name, steps in DISTANCES.items()]
    late, in_order, told = (statistics.median(one_run[k] for one_run in rates) for k in range(3))
    note = f"{late:,.0f} against {in_order:,.0f} rows/s, {told:,.0f} until all are acknowledged; ratio {spread(ratios)}"
    first = BARS[0].met_by(statistics.median(ratios), f"{note}; {run.cores}")
    return [first, *(bar.met_by(*figure) for bar, figure in zip(BARS[1:], figures, strict=True))]


def _late(fleet: Fleet, rng: np.random.Generator) -> list[bytes]:
    """Return requests with the next hours of every series, of which some rows come in a later one."""
    requests = []
    kept: dict[int, list[tuple[int, int]]] = {}  # by the hour with which they come
    names, first = fleet.names(), fleet.hour
    for hour in range(first, first + HOURS):
        is_late = (rng.random(fleet.size) < SHARE) & (hour < first + HOURS - 1)
        for series in np.flatnonzero(is_late).tolist():
            comes = min(hour + int(rng.integers(1, MOST_LATE + 1)), first + HOURS - 1)
            kept.setdefault(comes, []).append((series, hour))
        rows = [(series, hour) for series in np.flatnonzero(~is_late).tolist()] + kept.pop(hour, [])
        series, hours = (np.array(part) for part in zip(*rows, strict=True))
        columns = observation_pb2.ObservationColumns(
            series_ids=names,
            series_indices=series.tolist(),
            observation_times_us=(_START_US + hours * HOUR_US).tolist(),
            values=rng.standard_normal(len(rows)).tolist(),
        )
        requests.append(api.ObserveRequest(columns=columns).SerializeToString())
    fleet.hour += HOURS
    return requests


def _await_all(stub: ForecastServiceStub, fleet: Fleet) -> None:
    """Return when no series waits to be folded any more."""
    options = forecast_pb2.ForecastOptions(horizon=1, quantile_levels=[0.5], packed=True, await_corrections=True)
    left = fleet.names()
    while left:
        answer = stub.Forecast(api.ForecastRequest(series_ids=left[:20_000], options=options, allow_partial=True))
        left = [failure.series_id for failure in answer.failures] + left[20_000:]
        if answer.failures:
            time.sleep(0.05)


def _distance(stub: ForecastServiceStub, name: str, steps: int, runs: int) -> tuple[float, str]:
    """Return how long it takes until forecasts of a long series know of a correction so many steps ago, and a note."""
    found, series = [], f"long {name}"
    hours = np.arange(YEARS_HOURS)
    columns = observation_pb2.ObservationColumns(
        series_ids=[series],
        series_indices=[0] * len(hours),
        observation_times_us=(_START_US + hours * HOUR_US).tolist(),
        values=np.sin(hours / 24).tolist(),
    )
    stub.Observe(api.ObserveRequest(columns=columns))
    options = forecast_pb2.ForecastOptions(await_corrections=True)
    for k in range(runs):
        row = observation_pb2.ObservationColumns(
            series_ids=[series],
            series_indices=[0],
            observation_times_us=[_START_US + (YEARS_HOURS - 1 - steps) * HOUR_US],
            values=[float(k + 2)],
        )
        began = time.perf_counter()
        assert list(stub.Observe(api.ObserveRequest(columns=row, replace=True)).outcomes) == [4]
        request = api.ForecastRequest(series_ids=[series], options=options, allow_partial=True)
        while stub.Forecast(request).failures:
            time.sleep(0.001)
        found.append(1e3 * (time.perf_counter() - began))
    return statistics.median(found), f"{spread(found)}"
