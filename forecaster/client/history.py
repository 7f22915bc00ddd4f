"""Forecasts from a frame that holds the series' whole past: the requests, as many as it takes, and one result.

A series goes into one request as a whole; a request that the server refuses for its size is asked again, each half of
its series for itself. Does no I/O, so that both clients share it.
"""

import functools
from collections import deque
from collections.abc import Sequence

import polars as pl

from forecaster.client.calls import Call, Wanted, packed_columns
from forecaster.client.covariates import (
    future_covariates,
    futures_of,
    known_rows,
    series_attributes,
    split_future,
    static_values,
)
from forecaster.client.forecast_frames import ForecastResult, failure_frame, forecast_frame, no_forecasts
from forecaster.client.results import ModelInfo
from forecaster.client.transport.retry import is_too_large
from forecaster.errors import ForecasterError
from forecaster.v1 import forecast_service_pb2

_ROWS_PER_REQUEST = 32_768


class HistoryForecasting:
    """The requests of one frame, to be sent one after the other.

    Args:
        frame: columns unique_id, ds, y and covariates.
        wanted: what of each series; its future is what the frame says of the time behind its last value.
        name: of the model asked for.
        model: says which covariates there are; None sends none.

    Raises DataError for a wrong frame.
    """

    def __init__(self, frame: pl.DataFrame, wanted: Wanted, name: str, model: ModelInfo | None) -> None:
        rows, future = split_future(known_rows(frame, model), model)
        self._futures = future_covariates(future, model)
        self._wanted, self._name, self._model, self._static = wanted, name, model, static_values(rows, model)
        self._parts = deque(_parts(rows.partition_by("unique_id", maintain_order=True)))
        self._asked: list[pl.DataFrame] = []
        self._results: list[ForecastResult] = []

    def next(self) -> Call[ForecastResult] | None:
        """Return the next request; None if all series were asked for."""
        if not self._parts:
            return None
        self._asked = self._parts.popleft()
        rows = pl.concat(self._asked)
        columns = packed_columns(rows, self._model)
        request = forecast_service_pb2.ForecastHistoryRequest(
            model=self._name,
            columns=columns,
            attributes=series_attributes(self._static, rows, self._model),
            options=self._wanted.options(futures_of(self._futures, set(columns.series_ids))),
        )
        parse = functools.partial(_result, tuple(columns.series_ids))
        return Call(lambda stubs: stubs.forecast.ForecastHistory, request, parse)

    def answered(self, result: ForecastResult) -> None:
        """Keep the answer to the request under way."""
        self._results.append(result)

    def refused(self, error: ForecasterError) -> None:
        """Ask for the series of the request under way in halves if they were too many; raises the error if not."""
        if len(self._asked) < 2 or not is_too_large(error):
            raise error
        half = (len(self._asked) + 1) // 2
        self._parts.extendleft([self._asked[half:], self._asked[:half]])

    def result(self) -> ForecastResult:
        """Return what all answers say."""
        frames = [result.forecasts for result in self._results if len(result.forecasts)] or [no_forecasts()]
        failures = [result.failures for result in self._results] or [failure_frame(())]
        return ForecastResult(pl.concat(frames), pl.concat(failures))


def _result(asked: Sequence[str], answer: forecast_service_pb2.ForecastHistoryResponse) -> ForecastResult:
    return ForecastResult(forecast_frame(answer.columns, asked), failure_frame(answer.failures))


def _parts(series: list[pl.DataFrame]) -> list[list[pl.DataFrame]]:
    """Return series in groups of about as many rows as a request may have."""
    parts: list[list[pl.DataFrame]] = []
    room = 0
    for rows in series:
        if len(rows) > room:
            parts.append([])
            room = _ROWS_PER_REQUEST
        parts[-1].append(rows)
        room -= len(rows)
    return parts
