import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTCOME_UNSPECIFIED: _ClassVar[Outcome]
    OUTCOME_APPLIED: _ClassVar[Outcome]
    OUTCOME_DUPLICATE: _ClassVar[Outcome]
    OUTCOME_REJECTED: _ClassVar[Outcome]
    OUTCOME_CORRECTED: _ClassVar[Outcome]
    OUTCOME_FILLED: _ClassVar[Outcome]

class Durability(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DURABILITY_UNSPECIFIED: _ClassVar[Durability]
    DURABILITY_COMMIT: _ClassVar[Durability]
    DURABILITY_INTERVAL: _ClassVar[Durability]
    DURABILITY_NONE: _ClassVar[Durability]
OUTCOME_UNSPECIFIED: Outcome
OUTCOME_APPLIED: Outcome
OUTCOME_DUPLICATE: Outcome
OUTCOME_REJECTED: Outcome
OUTCOME_CORRECTED: Outcome
OUTCOME_FILLED: Outcome
DURABILITY_UNSPECIFIED: Durability
DURABILITY_COMMIT: Durability
DURABILITY_INTERVAL: Durability
DURABILITY_NONE: Durability

class Observation(_message.Message):
    __slots__ = ("series_id", "observation_time", "value", "covariates")
    class CovariatesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    SERIES_ID_FIELD_NUMBER: _ClassVar[int]
    OBSERVATION_TIME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    COVARIATES_FIELD_NUMBER: _ClassVar[int]
    series_id: str
    observation_time: _timestamp_pb2.Timestamp
    value: float
    covariates: _containers.ScalarMap[str, float]
    def __init__(self, series_id: _Optional[str] = ..., observation_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., value: _Optional[float] = ..., covariates: _Optional[_Mapping[str, float]] = ...) -> None: ...

class CovariateColumn(_message.Message):
    __slots__ = ("name", "values", "missing_rows")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    MISSING_ROWS_FIELD_NUMBER: _ClassVar[int]
    name: str
    values: _containers.RepeatedScalarFieldContainer[float]
    missing_rows: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., values: _Optional[_Iterable[float]] = ..., missing_rows: _Optional[_Iterable[int]] = ...) -> None: ...

class SeriesAttributes(_message.Message):
    __slots__ = ("series_id", "numbers", "categories")
    class NumbersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class CategoriesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SERIES_ID_FIELD_NUMBER: _ClassVar[int]
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    CATEGORIES_FIELD_NUMBER: _ClassVar[int]
    series_id: str
    numbers: _containers.ScalarMap[str, float]
    categories: _containers.ScalarMap[str, str]
    def __init__(self, series_id: _Optional[str] = ..., numbers: _Optional[_Mapping[str, float]] = ..., categories: _Optional[_Mapping[str, str]] = ...) -> None: ...

class ObservationColumns(_message.Message):
    __slots__ = ("series_ids", "series_indices", "observation_times_us", "values", "missing_rows", "covariates")
    SERIES_IDS_FIELD_NUMBER: _ClassVar[int]
    SERIES_INDICES_FIELD_NUMBER: _ClassVar[int]
    OBSERVATION_TIMES_US_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    MISSING_ROWS_FIELD_NUMBER: _ClassVar[int]
    COVARIATES_FIELD_NUMBER: _ClassVar[int]
    series_ids: _containers.RepeatedScalarFieldContainer[str]
    series_indices: _containers.RepeatedScalarFieldContainer[int]
    observation_times_us: _containers.RepeatedScalarFieldContainer[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    missing_rows: _containers.RepeatedScalarFieldContainer[int]
    covariates: _containers.RepeatedCompositeFieldContainer[CovariateColumn]
    def __init__(self, series_ids: _Optional[_Iterable[str]] = ..., series_indices: _Optional[_Iterable[int]] = ..., observation_times_us: _Optional[_Iterable[int]] = ..., values: _Optional[_Iterable[float]] = ..., missing_rows: _Optional[_Iterable[int]] = ..., covariates: _Optional[_Iterable[_Union[CovariateColumn, _Mapping]]] = ...) -> None: ...

class Rejection(_message.Message):
    __slots__ = ("row", "code", "reason", "message", "expected_time", "stored_value")
    ROW_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_TIME_FIELD_NUMBER: _ClassVar[int]
    STORED_VALUE_FIELD_NUMBER: _ClassVar[int]
    row: int
    code: int
    reason: str
    message: str
    expected_time: _timestamp_pb2.Timestamp
    stored_value: float
    def __init__(self, row: _Optional[int] = ..., code: _Optional[int] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., expected_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., stored_value: _Optional[float] = ...) -> None: ...
