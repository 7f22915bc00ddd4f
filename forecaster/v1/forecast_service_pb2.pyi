import datetime

from forecaster.v1 import forecast_pb2 as _forecast_pb2
from forecaster.v1 import observation_pb2 as _observation_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ObserveRequest(_message.Message):
    __slots__ = ("model", "observations", "columns", "attributes", "age", "options", "replace")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    OBSERVATIONS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    AGE_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    REPLACE_FIELD_NUMBER: _ClassVar[int]
    model: str
    observations: _containers.RepeatedCompositeFieldContainer[_observation_pb2.Observation]
    columns: _observation_pb2.ObservationColumns
    attributes: _containers.RepeatedCompositeFieldContainer[_observation_pb2.SeriesAttributes]
    age: _duration_pb2.Duration
    options: _forecast_pb2.ForecastOptions
    replace: bool
    def __init__(self, model: _Optional[str] = ..., observations: _Optional[_Iterable[_Union[_observation_pb2.Observation, _Mapping]]] = ..., columns: _Optional[_Union[_observation_pb2.ObservationColumns, _Mapping]] = ..., attributes: _Optional[_Iterable[_Union[_observation_pb2.SeriesAttributes, _Mapping]]] = ..., age: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., options: _Optional[_Union[_forecast_pb2.ForecastOptions, _Mapping]] = ..., replace: _Optional[bool] = ...) -> None: ...

class ObserveResponse(_message.Message):
    __slots__ = ("outcomes", "rejections", "durability", "forecasts", "failures", "columns")
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    REJECTIONS_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    FORECASTS_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    outcomes: _containers.RepeatedScalarFieldContainer[_observation_pb2.Outcome]
    rejections: _containers.RepeatedCompositeFieldContainer[_observation_pb2.Rejection]
    durability: _observation_pb2.Durability
    forecasts: _containers.RepeatedCompositeFieldContainer[_forecast_pb2.SeriesForecast]
    failures: _containers.RepeatedCompositeFieldContainer[_forecast_pb2.ForecastFailure]
    columns: _forecast_pb2.ForecastColumns
    def __init__(self, outcomes: _Optional[_Iterable[_Union[_observation_pb2.Outcome, str]]] = ..., rejections: _Optional[_Iterable[_Union[_observation_pb2.Rejection, _Mapping]]] = ..., durability: _Optional[_Union[_observation_pb2.Durability, str]] = ..., forecasts: _Optional[_Iterable[_Union[_forecast_pb2.SeriesForecast, _Mapping]]] = ..., failures: _Optional[_Iterable[_Union[_forecast_pb2.ForecastFailure, _Mapping]]] = ..., columns: _Optional[_Union[_forecast_pb2.ForecastColumns, _Mapping]] = ...) -> None: ...

class ForecastRequest(_message.Message):
    __slots__ = ("model", "series_ids", "options", "allow_partial")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SERIES_IDS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    ALLOW_PARTIAL_FIELD_NUMBER: _ClassVar[int]
    model: str
    series_ids: _containers.RepeatedScalarFieldContainer[str]
    options: _forecast_pb2.ForecastOptions
    allow_partial: bool
    def __init__(self, model: _Optional[str] = ..., series_ids: _Optional[_Iterable[str]] = ..., options: _Optional[_Union[_forecast_pb2.ForecastOptions, _Mapping]] = ..., allow_partial: _Optional[bool] = ...) -> None: ...

class ForecastResponse(_message.Message):
    __slots__ = ("forecasts", "failures", "columns")
    FORECASTS_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    forecasts: _containers.RepeatedCompositeFieldContainer[_forecast_pb2.SeriesForecast]
    failures: _containers.RepeatedCompositeFieldContainer[_forecast_pb2.ForecastFailure]
    columns: _forecast_pb2.ForecastColumns
    def __init__(self, forecasts: _Optional[_Iterable[_Union[_forecast_pb2.SeriesForecast, _Mapping]]] = ..., failures: _Optional[_Iterable[_Union[_forecast_pb2.ForecastFailure, _Mapping]]] = ..., columns: _Optional[_Union[_forecast_pb2.ForecastColumns, _Mapping]] = ...) -> None: ...

class GetForecastRequest(_message.Message):
    __slots__ = ("model", "series_id", "options")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SERIES_ID_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    model: str
    series_id: str
    options: _forecast_pb2.ForecastOptions
    def __init__(self, model: _Optional[str] = ..., series_id: _Optional[str] = ..., options: _Optional[_Union[_forecast_pb2.ForecastOptions, _Mapping]] = ...) -> None: ...

class GetForecastResponse(_message.Message):
    __slots__ = ("forecast",)
    FORECAST_FIELD_NUMBER: _ClassVar[int]
    forecast: _forecast_pb2.SeriesForecast
    def __init__(self, forecast: _Optional[_Union[_forecast_pb2.SeriesForecast, _Mapping]] = ...) -> None: ...

class ForecastHistoryRequest(_message.Message):
    __slots__ = ("model", "observations", "columns", "attributes", "options")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    OBSERVATIONS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    model: str
    observations: _containers.RepeatedCompositeFieldContainer[_observation_pb2.Observation]
    columns: _observation_pb2.ObservationColumns
    attributes: _containers.RepeatedCompositeFieldContainer[_observation_pb2.SeriesAttributes]
    options: _forecast_pb2.ForecastOptions
    def __init__(self, model: _Optional[str] = ..., observations: _Optional[_Iterable[_Union[_observation_pb2.Observation, _Mapping]]] = ..., columns: _Optional[_Union[_observation_pb2.ObservationColumns, _Mapping]] = ..., attributes: _Optional[_Iterable[_Union[_observation_pb2.SeriesAttributes, _Mapping]]] = ..., options: _Optional[_Union[_forecast_pb2.ForecastOptions, _Mapping]] = ...) -> None: ...

class ForecastHistoryResponse(_message.Message):
    __slots__ = ("forecasts", "failures", "columns")
    FORECASTS_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    forecasts: _containers.RepeatedCompositeFieldContainer[_forecast_pb2.SeriesForecast]
    failures: _containers.RepeatedCompositeFieldContainer[_forecast_pb2.ForecastFailure]
    columns: _forecast_pb2.ForecastColumns
    def __init__(self, forecasts: _Optional[_Iterable[_Union[_forecast_pb2.SeriesForecast, _Mapping]]] = ..., failures: _Optional[_Iterable[_Union[_forecast_pb2.ForecastFailure, _Mapping]]] = ..., columns: _Optional[_Union[_forecast_pb2.ForecastColumns, _Mapping]] = ...) -> None: ...

class WatchForecastsRequest(_message.Message):
    __slots__ = ("model", "series_ids", "options")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SERIES_IDS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    model: str
    series_ids: _containers.RepeatedScalarFieldContainer[str]
    options: _forecast_pb2.ForecastOptions
    def __init__(self, model: _Optional[str] = ..., series_ids: _Optional[_Iterable[str]] = ..., options: _Optional[_Union[_forecast_pb2.ForecastOptions, _Mapping]] = ...) -> None: ...

class WatchForecastsResponse(_message.Message):
    __slots__ = ("forecasts", "failures", "columns")
    FORECASTS_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    forecasts: _containers.RepeatedCompositeFieldContainer[_forecast_pb2.SeriesForecast]
    failures: _containers.RepeatedCompositeFieldContainer[_forecast_pb2.ForecastFailure]
    columns: _forecast_pb2.ForecastColumns
    def __init__(self, forecasts: _Optional[_Iterable[_Union[_forecast_pb2.SeriesForecast, _Mapping]]] = ..., failures: _Optional[_Iterable[_Union[_forecast_pb2.ForecastFailure, _Mapping]]] = ..., columns: _Optional[_Union[_forecast_pb2.ForecastColumns, _Mapping]] = ...) -> None: ...

class StreamForecastsRequest(_message.Message):
    __slots__ = ("sequence", "model", "observations", "options", "attributes", "columns", "age", "replace")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    OBSERVATIONS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    AGE_FIELD_NUMBER: _ClassVar[int]
    REPLACE_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    model: str
    observations: _containers.RepeatedCompositeFieldContainer[_observation_pb2.Observation]
    options: _forecast_pb2.ForecastOptions
    attributes: _containers.RepeatedCompositeFieldContainer[_observation_pb2.SeriesAttributes]
    columns: _observation_pb2.ObservationColumns
    age: _duration_pb2.Duration
    replace: bool
    def __init__(self, sequence: _Optional[int] = ..., model: _Optional[str] = ..., observations: _Optional[_Iterable[_Union[_observation_pb2.Observation, _Mapping]]] = ..., options: _Optional[_Union[_forecast_pb2.ForecastOptions, _Mapping]] = ..., attributes: _Optional[_Iterable[_Union[_observation_pb2.SeriesAttributes, _Mapping]]] = ..., columns: _Optional[_Union[_observation_pb2.ObservationColumns, _Mapping]] = ..., age: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., replace: _Optional[bool] = ...) -> None: ...

class StreamForecastsResponse(_message.Message):
    __slots__ = ("sequence", "outcomes", "rejections", "durability", "forecasts", "failures", "columns")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    REJECTIONS_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    FORECASTS_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    outcomes: _containers.RepeatedScalarFieldContainer[_observation_pb2.Outcome]
    rejections: _containers.RepeatedCompositeFieldContainer[_observation_pb2.Rejection]
    durability: _observation_pb2.Durability
    forecasts: _containers.RepeatedCompositeFieldContainer[_forecast_pb2.SeriesForecast]
    failures: _containers.RepeatedCompositeFieldContainer[_forecast_pb2.ForecastFailure]
    columns: _forecast_pb2.ForecastColumns
    def __init__(self, sequence: _Optional[int] = ..., outcomes: _Optional[_Iterable[_Union[_observation_pb2.Outcome, str]]] = ..., rejections: _Optional[_Iterable[_Union[_observation_pb2.Rejection, _Mapping]]] = ..., durability: _Optional[_Union[_observation_pb2.Durability, str]] = ..., forecasts: _Optional[_Iterable[_Union[_forecast_pb2.SeriesForecast, _Mapping]]] = ..., failures: _Optional[_Iterable[_Union[_forecast_pb2.ForecastFailure, _Mapping]]] = ..., columns: _Optional[_Union[_forecast_pb2.ForecastColumns, _Mapping]] = ...) -> None: ...

class Series(_message.Message):
    __slots__ = ("series_id", "last_observation_time", "expected_time", "length", "observed_length", "model_name", "model_version", "state_age", "live", "failure", "attributes")
    SERIES_ID_FIELD_NUMBER: _ClassVar[int]
    LAST_OBSERVATION_TIME_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_TIME_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    OBSERVED_LENGTH_FIELD_NUMBER: _ClassVar[int]
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_AGE_FIELD_NUMBER: _ClassVar[int]
    LIVE_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    series_id: str
    last_observation_time: _timestamp_pb2.Timestamp
    expected_time: _timestamp_pb2.Timestamp
    length: int
    observed_length: int
    model_name: str
    model_version: str
    state_age: _duration_pb2.Duration
    live: _containers.RepeatedCompositeFieldContainer[LiveScores]
    failure: str
    attributes: _observation_pb2.SeriesAttributes
    def __init__(self, series_id: _Optional[str] = ..., last_observation_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., expected_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., length: _Optional[int] = ..., observed_length: _Optional[int] = ..., model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., state_age: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., live: _Optional[_Iterable[_Union[LiveScores, _Mapping]]] = ..., failure: _Optional[str] = ..., attributes: _Optional[_Union[_observation_pb2.SeriesAttributes, _Mapping]] = ...) -> None: ...

class LiveScores(_message.Message):
    __slots__ = ("horizon", "scored_count", "mase", "bias", "nominal_coverage", "coverage", "calibrated_coverage")
    HORIZON_FIELD_NUMBER: _ClassVar[int]
    SCORED_COUNT_FIELD_NUMBER: _ClassVar[int]
    MASE_FIELD_NUMBER: _ClassVar[int]
    BIAS_FIELD_NUMBER: _ClassVar[int]
    NOMINAL_COVERAGE_FIELD_NUMBER: _ClassVar[int]
    COVERAGE_FIELD_NUMBER: _ClassVar[int]
    CALIBRATED_COVERAGE_FIELD_NUMBER: _ClassVar[int]
    horizon: int
    scored_count: int
    mase: float
    bias: float
    nominal_coverage: float
    coverage: float
    calibrated_coverage: float
    def __init__(self, horizon: _Optional[int] = ..., scored_count: _Optional[int] = ..., mase: _Optional[float] = ..., bias: _Optional[float] = ..., nominal_coverage: _Optional[float] = ..., coverage: _Optional[float] = ..., calibrated_coverage: _Optional[float] = ...) -> None: ...

class GetSeriesRequest(_message.Message):
    __slots__ = ("model", "series_id")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SERIES_ID_FIELD_NUMBER: _ClassVar[int]
    model: str
    series_id: str
    def __init__(self, model: _Optional[str] = ..., series_id: _Optional[str] = ...) -> None: ...

class GetSeriesResponse(_message.Message):
    __slots__ = ("series",)
    SERIES_FIELD_NUMBER: _ClassVar[int]
    series: Series
    def __init__(self, series: _Optional[_Union[Series, _Mapping]] = ...) -> None: ...

class ListSeriesRequest(_message.Message):
    __slots__ = ("model", "page_size", "page_token", "prefix")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    model: str
    page_size: int
    page_token: str
    prefix: str
    def __init__(self, model: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., prefix: _Optional[str] = ...) -> None: ...

class ListSeriesResponse(_message.Message):
    __slots__ = ("series", "next_page_token", "total_size")
    SERIES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TOTAL_SIZE_FIELD_NUMBER: _ClassVar[int]
    series: _containers.RepeatedCompositeFieldContainer[Series]
    next_page_token: str
    total_size: int
    def __init__(self, series: _Optional[_Iterable[_Union[Series, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., total_size: _Optional[int] = ...) -> None: ...

class DeleteSeriesRequest(_message.Message):
    __slots__ = ("model", "series_id")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SERIES_ID_FIELD_NUMBER: _ClassVar[int]
    model: str
    series_id: str
    def __init__(self, model: _Optional[str] = ..., series_id: _Optional[str] = ...) -> None: ...

class DeleteSeriesResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
