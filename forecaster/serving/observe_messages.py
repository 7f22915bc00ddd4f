"""Between the API's observations and the engine's columns: whole validation one way, packing the other.

Every check that needs no series state is here or in `forecast_messages`, so that a request is refused before any of
it is applied.

Shapes: N rows, C covariates.
"""

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from forecaster.errors import InvalidArgumentError
from forecaster.model.bundle import Bundle
from forecaster.model.covariates import CovariateSpec
from forecaster.serving.forecast_messages import Plan, forecast_plan, forecast_work
from forecaster.serving.messages import (
    ALLOWED,
    MAX_MAGNITUDE,
    MAX_TIME_US,
    MAX_VIOLATIONS,
    MIN_TIME_US,
    Violations,
    check_name,
    check_number,
    check_series_id,
    check_series_ids,
    covariate_columns,
    packed,
    time_us,
)
from forecaster.serving.records import Attributes, Columns
from forecaster.serving.work import Chain, ForecastWork, ObserveWork
from forecaster.v1 import forecast_pb2, forecast_service_pb2, observation_pb2

MAX_CATEGORY_CHARACTERS = 256


class Plans:
    """The plan of a stream's options, which are the same in every message as a rule; read again when they are not."""

    def __init__(self) -> None:
        self._options: forecast_pb2.ForecastOptions | None = None
        self._bundle: Bundle | None = None
        self._plan: Plan | None = None

    @property
    def each(self) -> int:
        """The numbers that a series of the last message costs."""
        return 0 if self._plan is None else self._plan.each

    def work(self, series_ids: tuple[str, ...], options: forecast_pb2.ForecastOptions, bundle: Bundle) -> ForecastWork:
        """Return what to forecast of series whose ids were checked; raises what `forecast_work` does."""
        if self._plan is None or options != self._options or bundle is not self._bundle:
            self._plan, self._options, self._bundle = forecast_plan(options, bundle), options, bundle
        if options.future_covariates:
            return forecast_work(series_ids, options, bundle)
        return self._plan.work(series_ids)


def observe_work(
    request: forecast_service_pb2.ObserveRequest | forecast_service_pb2.StreamForecastsRequest,
    bundle: Bundle,
    largest: int,
    chain: Chain | None = None,
    plans: Plans | None = None,
) -> ObserveWork:
    """Return what a request asks for.

    Args:
        request: the message.
        bundle: the model.
        largest: most rows, and most of everything else, of one request.
        chain: the requests that this one follows.
        plans: of a stream, where forecasts may be asked for too.

    Raises InvalidArgumentError naming the wrong fields, and UnsupportedError for forecasts that need another model.
    """
    packed = request.HasField("columns")
    if packed and request.observations:
        raise InvalidArgumentError("give observations or columns, not both")
    sizes = {"observations": len(request.observations), "attributes": len(request.attributes)}
    if packed:
        given = request.columns
        rows = max(len(given.series_indices), len(given.observation_times_us), len(given.values))
        sizes = {"columns": rows, "columns.series_ids": len(given.series_ids), "attributes": sizes["attributes"]}
    check_sizes(sizes, largest)
    spec = bundle.model.covariates
    columns = from_columns(request.columns, spec.dynamic) if packed else from_rows(request.observations, spec.dynamic)
    then = None
    if plans is not None and request.HasField("options"):
        then = plans.work(columns.series_ids, request.options, bundle)  # type: ignore[union-attr]
    return ObserveWork(columns, from_attributes(request.attributes, spec), then, chain)


def check_sizes(sizes: Mapping[str, int], largest: int) -> None:
    """Raise InvalidArgumentError if a request is empty, or one of its fields is larger than any may be."""
    if 0 < max(sizes.values()) <= largest:
        return
    violations = Violations()
    for name, count in sizes.items():
        if count > largest:
            violations.add(name, f"{count} in one request, {largest} are allowed: split it")
    if not any(sizes.values()):
        violations.add(next(iter(sizes)), "it is empty")
    violations.raise_if_any()


def from_rows(rows: Sequence[observation_pb2.Observation], known: Sequence[str] = ()) -> Columns:
    """Return row messages as columns; raises InvalidArgumentError naming every wrong field.

    Args:
        rows: the messages.
        known: the names of the model's past and known-future covariates.
    """
    violations = Violations()
    index: dict[str, int] = {}
    series, times, values = [], [], []
    for i, row in enumerate(rows):
        series_id = row.series_id
        if series_id not in index:
            check_series_id(series_id, f"observations[{i}].series_id", violations)
            index[series_id] = len(index)
        series.append(index[series_id])
        times.append(_row_time(row, i, violations))
        value = row.value
        if value == 0 and not row.HasField("value"):
            value = math.nan
        elif not abs(value) <= MAX_MAGNITUDE:
            violations.add(f"observations[{i}].value", f"{value} is not {ALLOWED}; leave a missing value out")
        values.append(value)
    beside = _row_covariates(rows, known, violations)
    violations.raise_if_any()
    names = () if beside is None else tuple(known)
    columns = (np.array(series, np.int32), np.array(times, np.int64), np.array(values, np.float64))
    return Columns(tuple(index), *columns, names, beside)


def _row_time(row: observation_pb2.Observation, i: int, violations: Violations) -> int:
    """Return a row's time in microseconds; notes what is wrong with it."""
    stamp = row.observation_time
    nanos, seconds_us = stamp.nanos, stamp.seconds * 1_000_000
    if nanos == 0 and seconds_us and MIN_TIME_US <= seconds_us <= MAX_TIME_US:
        return seconds_us
    if not row.HasField("observation_time"):
        violations.add(f"observations[{i}].observation_time", "the time is missing")
        return 0
    return time_us(stamp, f"observations[{i}].observation_time", violations)


def _row_covariates(
    rows: Sequence[observation_pb2.Observation], known: Sequence[str], violations: Violations
) -> npt.NDArray[np.float64] | None:
    """Return the rows' covariates in the order of `known`, [N, C]; None if there are none."""
    beside: npt.NDArray[np.float64] | None = None
    # To look into every row costs as much as reading its value, and where nothing is known could only find the unused.
    for i, row in enumerate(rows if known else itertools.islice(rows, 1)):
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
    ids = tuple(message.series_ids[:])  # a slice is taken as a whole, an iterator one by one
    check_series_ids(ids, "columns.series_ids", violations)
    series = np.array(message.series_indices, dtype=np.int64)
    times = np.array(message.observation_times_us, dtype=np.int64)
    values = packed(message.values, message.missing_rows, "columns", violations)
    if not len(series) == len(times) == len(values):
        lengths = f"{len(series)} indices, {len(times)} times and {len(values)} values"
        violations.add("columns", f"the columns differ in length: {lengths}")
    what = "past or known-future covariate"
    names, beside = covariate_columns(message.covariates, known, what, "columns", violations)
    if beside is not None and len(beside) != len(values):
        violations.add("columns.covariates", f"{len(beside)} values of a covariate, and {len(values)} rows")
    violations.raise_if_any()
    for row in np.flatnonzero(series >= len(ids))[:MAX_VIOLATIONS]:
        violations.add(f"columns.series_indices[{row}]", f"{series[row]} is not a position in series_ids")
    for row in np.flatnonzero((times < MIN_TIME_US) | (times > MAX_TIME_US))[:MAX_VIOLATIONS]:
        violations.add(f"columns.observation_times_us[{row}]", "the time is outside the years 1685 to 2254")
    violations.raise_if_any()
    return Columns(ids, series.astype(np.int32), times, values, names, beside)


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
