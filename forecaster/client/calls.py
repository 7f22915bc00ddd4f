"""What is sent: requests from Polars frames, each with how its answer is read (`results`).

With `results` and `retry` this is the whole client but for the waiting; none of them does I/O, so that the
synchronous and the asyncio client share all of them.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import polars as pl

from forecaster.client.covariates import (
    SMALL,
    covariate_columns,
    future_covariates,
    futures_of,
    known_rows,
    series_attributes,
    static_values,
)
from forecaster.client.forecast_frames import ForecastResult, failure_frame, forecast_frame, path_frame
from forecaster.client.inputs import as_frame
from forecaster.client.results import (
    ModelInfo,
    SeriesInfo,
    StreamReply,
    model_info,
    series_info,
    stream_reply,
)
from forecaster.errors import ForecasterError, InvalidArgumentError
from forecaster.packing import fill, varints
from forecaster.v1 import forecast_pb2, forecast_service_pb2, model_service_pb2, observation_pb2
from forecaster.v1.forecast_service_pb2_grpc import ForecastServiceStub
from forecaster.v1.model_service_pb2_grpc import ModelServiceStub

T = TypeVar("T")
Method = Callable[..., Any]
_ROWS_PER_REQUEST = 32_768  # half of what a server takes unless it is told otherwise
_COVARIATES_OF_A_ROW, _STATIC_OF_A_ROW = 64, 4  # of so many rows; the static ones are numbers and categories
_PAGE = 1000


def checked_address(address: str) -> str:
    """Return `host:port` without space around it, such as the line's end of a server's address file.

    Raises InvalidArgumentError for anything else, which gRPC would take for another port.
    """
    stripped = address.strip()
    if re.fullmatch(r"(unix:.+|.*[^:/]:\d+)", stripped) is None or "://" in stripped:
        raise InvalidArgumentError(f"server address {address!r} is not allowed: use HOST:PORT, such as localhost:50051")
    return stripped


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


class Work(Protocol):
    """What takes several calls, one after the other: `observing.Observing`, `forecasting.Forecasting`."""

    def next(self) -> Call[Any] | None:
        """Return the next call, None after the last."""

    def answered(self, result: Any) -> None:
        """Keep the result of the call under way."""

    def refused(self, error: ForecasterError) -> None:
        """Do otherwise with what the call under way was about; raises the error if nothing can be done."""


MEDIAN = (0.5,)  # the only quantile that comes along with paths


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to forecast; see `ForecastClient.forecast`, `paths` and `beams`."""

    horizon: int | None = None
    quantile_levels: Sequence[float] = ()
    future: pl.DataFrame | None = None
    paths: int | None = None
    seed: int = 0
    beams: int | None = None
    width: int | None = None
    length_power: float = 0.0
    calibrated: bool = False
    what_if: bool = False
    await_corrections: bool = False

    def framed(self) -> "Wanted":
        """Return the same with its future as a Polars frame, whatever it was."""
        return self if self.future is None else dataclasses.replace(self, future=as_frame(self.future))

    def options(self, futures: Iterable[forecast_pb2.FutureCovariates] = ()) -> forecast_pb2.ForecastOptions:
        """Return the message with what is known of the time ahead."""
        for name in ("horizon", "paths", "beams", "width"):
            value = getattr(self, name)
            if value is not None and not 1 <= value < 2**32:
                raise InvalidArgumentError(f"{name}={value} is not allowed: use 1 or more, or leave it out")
        if not -(2**63) <= self.seed < 2**63:
            raise InvalidArgumentError(f"seed={self.seed} is not allowed: use a whole number of 64 bits")
        return forecast_pb2.ForecastOptions(
            horizon=self.horizon or 0,
            quantile_levels=self.quantile_levels,
            paths=self.paths or 0,
            seed=self.seed,
            beams=self.beams or 0,
            beam_width=self.width or 0,
            length_power=self.length_power,
            future_covariates=futures,
            packed=not self.has_paths,
            calibrated=self.calibrated,
            hypothetical=self.what_if,
            await_corrections=self.await_corrections,
        )

    @property
    def has_paths(self) -> bool:
        """Whether the answer is paths, which do not come in columns."""
        return self.paths is not None or self.beams is not None


def observe_call(
    rows: pl.DataFrame,
    static: pl.DataFrame | None,
    name: str,
    model: ModelInfo | None,
    options: forecast_pb2.ForecastOptions | None = None,
    *,
    corrects: bool = False,
) -> Call[StreamReply]:
    """Return the call that sends observations.

    Args:
        rows: as `covariates.known_rows` returns them.
        static: as `covariates.static_values` returns them, of these series or more.
        name: of the model asked for.
        model: says which covariates there are; None sends none.
        options: what to forecast of their series afterwards, in columns; None forecasts nothing.
        corrects: whether they take the place of what was said before.
    """
    attributes, columns = series_attributes(static, rows, model), packed_columns(rows, model)
    request = forecast_service_pb2.ObserveRequest(
        model=name, columns=columns, attributes=attributes, options=options, replace=corrects
    )
    asked = tuple(columns.series_ids)
    return Call(lambda stubs: stubs.forecast.Observe, request, functools.partial(stream_reply, rows, asked))


def forecast_call(
    series_ids: Sequence[str],
    wanted: Wanted,
    name: str,
    futures: Sequence[forecast_pb2.FutureCovariates] = (),
    *,
    allow_partial: bool = False,
) -> Call[ForecastResult]:
    """Return the call that forecasts series: the paths, if some are wanted, or else the quantiles.

    Args:
        series_ids: which.
        wanted: what of each.
        name: of the model asked for.
        futures: what is known of the time ahead; those of other series are left out.
        allow_partial: whether series without a forecast are listed, instead of failing the call.
    """
    options = wanted.options(futures_of(futures, set(series_ids)) if futures else ())
    request = forecast_service_pb2.ForecastRequest(
        model=name, series_ids=series_ids, options=options, allow_partial=allow_partial
    )

    def parse(answer: Any) -> ForecastResult:
        frame = path_frame(answer.forecasts) if wanted.has_paths else forecast_frame(answer.columns, series_ids)
        return ForecastResult(frame, failure_frame(answer.failures))

    return Call(_forecast_method, request, parse)


def watch_call(series_ids: Sequence[str], wanted: Wanted, name: str) -> Call[ForecastResult]:
    """Return the call that watches series; it has many answers."""
    request = forecast_service_pb2.WatchForecastsRequest(model=name, series_ids=series_ids, options=wanted.options())

    def parse(answer: Any) -> ForecastResult:
        return ForecastResult(forecast_frame(answer.columns, ()), failure_frame(answer.failures))

    return Call(lambda stubs: stubs.forecast.WatchForecasts, request, parse)


def _forecast_method(stubs: Stubs) -> Method:
    return stubs.forecast.Forecast  # type: ignore[no-any-return]


def stream_request(
    frame: pl.DataFrame, sequence: int, wanted: Wanted, name: str, model: ModelInfo | None, *, corrects: bool = False
) -> tuple[forecast_service_pb2.StreamForecastsRequest, Callable[[Any], StreamReply]]:
    """Return one message of a stream and how to read its answer."""
    rows = known_rows(frame, model)
    asked = list(dict.fromkeys(rows["unique_id"].to_list()))
    futures = future_covariates(wanted.future, model)
    request = forecast_service_pb2.StreamForecastsRequest(
        sequence=sequence,
        model=name,
        options=wanted.options(futures_of(futures, set(asked))),
        attributes=series_attributes(static_values(rows, model), rows, model),
        replace=corrects,
    )
    if len(rows) > SMALL or model is not None:
        request.columns.CopyFrom(packed_columns(rows, model))
    else:
        for series_id, time, value in rows.rows():
            message = request.observations.add(series_id=series_id, value=value)
            message.observation_time.FromDatetime(time)
    return request, functools.partial(stream_reply, rows, asked)


def get_series_call(series_id: str, model: str) -> Call[SeriesInfo]:
    """Return the call that describes one series."""
    request = forecast_service_pb2.GetSeriesRequest(model=model, series_id=series_id)
    return Call(lambda stubs: stubs.forecast.GetSeries, request, lambda answer: series_info(answer.series))


def list_series_call(page_token: str, model: str, prefix: str = "") -> Call[tuple[list[SeriesInfo], str]]:
    """Return the call for one page of series; its result is the page and the next page's token."""
    request = forecast_service_pb2.ListSeriesRequest(model=model, page_size=_PAGE, page_token=page_token, prefix=prefix)
    return Call(
        lambda stubs: stubs.forecast.ListSeries,
        request,
        lambda answer: ([series_info(message) for message in answer.series], answer.next_page_token),
    )


def delete_series_call(series_id: str, model: str) -> Call[None]:
    """Return the call that forgets one series."""
    request = forecast_service_pb2.DeleteSeriesRequest(model=model, series_id=series_id)
    return Call(lambda stubs: stubs.forecast.DeleteSeries, request, lambda answer: None, gone_is_done=True)


def get_model_call(name: str, version: str = "") -> Call[ModelInfo]:
    """Return the call that describes one version of a model, the served one if none is named."""
    request = model_service_pb2.GetModelRequest(name=name, version=version)
    return Call(lambda stubs: stubs.model.GetModel, request, lambda answer: model_info(answer.model))


def list_models_call(page_token: str) -> Call[tuple[list[ModelInfo], str]]:
    """Return the call for one page of versions; its result is the page and the next page's token."""
    request = model_service_pb2.ListModelsRequest(page_size=_PAGE, page_token=page_token)
    return Call(
        lambda stubs: stubs.model.ListModels,
        request,
        lambda answer: ([model_info(message) for message in answer.models], answer.next_page_token),
    )


def activate_model_call(name: str, version: str) -> Call[ModelInfo]:
    """Return the call that begins to replace the served version."""
    request = model_service_pb2.ActivateModelRequest(name=name, version=version)
    return Call(lambda stubs: stubs.model.ActivateModel, request, lambda answer: model_info(answer.model))


def packed_columns(rows: pl.DataFrame, model: ModelInfo | None) -> observation_pb2.ObservationColumns:
    """Return canonical rows, which are sorted by series, as packed columns."""
    ids, values = rows["unique_id"], rows["y"]
    message = observation_pb2.ObservationColumns(
        series_ids=ids.unique(maintain_order=True).to_list(),
        missing_rows=values.is_null().arg_true().to_list() if values.null_count() else (),
        covariates=covariate_columns(rows, () if model is None else model.dynamic),
    )
    fill(
        message,
        series_indices=varints(ids.rle_id().to_numpy()),
        observation_times_us=varints(rows["ds"].to_physical().to_numpy()),
        values=values.fill_null(0.0).to_numpy(),
    )
    return message
