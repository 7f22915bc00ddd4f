"""The engine's answers as the API's messages: outcomes, rejections, and forecasts for each series or as columns.

Shapes: N series, D horizon steps, W wanted quantile levels.
"""

import asyncio
import datetime as dt
import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from google.protobuf.duration_pb2 import Duration
from google.protobuf.internal.containers import RepeatedCompositeFieldContainer
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from forecaster.errors import ConflictError, ForecasterError, OutOfOrderError
from forecaster.packing import field_head, fill
from forecaster.serving.api.messages import to_timestamp
from forecaster.serving.api.status import MAX_ROW_TEXT_BYTES, shortened, status_code
from forecaster.serving.telemetry import REFUSALS
from forecaster.serving.work.admission import to_datetime
from forecaster.serving.work.forecasting import Drawn, Forecasts, ForecastWork, Search
from forecaster.serving.work.observing import Observed
from forecaster.v1 import forecast_pb2, forecast_service_pb2, observation_pb2

T = TypeVar("T", bound=Message)
Answer = (
    forecast_service_pb2.ForecastResponse
    | forecast_service_pb2.ForecastHistoryResponse
    | forecast_service_pb2.ObserveResponse
    | forecast_service_pb2.StreamForecastsResponse
    | forecast_service_pb2.WatchForecastsResponse
)
_FEW = 64  # rows
_COPIES = 4  # of an answer: arrays, message, bytes, and gRPC's own
_FEW_LEVELS = 100  # what is made of more is not kept: somebody may ask for others in each request
_BYTES_AT_ONCE = 1 << 20
_AT_ONCE = 128  # messages made before other calls have their turn, a few milliseconds


def answer_bytes(work: ForecastWork) -> int:
    """Return about how many bytes of memory the answer to a request for forecasts takes until it has been read."""
    drawing = work.drawing
    drawn = 0 if drawing is None else drawing.width if isinstance(drawing, Search) else drawing.paths
    return _COPIES * 8 * len(work.series_ids) * work.horizon * (1 + len(work.levels) + drawn)


async def add_outcomes(
    response: forecast_service_pb2.ObserveResponse | forecast_service_pb2.StreamForecastsResponse, observed: Observed
) -> None:
    """Add what became of each row."""
    if len(observed.outcomes) < _FEW:
        response.outcomes.extend(observed.outcomes.tolist())
    else:
        fill(response, outcomes=observed.outcomes)  # enumerations below 128 are one byte each
    if observed.errors:
        first = next(iter(observed.errors.values()))
        REFUSALS.say(("row", first.reason), lambda: f"a row rejected, {first.reason}: {shortened(str(first))}")
        await _add(response.rejections, to_rejections(observed.errors))


async def with_forecasts(
    response: Answer,
    answer: Forecasts,
    levels: Sequence[float],
    step: Duration,
    model: str,
    *,
    packed: bool,
) -> Message | bytes:
    """Return a response with the forecasts too, and why other series have none.

    Packed as columns they are bytes: to copy all numbers into a message and the message into bytes would keep everybody
    waiting, and takes several times as long.
    """
    if answer.failures:
        await _add(response.failures, to_failures(answer))
    if not packed:
        await _add(response.forecasts, to_forecasts(answer, levels, step, model))
        return response
    parts, size, before = [], 0, 0
    # Who watches has not asked for just these series.
    is_named = bool(answer.failures) or isinstance(response, forecast_service_pb2.WatchForecastsResponse)
    for part in _column_parts(answer, levels, step, model, is_named=is_named):
        parts.append(part)
        size += len(part)
        if size - before > _BYTES_AT_ONCE:
            before = size
            await asyncio.sleep(0)
    return b"".join([response.SerializeToString(), field_head(type(response), "columns", size), *parts])


async def _add(field: RepeatedCompositeFieldContainer[T], messages: Iterator[T]) -> None:
    while part := list(itertools.islice(messages, _AT_ONCE)):
        field.extend(part)
        if len(part) == _AT_ONCE:
            await asyncio.sleep(0)


def to_rejections(errors: dict[int, ForecasterError]) -> Iterator[observation_pb2.Rejection]:
    """Yield why rows were refused, ascending by row."""
    for row, error in sorted(errors.items(), key=lambda one: one[0]):
        message = observation_pb2.Rejection(
            row=row,
            code=status_code(error).value[0],
            reason=error.reason,
            message=shortened(str(error), MAX_ROW_TEXT_BYTES),
        )
        if isinstance(error, OutOfOrderError) and error.expected_time is not None:
            message.expected_time.CopyFrom(_stamp(error.expected_time))
        if isinstance(error, ConflictError) and error.stored_value is not None:
            message.stored_value = error.stored_value
        yield message


def _column_parts(
    answer: Forecasts, levels: Sequence[float], step: Duration, model: str, *, is_named: bool
) -> Iterator[bytes]:
    """Yield the bytes of the engine's forecasts as `ForecastColumns`, one part after the other; `model` is its name."""
    kind = forecast_pb2.ForecastColumns
    message = kind(step=step, horizon=answer.median.shape[1], model_name=model)
    if len(answer.versions) == 1 or len(set(answer.versions)) == 1:
        message.model_version = answer.versions[0]
    else:
        message.model_versions.extend(answer.versions)
    if is_named:
        message.series_ids.extend(answer.series_ids)
    yield message.SerializeToString()
    yield from _packed("origin_times_us", answer.origin_us.astype("<i8", copy=False))
    yield from _packed("values", answer.median.astype("<f8", copy=False))
    for k, level in enumerate(levels):
        numbers = answer.quantiles[:, :, k].astype("<f8", copy=False).tobytes()
        head = forecast_pb2.QuantileColumn(level=level).SerializeToString()
        head += field_head(forecast_pb2.QuantileColumn, "values", len(numbers))
        yield field_head(kind, "quantiles", len(head) + len(numbers)) + head
        yield numbers
    if answer.ended is not None:
        yield from _packed("end_probabilities", answer.ended.astype("<f8", copy=False))


def _packed(name: str, numbers: npt.NDArray[Any]) -> tuple[bytes, bytes]:
    return field_head(forecast_pb2.ForecastColumns, name, numbers.nbytes), numbers.tobytes()


def to_forecasts(
    answer: Forecasts, levels: Sequence[float], step: Duration, model: str
) -> Iterator[forecast_pb2.SeriesForecast]:
    """Yield the engine's forecasts as messages; `model` is its name."""
    versions = (
        answer.versions if len(answer.versions) == len(answer.series_ids) else itertools.repeat(answer.versions[0])
    )
    paths = np.concatenate([answer.median[:, None], answer.quantiles.transpose(0, 2, 1)], axis=1, dtype="<f8")
    shape = (tuple(levels), step.seconds, step.nanos, model)
    same_parts = _kept_parts if len(levels) <= _FEW_LEVELS else functools.cache(_same_parts)
    for i, (series_id, length, version) in enumerate(zip(answer.series_ids, _lengths(answer), versions, strict=False)):
        same, heads = same_parts(*shape, version, length)
        numbers, size = paths[i, :, :length].tobytes(), 8 * length
        parts = [same]
        for k, head in enumerate(heads):
            parts += (head, numbers[k * size : (k + 1) * size])
        message = forecast_pb2.SeriesForecast.FromString(b"".join(parts))
        message.series_id = series_id
        origin = message.origin_time
        origin.seconds, rest = divmod(int(answer.origin_us[i]), 1_000_000)
        origin.nanos = 1000 * rest
        if answer.ended is not None:
            message.end_probabilities.extend(answer.ended[i].tolist())
        if answer.drawn is not None:
            message.paths.extend(_paths(answer.drawn, i))
        yield message


def _same_parts(
    levels: tuple[float, ...], step_seconds: int, step_nanos: int, model: str, version: str, length: int
) -> tuple[bytes, tuple[bytes, ...]]:
    """Return of a `SeriesForecast` the bytes that do not depend on the series, which has `length` steps.

    Returns:
        Those before all numbers, and those before the values and before the values of each level. To set a field of a
        hundred numbers takes ten times as long as to parse it.
    """
    step = Duration(seconds=step_seconds, nanos=step_nanos)
    same = forecast_pb2.SeriesForecast(step=step, model_name=model, model_version=version).SerializeToString()
    size = 8 * length
    heads = [field_head(forecast_pb2.SeriesForecast, "values", size)]
    for level in levels:
        path = forecast_pb2.QuantilePath(level=level).SerializeToString()
        path += field_head(forecast_pb2.QuantilePath, "values", size)
        heads.append(field_head(forecast_pb2.SeriesForecast, "quantiles", len(path) + size) + path)
    return same, tuple(heads)


_kept_parts = functools.lru_cache(maxsize=256)(_same_parts)  # 3 MB at most


def to_failures(answer: Forecasts) -> Iterator[forecast_pb2.ForecastFailure]:
    """Yield why series have no forecast."""
    for series_id, error in answer.failures.items():
        yield forecast_pb2.ForecastFailure(
            series_id=series_id,
            code=status_code(error).value[0],
            reason=error.reason,
            message=shortened(str(error), MAX_ROW_TEXT_BYTES),
        )


def joined_failures(answer: Forecasts) -> ForecasterError:
    """Return one error for a request of which some series cannot be forecast: the first kind, all its names."""
    errors = list(answer.failures.values())
    first = errors[0]
    names = [name for name, error in answer.failures.items() if type(error) is type(first)]
    if len(names) == 1:
        return first
    shown = ", ".join(map(repr, names[:5])) + (", …" if len(names) > 5 else "")
    message = f"{len(names)} series cannot be forecast ({first.reason}): {shown}"
    joined = type(first)(message)
    if hasattr(joined, "resource_names"):
        joined.resource_names = tuple(names)
    if hasattr(joined, "retry_after_seconds"):
        joined.retry_after_seconds = first.retry_after_seconds  # type: ignore[attr-defined]
    return joined


def _lengths(answer: Forecasts) -> list[int]:
    """Return how many steps of each series are shown: those before it has more likely ended than not, one at least."""
    n, horizon = answer.median.shape
    if answer.ended is None:
        return [horizon] * n
    over = answer.ended > 0.5
    first = np.where(over.any(axis=1), over.argmax(axis=1), horizon)
    return np.maximum(first, 1).tolist()  # type: ignore[no-any-return]


def _paths(drawn: Drawn, i: int) -> list[forecast_pb2.Path]:
    """Return the paths of one series."""
    values, lengths = drawn.values[i], drawn.lengths[i].tolist()
    if drawn.log_probabilities is None:
        return [forecast_pb2.Path(values=path[:n].tolist()) for path, n in zip(values, lengths, strict=True)]
    return [
        forecast_pb2.Path(values=path[:n].tolist(), log_probability=log)
        for path, n, log in zip(values, lengths, drawn.log_probabilities[i].tolist(), strict=True)
        if log > -math.inf
    ]


def _stamp(moment: dt.datetime) -> Timestamp:
    return to_timestamp((moment - to_datetime(0)) // dt.timedelta(microseconds=1))
