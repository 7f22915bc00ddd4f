"""Between the API's messages and the engine's columns: whole validation one way, packing the other.

Every check that needs no series state is here, so that a request is refused before any of it is applied.
"""

import datetime as dt
import itertools
import math
import re
from collections.abc import Iterable, Sequence

import numpy as np
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from forecaster.errors import ConflictError, FieldViolation, ForecasterError, InvalidArgumentError, OutOfOrderError
from forecaster.model.bundle import Bundle
from forecaster.serving.admission import to_datetime
from forecaster.serving.records import Columns
from forecaster.serving.status import status_code
from forecaster.serving.work import Forecasts, ForecastWork
from forecaster.v1 import forecast_pb2, observation_pb2

MAX_ID_CHARACTERS = 256
MAX_MAGNITUDE = 1e150  # of a value: sums and squares of such values are finite
MAX_FORECAST_VALUES = 4_194_304  # of one request: series × steps × (quantiles + 1)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # Unicode's category Cc
_MAX_VIOLATIONS = 10
_ALLOWED = f"a finite number of at most {MAX_MAGNITUDE:g}"
_MIN_TIME_US = -(2**53)  # 1684-07-28: far from the ends of what microseconds in 64 bits hold
_MAX_TIME_US = 2**53  # 2255-06-05


class Violations(list[FieldViolation]):
    """What is wrong with a request, by field."""

    def add(self, field: str, description: str) -> None:
        """Note one wrong field."""
        self.append(FieldViolation(field, description))

    def raise_if_any(self) -> None:
        """Raise InvalidArgumentError naming the first of them and how many there are."""
        if self:
            more = f" (and {len(self) - 1} more)" if len(self) > 1 else ""
            raise InvalidArgumentError(f"{self[0].field}: {self[0].description}{more}", self[:_MAX_VIOLATIONS])


def check_series_id(series_id: str, field: str, violations: Violations) -> None:
    """Note what is wrong with a series id."""
    if not 1 <= len(series_id) <= MAX_ID_CHARACTERS:
        violations.add(field, f"a series id has 1 to {MAX_ID_CHARACTERS} characters, not {len(series_id)}")
    elif _CONTROL.search(series_id):
        violations.add(field, "a series id holds no control characters")


def from_rows(rows: Sequence[observation_pb2.Observation]) -> Columns:
    """Return row messages as columns; raises InvalidArgumentError naming every wrong field."""
    violations = Violations()
    index: dict[str, int] = {}
    series = np.empty(len(rows), dtype=np.int32)
    time_us = np.empty(len(rows), dtype=np.int64)
    values = np.full(len(rows), math.nan)
    for i, row in enumerate(rows):
        if row.series_id not in index:
            check_series_id(row.series_id, f"observations[{i}].series_id", violations)
        series[i] = index.setdefault(row.series_id, len(index))
        stamp = row.observation_time
        if not row.HasField("observation_time"):
            violations.add(f"observations[{i}].observation_time", "the time is missing")
        elif not 0 <= stamp.nanos < 1_000_000_000:
            violations.add(f"observations[{i}].observation_time.nanos", f"{stamp.nanos} is not 0 to 999999999")
        elif stamp.nanos % 1000:
            violations.add(f"observations[{i}].observation_time", "times are in whole microseconds")
        elif not _MIN_TIME_US <= stamp.seconds * 1_000_000 <= _MAX_TIME_US:
            violations.add(f"observations[{i}].observation_time", "the time is outside the years 1685 to 2254")
        else:
            time_us[i] = stamp.seconds * 1_000_000 + stamp.nanos // 1000
        if row.HasField("value"):
            values[i] = row.value
            if not abs(row.value) <= MAX_MAGNITUDE:
                violations.add(f"observations[{i}].value", f"{row.value} is not {_ALLOWED}; leave a missing value out")
    violations.raise_if_any()
    return Columns(tuple(index), series, time_us, values)


def from_columns(message: observation_pb2.ObservationColumns) -> Columns:
    """Return packed columns; raises InvalidArgumentError naming the wrong fields."""
    violations = Violations()
    ids = tuple(message.series_ids)
    for i, series_id in enumerate(ids):
        check_series_id(series_id, f"columns.series_ids[{i}]", violations)
    if len(set(ids)) != len(ids):
        violations.add("columns.series_ids", "an id stands twice")
    series = np.array(message.series_indices, dtype=np.int64)
    time_us = np.array(message.observation_times_us, dtype=np.int64)
    values = np.array(message.values, dtype=np.float64)
    missing = np.array(message.missing_rows, dtype=np.int64)
    if not len(series) == len(time_us) == len(values):
        lengths = f"{len(series)} indices, {len(time_us)} times and {len(values)} values"
        violations.add("columns", f"the columns differ in length: {lengths}")
    if len(missing) and (missing.max() >= len(values) or (np.diff(missing) <= 0).any()):
        violations.add("columns.missing_rows", "they must ascend and lie within the rows")
    violations.raise_if_any()
    values[missing] = math.nan
    present = np.ones(len(values), dtype=bool)
    present[missing] = False
    for row in np.flatnonzero(series >= len(ids))[:_MAX_VIOLATIONS]:
        violations.add(f"columns.series_indices[{row}]", f"{series[row]} is not a position in series_ids")
    for row in np.flatnonzero(present & ~(np.abs(values) <= MAX_MAGNITUDE))[:_MAX_VIOLATIONS]:
        description = f"{values[row]} is not {_ALLOWED}; list a missing one in missing_rows"
        violations.add(f"columns.values[{row}]", description)
    for row in np.flatnonzero((time_us < _MIN_TIME_US) | (time_us > _MAX_TIME_US))[:_MAX_VIOLATIONS]:
        violations.add(f"columns.observation_times_us[{row}]", "the time is outside the years 1685 to 2254")
    violations.raise_if_any()
    return Columns(ids, series.astype(np.int32), time_us, values)


def forecast_work(series_ids: Iterable[str], options: forecast_pb2.ForecastOptions, bundle: Bundle) -> ForecastWork:
    """Return what to forecast; raises InvalidArgumentError naming the wrong fields."""
    violations = Violations()
    config = bundle.model.config
    ids = tuple(series_ids)
    if not ids:
        violations.add("series_ids", "name at least one series")
    for i, series_id in enumerate(ids):
        check_series_id(series_id, f"series_ids[{i}]", violations)
    if len(set(ids)) != len(ids):
        violations.add("series_ids", "an id stands twice")
    horizon = options.horizon or config.horizon
    if horizon > config.horizon:
        violations.add("options.horizon", f"{horizon} is beyond the model's horizon, 1 to {config.horizon} steps")
    trained = config.quantile_levels
    levels = tuple(options.quantile_levels) or trained
    if not all(trained[0] <= level <= trained[-1] for level in levels):
        allowed = f"{trained[0]} to {trained[-1]}"
        violations.add("options.quantile_levels", f"{list(levels)} leaves the trained range, {allowed}")
    elif any(b <= a for a, b in itertools.pairwise(levels)):
        violations.add("options.quantile_levels", f"{list(levels)} does not ascend")
    wanted = len(ids) * horizon * (1 + len(levels))
    if wanted > MAX_FORECAST_VALUES:
        violations.add("series_ids", f"{wanted} values in one answer, {MAX_FORECAST_VALUES} are allowed: split it")
    violations.raise_if_any()
    return ForecastWork(ids, horizon, levels)


def to_forecasts(
    answer: Forecasts, levels: Sequence[float], step_us: int, model: tuple[str, str]
) -> list[forecast_pb2.SeriesForecast]:
    """Return the engine's forecasts as messages; `model` is its name and version."""
    step = to_duration(step_us)
    name, version = model
    messages = []
    for i, series_id in enumerate(answer.series_ids):
        by_level = answer.quantiles[i].T
        paths = [forecast_pb2.QuantilePath(level=level, values=by_level[k].tolist()) for k, level in enumerate(levels)]
        messages.append(
            forecast_pb2.SeriesForecast(
                series_id=series_id,
                origin_time=to_timestamp(int(answer.origin_us[i])),
                step=step,
                values=answer.median[i].tolist(),
                quantiles=paths,
                model_name=name,
                model_version=version,
            )
        )
    return messages


def to_failures(answer: Forecasts) -> list[forecast_pb2.ForecastFailure]:
    """Return why series have no forecast."""
    return [
        forecast_pb2.ForecastFailure(
            series_id=series_id, code=status_code(error).value[0], reason=error.reason, message=str(error)
        )
        for series_id, error in answer.failures.items()
    ]


def to_rejections(errors: dict[int, ForecasterError]) -> list[observation_pb2.Rejection]:
    """Return why rows were refused, ascending by row."""
    messages = []
    for row, error in sorted(errors.items()):
        message = observation_pb2.Rejection(
            row=row, code=status_code(error).value[0], reason=error.reason, message=str(error)
        )
        if isinstance(error, OutOfOrderError) and error.expected_time is not None:
            message.expected_time.CopyFrom(_stamp(error.expected_time))
        if isinstance(error, ConflictError) and error.stored_value is not None:
            message.stored_value = error.stored_value
        messages.append(message)
    return messages


def to_timestamp(time_us: int) -> Timestamp:
    """Return microseconds since the Unix epoch as a message."""
    seconds, rest = divmod(time_us, 1_000_000)
    return Timestamp(seconds=seconds, nanos=rest * 1000)


def to_duration(duration_us: int) -> Duration:
    """Return non-negative microseconds as a message."""
    seconds, rest = divmod(duration_us, 1_000_000)
    return Duration(seconds=seconds, nanos=rest * 1000)


def _stamp(moment: dt.datetime) -> Timestamp:
    return to_timestamp((moment - to_datetime(0)) // dt.timedelta(microseconds=1))
