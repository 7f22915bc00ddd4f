"""Between the API's observations and the engine's columns: whole validation one way, packing the other.

Every check that needs no series state is here or in `forecast_messages`, so that a request is refused before any of
it is applied.

Shapes: N rows, C covariates.
"""

import asyncio
import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from google.protobuf.duration_pb2 import Duration

from forecaster.errors import InvalidArgumentError
from forecaster.model.bundle import Bundle
from forecaster.model.covariates import CovariateSpec
from forecaster.serving.api.forecast_messages import AnswerPlan, forecast_plan, forecast_work
from forecaster.serving.api.messages import (
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
)
from forecaster.serving.api.row_messages import from_rows
from forecaster.serving.intake.decoding import LARGE_BYTES
from forecaster.serving.intake.one_by_one import OneByOne
from forecaster.serving.storage.records import Attributes, Columns
from forecaster.serving.work.forecasting import ForecastWork
from forecaster.serving.work.observing import Chain, ObserveWork
from forecaster.v1 import forecast_pb2, forecast_service_pb2, observation_pb2

MAX_CATEGORY_CHARACTERS = 256
# Of messages and bytes of memory, some milliseconds: more are not validated on the event loop.
_MANY, _MANY_BYTES = 1000, 2 << 20
_FEW = 64
T = TypeVar("T")
Request = forecast_service_pb2.ObserveRequest | forecast_service_pb2.StreamForecastsRequest


class Plans:
    """The plan of a stream's options, which are the same in every message as a rule; read again when they are not."""

    def __init__(self) -> None:
        self._options: forecast_pb2.ForecastOptions | None = None
        self._bundle: Bundle | None = None
        self._plan: AnswerPlan | None = None

    @property
    def each(self) -> int:
        """The numbers that a series of the last message costs."""
        return 0 if self._plan is None else self._plan.each

    def work(
        self,
        series_ids: tuple[str, ...],
        options: forecast_pb2.ForecastOptions,
        bundle: Bundle,
        spec: CovariateSpec | None = None,
    ) -> ForecastWork:
        """Return what to forecast of series whose ids were checked; raises what `forecast_work` does."""
        if options.future_covariates:  # may be large, and are not kept
            self._plan, self._options = forecast_plan(options, bundle), None
            return forecast_work(series_ids, options, bundle, spec)
        if self._plan is None or options != self._options or bundle is not self._bundle:
            self._plan, self._options, self._bundle = forecast_plan(options, bundle), options, bundle
        return self._plan.work(series_ids)


class Validator:
    """Validates requests; large ones on a thread, one after another, so that the event loop goes on.

    Args:
        largest: most rows, and most of everything else, of one request.
        pieces: where those that are large, and not large enough for the thread, wait for their turn.
    """

    def __init__(self, largest: int, pieces: OneByOne) -> None:
        self._largest, self._pieces = largest, pieces
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="validation")

    async def work(
        self,
        request: Request,
        bundle: Bundle,
        chain: Chain | None = None,
        plans: Plans | None = None,
        spec: CovariateSpec | None = None,
        *,
        num_bytes: int = 0,
    ) -> ObserveWork:
        """Return what a request, which takes so much memory, asks for; see `observe_work`."""
        came = time.monotonic()  # before it waits for its turn
        validate = functools.partial(observe_work, request, bundle, self._largest, chain, plans, spec, came)
        return await self.run(validate, _messages(request), num_bytes)

    async def history(
        self, request: forecast_service_pb2.ForecastHistoryRequest, bundle: Bundle, *, num_bytes: int = 0
    ) -> ObserveWork:
        """Return what a request, which takes so much memory, asks for; see `history_work`."""
        validate = functools.partial(history_work, request, bundle, self._largest)
        return await self.run(validate, _messages(request), num_bytes)

    async def run(self, validate: Callable[[], T], messages: int, num_bytes: int) -> T:
        """Return what `validate` makes of a request: here if it holds few messages and bytes of memory."""
        if messages <= _MANY and num_bytes <= _MANY_BYTES:
            if messages > _FEW or num_bytes > LARGE_BYTES:
                await self._pieces.turn()
            return validate()
        return await asyncio.get_running_loop().run_in_executor(self._thread, validate)


def _messages(request: Request | forecast_service_pb2.ForecastHistoryRequest) -> int:
    return len(request.observations) + len(request.attributes) + len(request.options.future_covariates)


def observe_work(
    request: Request,
    bundle: Bundle,
    largest: int,
    chain: Chain | None = None,
    plans: Plans | None = None,
    spec: CovariateSpec | None = None,
    came: float | None = None,
) -> ObserveWork:
    """Return what a request asks for.

    Args:
        request: the message.
        bundle: the model.
        largest: most rows, and most of everything else, of one request.
        chain: the requests that this one follows.
        plans: of a stream, whose messages have the same options as a rule.
        spec: the covariates that may be given; left out, the model's.
        came: when it did, by `time.monotonic`; left out, now.

    Raises InvalidArgumentError naming the wrong fields, and UnsupportedError for forecasts that need another model.
    """
    spec = spec or bundle.model.covariates
    columns, attributes = _given(request, largest, spec)
    then = None
    if request.HasField("options"):
        then = (plans or Plans()).work(columns.series_ids, request.options, bundle, spec)
    sent_seconds = _first_sent(request.age, came) if request.HasField("age") else math.inf
    return ObserveWork(columns, attributes, then, chain, sent_seconds=sent_seconds, replaces=request.replace)


def history_work(request: forecast_service_pb2.ForecastHistoryRequest, bundle: Bundle, largest: int) -> ObserveWork:
    """Return what a request asks for whose series are kept nowhere, with forecasts; raises what `observe_work` does."""
    spec = bundle.model.covariates
    columns, attributes = _given(request, largest, spec)
    if request.options.calibrated:
        violations = Violations()
        violations.add("options.calibrated", "nothing is known of how intervals of these series held: leave it out")
        violations.raise_if_any()
    return ObserveWork(columns, attributes, Plans().work(columns.series_ids, request.options, bundle, spec))


def _given(
    request: Request | forecast_service_pb2.ForecastHistoryRequest, largest: int, spec: CovariateSpec
) -> tuple[Columns, Attributes | None]:
    """Return the observations of a request, which are rows or columns, and its static covariates."""
    packed = request.HasField("columns")
    if packed and request.observations:
        raise InvalidArgumentError("give observations or columns, not both")
    sizes = {"observations": len(request.observations), "attributes": len(request.attributes)}
    if packed:
        given = request.columns
        rows = max(len(given.series_indices), len(given.observation_times_us), len(given.values))
        sizes = {"columns": rows, "columns.series_ids": len(given.series_ids), "attributes": sizes["attributes"]}
    check_sizes(sizes, largest)
    columns = from_columns(request.columns, spec.dynamic) if packed else from_rows(request.observations, spec.dynamic)
    return columns, from_attributes(request.attributes, spec)


def _first_sent(age: Duration, came: float | None) -> float:
    violations = Violations()
    if age.seconds < 0 or age.nanos < 0:
        violations.add("age", "it is not a time ago")
    violations.raise_if_any()
    return (time.monotonic() if came is None else came) - age.seconds - age.nanos / 1e9


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
