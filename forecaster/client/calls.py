"""What is sent and what the answers mean: requests from Polars frames, frames from responses.

This is the whole client but for the waiting; it does no I/O, so that the synchronous and the asyncio client
share all of it.
"""

import datetime as dt
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import polars as pl

from forecaster.config import DataConfig
from forecaster.data.schema import canonical_frame
from forecaster.errors import ForecasterError, InvalidArgumentError
from forecaster.v1 import forecast_pb2, forecast_service_pb2, model_service_pb2, observation_pb2
from forecaster.v1.forecast_service_pb2_grpc import ForecastServiceStub
from forecaster.v1.model_service_pb2_grpc import ModelServiceStub

T = TypeVar("T")
Method = Callable[..., Any]
_ROWS_PER_REQUEST = 32_768
_PAGE = 1000
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
OUTCOMES = {
    observation_pb2.OUTCOME_APPLIED: "applied",
    observation_pb2.OUTCOME_DUPLICATE: "duplicate",
    observation_pb2.OUTCOME_REJECTED: "rejected",
}
DURABILITIES = {
    observation_pb2.DURABILITY_COMMIT: "commit",
    observation_pb2.DURABILITY_INTERVAL: "interval",
    observation_pb2.DURABILITY_NONE: "none",
}
REJECTION_SCHEMA: dict[str, Any] = {
    "unique_id": pl.String,
    "ds": pl.Datetime("us", "UTC"),
    "y": pl.Float64,
    "reason": pl.String,
    "message": pl.String,
    "expected_ds": pl.Datetime("us", "UTC"),
    "stored_y": pl.Float64,
}


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


@dataclass(frozen=True, slots=True)
class ObserveResult:
    """What became of a frame of observations.

    Args:
        applied: rows that advanced their series.
        duplicates: rows that had been applied before.
        rejected: the refused rows with `reason`, `message`, `expected_ds` and `stored_y`.
        durability: how durable the applied rows are: commit, interval or none.
    """

    applied: int
    duplicates: int
    rejected: pl.DataFrame
    durability: str

    def raise_for_rejections(self) -> None:
        """Raise ForecasterError naming the first refused row and how many there are."""
        if len(self.rejected):
            more = f" ({len(self.rejected)} rows were refused)" if len(self.rejected) > 1 else ""
            raise ForecasterError(f"{self.rejected['message'][0]}{more}")

    def __add__(self, other: "ObserveResult") -> "ObserveResult":
        return ObserveResult(
            self.applied + other.applied,
            self.duplicates + other.duplicates,
            pl.concat([self.rejected, other.rejected]),
            other.durability,
        )


@dataclass(frozen=True, slots=True)
class StreamReply:
    """The answer to one frame of a stream: what became of it, and the forecasts after it."""

    observed: ObserveResult
    forecasts: pl.DataFrame
    failures: dict[str, str]


@dataclass(frozen=True, slots=True)
class SeriesInfo:
    """One series on the server; `length` counts missing steps too, `observed_length` does not."""

    unique_id: str
    last_ds: dt.datetime
    expected_ds: dt.datetime
    length: int
    observed_length: int
    model_name: str
    model_version: str
    state_age: dt.timedelta


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The served model."""

    name: str
    version: str
    fingerprint: str
    cell: str
    step: dt.timedelta
    horizon: int
    quantile_levels: tuple[float, ...]
    season_lengths: tuple[int, ...]
    min_history: int
    max_gap: int
    state_bytes: int


def observe_calls(frame: pl.DataFrame, model: str) -> Iterator[Call[ObserveResult]]:
    """Yield the calls that send a frame, split where it is large; series stay in order."""
    rows = canonical_frame(frame, DataConfig()).select("unique_id", "ds", "y")
    for part in rows.iter_slices(_ROWS_PER_REQUEST):
        request = forecast_service_pb2.ObserveRequest(model=model, columns=_columns(part))
        yield Call(lambda stubs: stubs.forecast.Observe, request, _observed_parser(part))


def empty_result() -> ObserveResult:
    """Return the result of sending nothing."""
    return ObserveResult(0, 0, pl.DataFrame(schema=REJECTION_SCHEMA), "none")


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
    observed = _observed_parser(rows)

    def parse(answer: forecast_service_pb2.StreamForecastsResponse) -> StreamReply:
        failures = {failure.series_id: failure.message for failure in answer.failures}
        return StreamReply(observed(answer), forecast_frame(answer.forecasts), failures)

    return request, parse


def get_series_call(series_id: str, model: str) -> Call[SeriesInfo]:
    """Return the call that describes one series."""
    request = forecast_service_pb2.GetSeriesRequest(model=model, series_id=series_id)
    return Call(lambda stubs: stubs.forecast.GetSeries, request, lambda answer: _series(answer.series))


def list_series_call(page_token: str, model: str) -> Call[tuple[list[SeriesInfo], str]]:
    """Return the call for one page of series; its result is the page and the next page's token."""
    request = forecast_service_pb2.ListSeriesRequest(model=model, page_size=_PAGE, page_token=page_token)
    return Call(
        lambda stubs: stubs.forecast.ListSeries,
        request,
        lambda answer: ([_series(message) for message in answer.series], answer.next_page_token),
    )


def delete_series_call(series_id: str, model: str) -> Call[None]:
    """Return the call that forgets one series."""
    request = forecast_service_pb2.DeleteSeriesRequest(model=model, series_id=series_id)
    return Call(lambda stubs: stubs.forecast.DeleteSeries, request, lambda answer: None, gone_is_done=True)


def get_model_call(name: str) -> Call[ModelInfo]:
    """Return the call that describes the served model."""
    request = model_service_pb2.GetModelRequest(name=name)
    return Call(lambda stubs: stubs.model.GetModel, request, lambda answer: _model(answer.model))


def forecast_frame(messages: Sequence[forecast_pb2.SeriesForecast]) -> pl.DataFrame:
    """Return forecasts in long format: unique_id, ds, y_hat (the median), and q0.1 … for each level."""
    if not messages:
        return pl.DataFrame(schema={"unique_id": pl.String, "ds": pl.Datetime("us", "UTC"), "y_hat": pl.Float64})
    horizon = len(messages[0].values)
    step_us = messages[0].step.ToMicroseconds()
    origins = np.array([message.origin_time.ToMicroseconds() for message in messages])
    times = origins[:, None] + step_us * np.arange(1, horizon + 1)
    columns: dict[str, Any] = {
        "unique_id": np.repeat(np.array([message.series_id for message in messages], dtype=object), horizon),
        "ds": pl.Series(times.ravel(), dtype=pl.Int64).cast(pl.Datetime("us")).dt.replace_time_zone("UTC"),
        "y_hat": np.concatenate([np.array(message.values) for message in messages]),
    }
    for k, path in enumerate(messages[0].quantiles):
        columns[f"q{path.level:g}"] = np.concatenate([np.array(message.quantiles[k].values) for message in messages])
    return pl.DataFrame(columns, schema_overrides={"unique_id": pl.String})


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


def _observed_parser(rows: pl.DataFrame) -> Callable[[Any], ObserveResult]:
    def parse(answer: Any) -> ObserveResult:
        outcomes = np.array(answer.outcomes)
        rejections = [
            {
                "unique_id": rows["unique_id"][rejection.row],
                "ds": rows["ds"][rejection.row],
                "y": rows["y"][rejection.row],
                "reason": rejection.reason,
                "message": rejection.message,
                "expected_ds": _utc(rejection.expected_time) if rejection.HasField("expected_time") else None,
                "stored_y": rejection.stored_value if rejection.HasField("stored_value") else None,
            }
            for rejection in answer.rejections
        ]
        return ObserveResult(
            int((outcomes == observation_pb2.OUTCOME_APPLIED).sum()),
            int((outcomes == observation_pb2.OUTCOME_DUPLICATE).sum()),
            pl.DataFrame(rejections, schema=REJECTION_SCHEMA),
            DURABILITIES.get(answer.durability, "none"),
        )

    return parse


def _options(horizon: int | None, quantile_levels: Sequence[float]) -> forecast_pb2.ForecastOptions:
    if horizon is not None and horizon < 1:
        raise InvalidArgumentError(f"horizon={horizon} is not allowed: use 1 or more steps, or leave it out")
    return forecast_pb2.ForecastOptions(horizon=horizon or 0, quantile_levels=quantile_levels)


def _series(message: forecast_service_pb2.Series) -> SeriesInfo:
    return SeriesInfo(
        message.series_id,
        _utc(message.last_observation_time),
        _utc(message.expected_time),
        message.length,
        message.observed_length,
        message.model_name,
        message.model_version,
        message.state_age.ToTimedelta(),
    )


def _model(message: model_service_pb2.Model) -> ModelInfo:
    return ModelInfo(
        message.name,
        message.version,
        message.fingerprint,
        message.cell,
        message.step.ToTimedelta(),
        message.horizon,
        tuple(message.quantile_levels),
        tuple(message.season_lengths),
        message.min_history,
        message.max_gap,
        message.state_bytes,
    )


def _utc(stamp: Any) -> dt.datetime:
    return _EPOCH + dt.timedelta(microseconds=stamp.ToMicroseconds())
