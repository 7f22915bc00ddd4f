"""A tick of a fleet: one observation of every series, and the forecast of each, durable, in few messages."""

import statistics
import time

from forecaster.v1 import forecast_service_pb2 as api
from tests.benchmarks.load import Plan, unary
from tests.benchmarks.messages import FORECAST, Fleet, check, converse, has_packed_stream, observe
from tests.benchmarks.rig import Rig

SERIES, HISTORY = 10_000, 168
ROWS = 2_500  # of a message
TICKS = 4  # of a run


def tick_rate(rig: Rig, state: str) -> tuple[float, str]:
    """Return observations with their forecasts a second, median of the runs, and how they were sent.

    Over `StreamForecasts` in columns where this version takes them; else each tick is observed, then forecast.
    """
    fleet = Fleet(rig.scaled(SERIES, least=500))
    packed = has_packed_stream()
    rates = []
    with rig.serving(state=state) as server:
        observe(rig.generator, server.address, fleet.history(HISTORY))
        for k in range(rig.runs + 1):
            seconds = _packed(rig, server.address, fleet) if packed else _in_two(rig, server.address, fleet)
            rates += [TICKS * fleet.size / seconds] if k else []  # the first run warms up
    how = f"{fleet.size:,} series a tick, {'columns over one stream' if packed else 'Observe, then Forecast'}"
    return statistics.median(rates), how


def _packed(rig: Rig, address: str, fleet: Fleet) -> float:
    messages = [message for _ in range(TICKS) for message in fleet.packed_tick(ROWS)]
    return converse(rig.generator, address, messages, Plan(in_flight=8)).seconds


def _in_two(rig: Rig, address: str, fleet: Fleet) -> float:
    ticks = [fleet.tick(rows=ROWS) for _ in range(TICKS)]
    questions = fleet.forecasts(ROWS)
    seconds = 0.0
    for tick in ticks:
        began = time.perf_counter()
        observe(rig.generator, address, tick)
        check(rig.generator(unary, address, [FORECAST], questions, Plan(4)), api.ForecastResponse)
        seconds += time.perf_counter() - began
    return seconds
