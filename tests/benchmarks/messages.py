"""Requests of the public API, made and serialised before anything is measured, and what their answers must say.

A `Fleet` knows how far each of its series is, so that every request continues where the one before it ended.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from forecaster.v1 import forecast_pb2, observation_pb2
from forecaster.v1 import forecast_service_pb2 as api
from tests.benchmarks.load import Generator, Plan, Run, stream, unary
from tests.benchmarks.rig import HORIZON, LEVELS
from tests.integration.conftest import HOUR_US, START

_SERVICE = "/forecaster.v1.ForecastService/"
OBSERVE, FORECAST, STREAM = _SERVICE + "Observe", _SERVICE + "Forecast", _SERVICE + "StreamForecasts"
ROWS = 25_000  # of a bulk request; the server's limit is 65,536
_START_US = int(START.timestamp() * 1e6)
_OPTIONS = forecast_pb2.ForecastOptions(horizon=HORIZON, quantile_levels=LEVELS)


@dataclass(slots=True)
class Fleet:
    """Some series and the hour that comes next; all of them are at the same hour.

    Args:
        size: how many series.
        prefix: of their ids.
    """

    size: int
    prefix: str = "meter"
    hour: int = 0
    _rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    _one_by_one: int = 0

    def names(self, start: int = 0, end: int | None = None) -> list[str]:
        """Return the ids of some series."""
        return [f"{self.prefix}-{k:07d}" for k in range(start, self.size if end is None else end)]

    def tick(self, hours: int = 1, rows: int = ROWS) -> list[bytes]:
        """Return `Observe` requests with the next hours of every series, hour by hour."""
        found = []
        for _ in range(hours):
            found += [self.part(start, min(start + rows, self.size), rows=1) for start in range(0, self.size, rows)]
            self.hour += 1
        return found

    def history(self, hours: int) -> list[bytes]:
        """Return `Observe` requests with the next hours of every series, many hours of a series in one request."""
        step = max(ROWS // hours, 1)
        starts = range(0, self.size, step)
        found = [self.part(start, min(start + step, self.size), rows=hours) for start in starts]
        self.hour += hours
        return found

    def part(self, start: int, end: int, *, rows: int) -> bytes:
        """Return an `Observe` request with the next `rows` hours of the series from `start` to `end`."""
        return api.ObserveRequest(columns=self._columns(start, end, rows)).SerializeToString()

    def singles(self, count: int) -> list[bytes]:
        """Return messages for `StreamForecasts`: one observation of one series each, which is then forecast.

        The series take turns, also from one call to the next; `tick` may follow after whole turns only.
        """
        found = []
        values = self._rng.standard_normal(count).tolist()
        for value in values:
            turn, series = divmod(self._one_by_one, self.size)
            time_us = _START_US + (self.hour + turn) * HOUR_US
            one = observation_pb2.Observation(series_id=f"{self.prefix}-{series:07d}", value=value)
            one.observation_time.FromMicroseconds(time_us)
            message = api.StreamForecastsRequest(sequence=self._one_by_one, observations=[one], options=_OPTIONS)
            found.append(message.SerializeToString())
            self._one_by_one += 1
        return found

    def forecasts(self, rows: int) -> list[bytes]:
        """Return `Forecast` requests of all series, `rows` in each."""
        starts = range(0, self.size, rows)
        parts = (self.names(start, min(start + rows, self.size)) for start in starts)
        return [api.ForecastRequest(series_ids=names, options=_OPTIONS).SerializeToString() for names in parts]

    def packed_tick(self, rows: int) -> list[bytes]:
        """Return messages for `StreamForecasts` with the next hour of every series in columns, and its forecast."""
        found = []
        for start in range(0, self.size, rows):
            columns = self._columns(start, min(start + rows, self.size), 1)
            message = api.StreamForecastsRequest(options=_packed(_OPTIONS))
            message.columns.CopyFrom(columns)  # type: ignore[attr-defined, unused-ignore]
            found.append(message.SerializeToString())
        self.hour += 1
        return found

    def _columns(self, start: int, end: int, rows: int) -> observation_pb2.ObservationColumns:
        count = end - start
        hours = np.tile(np.arange(self.hour, self.hour + rows), count)
        return observation_pb2.ObservationColumns(
            series_ids=self.names(start, end),
            series_indices=np.repeat(np.arange(count, dtype=np.uint32), rows).tolist(),
            observation_times_us=(_START_US + hours * HOUR_US).tolist(),
            values=self._rng.standard_normal(count * rows).tolist(),
        )


def has_packed_stream() -> bool:
    """Return whether this version's `StreamForecasts` takes columns."""
    return "columns" in api.StreamForecastsRequest.DESCRIPTOR.fields_by_name


def _packed(options: forecast_pb2.ForecastOptions) -> forecast_pb2.ForecastOptions:
    """Return the options with packed forecasts, where this version has them."""
    found = forecast_pb2.ForecastOptions()
    found.CopyFrom(options)
    if "packed" in forecast_pb2.ForecastOptions.DESCRIPTOR.fields_by_name:
        found.packed = True  # type: ignore[attr-defined, unused-ignore]
    return found


def observe(generator: Generator, address: str, requests: Sequence[bytes], in_flight: int = 4) -> Run:
    """Send `Observe` requests; all must be applied.

    Requests are answered in the order of their arrival, so that several in flight keep a series' order.
    """
    run = generator(unary, address, [OBSERVE], list(requests), Plan(in_flight))
    check(run, api.ObserveResponse)
    return run


def converse(generator: Generator, address: str, requests: Sequence[bytes], plan: Plan) -> Run:
    """Send messages over one stream of `StreamForecasts`; all must be applied and forecast."""
    run = generator(stream, address, STREAM, list(requests), plan)
    check(run, api.StreamForecastsResponse)
    return run


def check(run: Run, kind: type) -> None:
    """Raise RuntimeError unless all was answered and the samples of answers say that all was done."""
    if run.errors:
        raise RuntimeError(f"{len(run.errors)} requests failed, the first one with {run.errors[0]}")
    for sample in run.samples.values():
        answer = kind.FromString(sample)
        applied = all(outcome == observation_pb2.OUTCOME_APPLIED for outcome in getattr(answer, "outcomes", ()))
        if not applied or getattr(answer, "failures", ()):
            raise RuntimeError(f"not all was applied and forecast: {str(answer)[-500:]}")
        if kind is api.StreamForecastsResponse and len(sample) < 8 * HORIZON:
            raise RuntimeError(f"an answer without a forecast: {answer}")
