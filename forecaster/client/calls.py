"""What is sent: requests from Polars frames, each with how its answer is read (`results`).

With `results` and `retry` this is the whole client but for the waiting; none of them does I/O, so that the
synchronous and the asyncio client share all of them.
"""

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import polars as pl

from forecaster.client.results import (
    ModelInfo,
    ObserveResult,
    SeriesInfo,
    StreamReply,
    forecast_frame,
    model_info,
    observe_result,
    series_info,
    stream_reply,
)
from forecaster.config import DataConfig
from forecaster.data.schema import canonical_frame
from forecaster.errors import InvalidArgumentError
from forecaster.v1 import forecast_pb2, forecast_service_pb2, model_service_pb2, observation_pb2
from forecaster.v1.forecast_service_pb2_grpc import ForecastServiceStub
from forecaster.v1.model_service_pb2_grpc import ModelServiceStub

T = TypeVar("T")
Method = Callable[..., Any]
_ROWS_PER_REQUEST = 32_768
_PAGE = 1000


def checked_address(address: str) -> str:
    """Return `host:port`; raises InvalidArgumentError for anything else, which gRPC would take for another port."""
    if re.fullmatch(r"(unix:.+|.*[^:/]:\d+)", address) is None or "://" in address:
        raise InvalidArgumentError(f"server address {address!r} is not allowed: use HOST:PORT, such as localhost:50051")
    return address


class Stubs:
    """The services over one channel, synchronous or asyncio."""

    def __init__(self, channel: Any) -> None:
        self.forecast = ForecastServiceStub(channel)
        self.model = ModelServiceStub(channel)


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One unary call.

    Args:
        method: which.
        request: what to send.
        parse: how to read the answer.
        gone_is_done: a retry that is told NOT_FOUND means that the first try did it; `parse` then gets None.
    """

    method: Callable[[Stubs], Method]
    request: Any
    parse: Callable[[Any], T]
    gone_is_done: bool = False


def observe_calls(frame: pl.DataFrame, model: str) -> Iterator[Call[ObserveResult]]:
    """Yield the calls that send a frame, split where it is large; series stay in order."""
    rows = canonical_frame(frame, DataConfig()).select("unique_id", "ds", "y")
    for part in rows.iter_slices(_ROWS_PER_REQUEST):
        request = forecast_service_pb2.ObserveRequest(model=model, columns=_columns(part))
        yield Call(lambda stubs: stubs.forecast.Observe, request, functools.partial(observe_result, part))


def forecast_call(
    series_ids: Sequence[str], horizon: int | None, quantile_levels: Sequence[float], model: str
) -> Call[pl.DataFrame]:
    """Return the call that forecasts series."""
    request = forecast_service_pb2.ForecastRequest(
        model=model, series_ids=series_ids, options=_options(horizon, quantile_levels)
    )
    return Call(lambda stubs: stubs.forecast.Forecast, request, lambda answer: forecast_frame(answer.forecasts))


def stream_request(
    frame: pl.DataFrame, sequence: int, horizon: int | None, quantile_levels: Sequence[float], model: str
) -> tuple[forecast_service_pb2.StreamForecastsRequest, Callable[[Any], StreamReply]]:
    """Return one message of a stream and how to read its answer."""
    rows = canonical_frame(frame, DataConfig()).select("unique_id", "ds", "y")
    request = forecast_service_pb2.StreamForecastsRequest(
        sequence=sequence, model=model, options=_options(horizon, quantile_levels)
    )
    times = rows["ds"].dt.epoch("us").to_list()
    for series_id, time_us, value in zip(rows["unique_id"].to_list(), times, rows["y"].to_list(), strict=True):
        message = request.observations.add(series_id=series_id, value=value)
        message.observation_time.FromMicroseconds(time_us)
    return request, functools.partial(stream_reply, rows)


def get_series_call(series_id: str, model: str) -> Call[SeriesInfo]:
    """Return the call that describes one series."""
    request = forecast_service_pb2.GetSeriesRequest(model=model, series_id=series_id)
    return Call(lambda stubs: stubs.forecast.GetSeries, request, lambda answer: series_info(answer.series))


def list_series_call(page_token: str, model: str) -> Call[tuple[list[SeriesInfo], str]]:
    """Return the call for one page of series; its result is the page and the next page's token."""
    request = forecast_service_pb2.ListSeriesRequest(model=model, page_size=_PAGE, page_token=page_token)
    return Call(
        lambda stubs: stubs.forecast.ListSeries,
        request,
        lambda answer: ([series_info(message) for message in answer.series], answer.next_page_token),
    )


def delete_series_call(series_id: str, model: str) -> Call[None]:
    """Return the call that forgets one series."""
    request = forecast_service_pb2.DeleteSeriesRequest(model=model, series_id=series_id)
    return Call(lambda stubs: stubs.forecast.DeleteSeries, request, lambda answer: None, gone_is_done=True)


def get_model_call(name: str) -> Call[ModelInfo]:
    """Return the call that describes the served model."""
    request = model_service_pb2.GetModelRequest(name=name)
    return Call(lambda stubs: stubs.model.GetModel, request, lambda answer: model_info(answer.model))


def _columns(rows: pl.DataFrame) -> observation_pb2.ObservationColumns:
    ids = rows["unique_id"].unique(maintain_order=True)
    position = {series_id: i for i, series_id in enumerate(ids.to_list())}
    values = rows["y"]
    return observation_pb2.ObservationColumns(
        series_ids=list(position),
        series_indices=rows["unique_id"].replace_strict(position, return_dtype=pl.UInt32).to_list(),
        observation_times_us=rows["ds"].dt.epoch("us").to_list(),
        values=values.fill_null(0.0).to_list(),
        missing_rows=values.is_null().arg_true().to_list(),
    )


def _options(horizon: int | None, quantile_levels: Sequence[float]) -> forecast_pb2.ForecastOptions:
    if horizon is not None and horizon < 1:
        raise InvalidArgumentError(f"horizon={horizon} is not allowed: use 1 or more steps, or leave it out")
    return forecast_pb2.ForecastOptions(horizon=horizon or 0, quantile_levels=quantile_levels)
