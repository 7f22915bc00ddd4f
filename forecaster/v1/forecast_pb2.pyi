import datetime

from forecaster.v1 import observation_pb2 as _observation_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ForecastOptions(_message.Message):
    __slots__ = ("horizon", "quantile_levels", "paths", "seed", "beams", "beam_width", "length_power", "future_covariates", "packed", "calibrated", "hypothetical", "await_corrections")
    HORIZON_FIELD_NUMBER: _ClassVar[int]
    QUANTILE_LEVELS_FIELD_NUMBER: _ClassVar[int]
    PATHS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    BEAMS_FIELD_NUMBER: _ClassVar[int]
    BEAM_WIDTH_FIELD_NUMBER: _ClassVar[int]
    LENGTH_POWER_FIELD_NUMBER: _ClassVar[int]
    FUTURE_COVARIATES_FIELD_NUMBER: _ClassVar[int]
    PACKED_FIELD_NUMBER: _ClassVar[int]
    CALIBRATED_FIELD_NUMBER: _ClassVar[int]
    HYPOTHETICAL_FIELD_NUMBER: _ClassVar[int]
    AWAIT_CORRECTIONS_FIELD_NUMBER: _ClassVar[int]
    horizon: int
    quantile_levels: _containers.RepeatedScalarFieldContainer[float]
    paths: int
    seed: int
    beams: int
    beam_width: int
    length_power: float
    future_covariates: _containers.RepeatedCompositeFieldContainer[FutureCovariates]
    packed: bool
    calibrated: bool
    hypothetical: bool
    await_corrections: bool
    def __init__(self, horizon: _Optional[int] = ..., quantile_levels: _Optional[_Iterable[float]] = ..., paths: _Optional[int] = ..., seed: _Optional[int] = ..., beams: _Optional[int] = ..., beam_width: _Optional[int] = ..., length_power: _Optional[float] = ..., future_covariates: _Optional[_Iterable[_Union[FutureCovariates, _Mapping]]] = ..., packed: _Optional[bool] = ..., calibrated: _Optional[bool] = ..., hypothetical: _Optional[bool] = ..., await_corrections: _Optional[bool] = ...) -> None: ...

class FutureCovariates(_message.Message):
    __slots__ = ("series_id", "covariates", "first_time")
    SERIES_ID_FIELD_NUMBER: _ClassVar[int]
    COVARIATES_FIELD_NUMBER: _ClassVar[int]
    FIRST_TIME_FIELD_NUMBER: _ClassVar[int]
    series_id: str
    covariates: _containers.RepeatedCompositeFieldContainer[_observation_pb2.CovariateColumn]
    first_time: _timestamp_pb2.Timestamp
    def __init__(self, series_id: _Optional[str] = ..., covariates: _Optional[_Iterable[_Union[_observation_pb2.CovariateColumn, _Mapping]]] = ..., first_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class QuantilePath(_message.Message):
    __slots__ = ("level", "values")
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    level: float
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, level: _Optional[float] = ..., values: _Optional[_Iterable[float]] = ...) -> None: ...

class Path(_message.Message):
    __slots__ = ("values", "log_probability")
    VALUES_FIELD_NUMBER: _ClassVar[int]
    LOG_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    log_probability: float
    def __init__(self, values: _Optional[_Iterable[float]] = ..., log_probability: _Optional[float] = ...) -> None: ...

class SeriesForecast(_message.Message):
    __slots__ = ("series_id", "origin_time", "step", "values", "quantiles", "model_name", "model_version", "end_probabilities", "paths")
    SERIES_ID_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_TIME_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    QUANTILES_FIELD_NUMBER: _ClassVar[int]
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    END_PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    PATHS_FIELD_NUMBER: _ClassVar[int]
    series_id: str
    origin_time: _timestamp_pb2.Timestamp
    step: _duration_pb2.Duration
    values: _containers.RepeatedScalarFieldContainer[float]
    quantiles: _containers.RepeatedCompositeFieldContainer[QuantilePath]
    model_name: str
    model_version: str
    end_probabilities: _containers.RepeatedScalarFieldContainer[float]
    paths: _containers.RepeatedCompositeFieldContainer[Path]
    def __init__(self, series_id: _Optional[str] = ..., origin_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., step: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., values: _Optional[_Iterable[float]] = ..., quantiles: _Optional[_Iterable[_Union[QuantilePath, _Mapping]]] = ..., model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., end_probabilities: _Optional[_Iterable[float]] = ..., paths: _Optional[_Iterable[_Union[Path, _Mapping]]] = ...) -> None: ...

class QuantileColumn(_message.Message):
    __slots__ = ("level", "values")
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    level: float
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, level: _Optional[float] = ..., values: _Optional[_Iterable[float]] = ...) -> None: ...

class ForecastColumns(_message.Message):
    __slots__ = ("series_ids", "origin_times_us", "step", "horizon", "values", "quantiles", "model_name", "model_version", "end_probabilities", "model_versions")
    SERIES_IDS_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_TIMES_US_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    HORIZON_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    QUANTILES_FIELD_NUMBER: _ClassVar[int]
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    END_PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSIONS_FIELD_NUMBER: _ClassVar[int]
    series_ids: _containers.RepeatedScalarFieldContainer[str]
    origin_times_us: _containers.RepeatedScalarFieldContainer[int]
    step: _duration_pb2.Duration
    horizon: int
    values: _containers.RepeatedScalarFieldContainer[float]
    quantiles: _containers.RepeatedCompositeFieldContainer[QuantileColumn]
    model_name: str
    model_version: str
    end_probabilities: _containers.RepeatedScalarFieldContainer[float]
    model_versions: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, series_ids: _Optional[_Iterable[str]] = ..., origin_times_us: _Optional[_Iterable[int]] = ..., step: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., horizon: _Optional[int] = ..., values: _Optional[_Iterable[float]] = ..., quantiles: _Optional[_Iterable[_Union[QuantileColumn, _Mapping]]] = ..., model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., end_probabilities: _Optional[_Iterable[float]] = ..., model_versions: _Optional[_Iterable[str]] = ...) -> None: ...

class ForecastFailure(_message.Message):
    __slots__ = ("series_id", "code", "reason", "message")
    SERIES_ID_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    series_id: str
    code: int
    reason: str
    message: str
    def __init__(self, series_id: _Optional[str] = ..., code: _Optional[int] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...
