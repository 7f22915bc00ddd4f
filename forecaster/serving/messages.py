"""Between the API's messages and the engine's columns: whole validation one way, packing the other.

Every check that needs no series state is here or in `forecast_messages`, so that a request is refused before any of
it is applied.

Shapes: N rows, C covariates.
"""

import datetime as dt
import math
import re
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from forecaster.errors import ConflictError, FieldViolation, ForecasterError, InvalidArgumentError, OutOfOrderError
from forecaster.model.covariates import CovariateSpec
from forecaster.serving.admission import to_datetime
from forecaster.serving.records import Attributes, Columns
from forecaster.serving.status import status_code
from forecaster.v1 import observation_pb2

MAX_ID_CHARACTERS = 256
MAX_CATEGORY_CHARACTERS = 256
MAX_MAGNITUDE = 1e150  # of a value: sums and squares of such values are finite
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


def check_name(name: str, known: Sequence[str], what: str, field: str, violations: Violations) -> bool:
    """Note a name that the model does not know; return whether it does."""
    if name in known:
        return True
    shown = f"it knows {', '.join(known)}" if known else "it knows none"
    violations.add(field, f"{name!r} is no {what} of the model: {shown}")
    return False


def check_number(value: float, field: str, violations: Violations) -> None:
    """Note a number that is not finite or too large."""
    if not abs(value) <= MAX_MAGNITUDE:
        violations.add(field, f"{value} is not {_ALLOWED}; leave a missing one out")


def time_us(stamp: Timestamp, field: str, violations: Violations) -> int:
    """Return a time in microseconds; notes what is wrong with it."""
    if not 0 <= stamp.nanos < 1_000_000_000:
        violations.add(f"{field}.nanos", f"{stamp.nanos} is not 0 to 999999999")
    elif stamp.nanos % 1000:
        violations.add(field, "times are in whole microseconds")
    elif not _MIN_TIME_US <= stamp.seconds * 1_000_000 <= _MAX_TIME_US:
        violations.add(field, "the time is outside the years 1685 to 2254")
    else:
        return stamp.seconds * 1_000_000 + stamp.nanos // 1000
    return 0


def from_rows(rows: Sequence[observation_pb2.Observation], known: Sequence[str] = ()) -> Columns:
    """Return row messages as columns; raises InvalidArgumentError naming every wrong field.

    Args:
        rows: the messages.
        known: the names of the model's past and known-future covariates.
    """
    violations = Violations()
    index: dict[str, int] = {}
    series = np.empty(len(rows), dtype=np.int32)
    times = np.empty(len(rows), dtype=np.int64)
    values = np.full(len(rows), math.nan)
    for i, row in enumerate(rows):
        if row.series_id not in index:
            check_series_id(row.series_id, f"observations[{i}].series_id", violations)
        series[i] = index.setdefault(row.series_id, len(index))
        stamp = row.observation_time
        seconds, nanos = stamp.seconds, stamp.nanos
        if not row.HasField("observation_time"):
            violations.add(f"observations[{i}].observation_time", "the time is missing")
        elif 0 <= nanos < 1_000_000_000 and not nanos % 1000 and _MIN_TIME_US <= seconds * 1_000_000 <= _MAX_TIME_US:
            times[i] = seconds * 1_000_000 + nanos // 1000
        else:
            time_us(stamp, f"observations[{i}].observation_time", violations)  # says what is wrong
        if row.HasField("value"):
            values[i] = row.value
            if not abs(row.value) <= MAX_MAGNITUDE:
                violations.add(f"observations[{i}].value", f"{row.value} is not {_ALLOWED}; leave a missing value out")
    beside = _row_covariates(rows, known, violations)
    violations.raise_if_any()
    names = () if beside is None else tuple(known)
    return Columns(tuple(index), series, times, values, names, beside)


def _row_covariates(
    rows: Sequence[observation_pb2.Observation], known: Sequence[str], violations: Violations
) -> npt.NDArray[np.float64] | None:
    """Return the rows' covariates in the order of `known`, [N, C]; None if there are none."""
    if not known:
        rows = rows[:1]  # to look into every row costs as much as reading its value, and could only find what is unused
    beside: npt.NDArray[np.float64] | None = None
    for i, row in enumerate(rows):
        for name, value in row.covariates.items():
            field = f"observations[{i}].covariates[{name!r}]"
            if check_name(name, known, "past or known-future covariate", field, violations):
                check_number(value, field, violations)
                if beside is None:
                    beside = np.full((len(rows), len(known)), math.nan)
                beside[i, known.index(name)] = value
    return beside


def from_columns(message: observation_pb2.ObservationColumns, known: Sequence[str] = ()) -> Columns:
    """Return packed columns; raises InvalidArgumentError naming the wrong fields; see `from_rows`."""
    violations = Violations()
    ids = tuple(message.series_ids)
    for i, series_id in enumerate(ids):
        check_series_id(series_id, f"columns.series_ids[{i}]", violations)
    if len(set(ids)) != len(ids):
        violations.add("columns.series_ids", "an id stands twice")
    series = np.array(message.series_indices, dtype=np.int64)
    times = np.array(message.observation_times_us, dtype=np.int64)
    if not len(series) == len(times) == len(message.values):
        lengths = f"{len(series)} indices, {len(times)} times and {len(message.values)} values"
        violations.add("columns", f"the columns differ in length: {lengths}")
    values = packed(message.values, message.missing_rows, "columns", violations)
    what = "past or known-future covariate"
    names, beside = covariate_columns(message.covariates, known, what, "columns", violations)
    if beside is not None and len(beside) != len(values):
        violations.add("columns.covariates", f"{len(beside)} values of a covariate, and {len(values)} rows")
    violations.raise_if_any()
    for row in np.flatnonzero(series >= len(ids))[:_MAX_VIOLATIONS]:
        violations.add(f"columns.series_indices[{row}]", f"{series[row]} is not a position in series_ids")
    for row in np.flatnonzero((times < _MIN_TIME_US) | (times > _MAX_TIME_US))[:_MAX_VIOLATIONS]:
        violations.add(f"columns.observation_times_us[{row}]", "the time is outside the years 1685 to 2254")
    violations.raise_if_any()
    return Columns(ids, series.astype(np.int32), times, values, names, beside)


def packed(
    given: Iterable[float], missing_rows: Iterable[int], field: str, violations: Violations
) -> npt.NDArray[np.float64]:
    """Return a packed column, NaN where missing; notes what is wrong with it."""
    values = np.array(given, dtype=np.float64)
    missing = np.array(missing_rows, dtype=np.int64)
    if len(missing) and (missing.max() >= len(values) or (np.diff(missing) <= 0).any()):
        violations.add(f"{field}.missing_rows", "they must ascend and lie within the rows")
        return values
    wrong = ~(np.abs(values) <= MAX_MAGNITUDE)
    wrong[missing] = False
    for row in np.flatnonzero(wrong)[:_MAX_VIOLATIONS]:
        violations.add(f"{field}.values[{row}]", f"{values[row]} is not {_ALLOWED}; list a missing one in missing_rows")
    values[missing] = math.nan
    return values


def covariate_columns(
    messages: Sequence[observation_pb2.CovariateColumn],
    known: Sequence[str],
    what: str,
    field: str,
    violations: Violations,
) -> tuple[tuple[str, ...], npt.NDArray[np.float64] | None]:
    """Return the names and values of packed covariates, [rows, C]; notes what is wrong with them.

    Args:
        messages: one for each covariate.
        known: names that may be given.
        what: those names are.
        field: where the messages are.
        violations: what is wrong.
    """
    names = tuple(message.name for message in messages)
    if not names:
        return (), None
    parts = []
    for k, message in enumerate(messages):
        where = f"{field}.covariates[{k}]"
        check_name(message.name, known, what, f"{where}.name", violations)
        if message.name in names[:k]:
            violations.add(f"{where}.name", f"{message.name!r} stands twice")
        parts.append(packed(message.values, message.missing_rows, where, violations))
    if len({len(part) for part in parts}) > 1:
        violations.add(f"{field}.covariates", "the columns differ in length")
        return names, None
    return names, np.stack(parts, axis=1)


def from_attributes(messages: Sequence[observation_pb2.SeriesAttributes], spec: CovariateSpec) -> Attributes | None:
    """Return static covariates, None without any; raises InvalidArgumentError naming the wrong fields."""
    if not messages:
        return None
    violations = Violations()
    numbers, categories = ([one.name for one in part] for part in (spec.static, spec.categories))
    for i, message in enumerate(messages):
        where = f"attributes[{i}]"
        check_series_id(message.series_id, f"{where}.series_id", violations)
        for name, value in message.numbers.items():
            field = f"{where}.numbers[{name!r}]"
            if check_name(name, numbers, "static covariate", field, violations):
                check_number(value, field, violations)
        for name, text in message.categories.items():
            field = f"{where}.categories[{name!r}]"
            known = check_name(name, categories, "static category", field, violations)
            if known and len(text) > MAX_CATEGORY_CHARACTERS:
                violations.add(field, f"a category has at most {MAX_CATEGORY_CHARACTERS} characters, not {len(text)}")
    ids = tuple(message.series_id for message in messages)
    if len(set(ids)) != len(ids):
        violations.add("attributes", "a series stands twice")
    violations.raise_if_any()
    return Attributes(
        ids,
        tuple(dict(message.numbers) for message in messages),
        tuple(dict(message.categories) for message in messages),
    )


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
