"""Turns gRPC failures into the project's errors and says whether and when to try again.

Knows statuses and clocks; does not sleep and does not call.
"""

import datetime as dt
import random
import time
from dataclasses import dataclass
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

from forecaster import errors
from forecaster.errors import FieldViolation, ForecasterError

_TOO_LARGE = ("message larger than max", "metadata size exceeds")  # gRPC's own words
_SPLIT = "split it"  # the end of the server's sentence
_NOT_SPLIT = ("quantile_levels", "options.quantile_levels")  # of which each part of a request has all
_DETAILS_KEY = "grpc-status-details-bin"
_BY_REASON: dict[str, type[ForecasterError]] = {
    kind.reason: kind
    for kind in (
        errors.InvalidArgumentError,
        errors.UnsupportedError,
        errors.SeriesNotFoundError,
        errors.ModelNotFoundError,
        errors.FailedPreconditionError,
        errors.OutOfOrderError,
        errors.TooLittleHistoryError,
        errors.BrokenStateError,
        errors.ConflictError,
        errors.LimitReachedError,
        errors.UnavailableError,
        errors.ReturningError,
        errors.RefoldingError,
        errors.RegistryError,
        errors.StorageError,
        errors.InternalError,
    )
}
_BY_CODE: dict[grpc.StatusCode, type[ForecasterError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidArgumentError,
    grpc.StatusCode.NOT_FOUND: errors.NotFoundError,
    grpc.StatusCode.FAILED_PRECONDITION: errors.FailedPreconditionError,
    grpc.StatusCode.ALREADY_EXISTS: errors.ConflictError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.LimitReachedError,
    grpc.StatusCode.UNAVAILABLE: errors.UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineError,
    grpc.StatusCode.CANCELLED: errors.UnavailableError,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How long and how often a call is tried.

    Args:
        timeout_seconds: for the whole call, all tries together.
        first_delay_seconds: before the second try; doubled for each further one, with jitter.
        max_delay_seconds: between two tries.
    """

    timeout_seconds: float = 30.0
    first_delay_seconds: float = 0.05
    max_delay_seconds: float = 2.0


class StreamEnded(grpc.RpcError):
    """The server ended a stream without an error while a frame was unanswered: to be tried again."""

    def code(self) -> grpc.StatusCode:
        """Return UNAVAILABLE."""
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        """Return what happened."""
        return "the stream ended"

    def trailing_metadata(self) -> tuple[()]:
        """Return nothing."""
        return ()


class Attempts:
    """The tries of one call under a policy.

    Args:
        policy: how long and how often.
        address: of the server, for messages.
        gone_is_done: a retry that is told NOT_FOUND means that an earlier try did the work.
    """

    def __init__(self, policy: RetryPolicy, address: str, *, gone_is_done: bool = False) -> None:
        self._policy, self._address, self._gone_is_done = policy, address, gone_is_done
        self._began = time.monotonic()
        self._deadline = self._began + policy.timeout_seconds
        self._tries = 0

    @property
    def remaining_seconds(self) -> float:
        """Time left for the call, never below a millisecond."""
        return max(self._deadline - time.monotonic(), 0.001)

    def begin(self, request: Any) -> None:
        """Note in a request that can say it, if it is tried again, how long ago that was first done."""
        if self._tries:
            say_age(request, self._began)

    def was_done(self, failure: grpc.RpcError) -> bool:
        """Return whether a failure only says that an earlier try, whose answer was lost, did the work."""
        return self._gone_is_done and self._tries > 0 and failure.code() is grpc.StatusCode.NOT_FOUND

    def delay(self, failure: grpc.RpcError) -> float:
        """Return how long to wait before the next try; raises the failure's error if there is none."""
        error = to_error(failure, self._address)
        if not isinstance(error, errors.UnavailableError | errors.LimitReachedError):
            raise error from None  # it says all that gRPC's own does, on one line
        backoff = min(self._policy.first_delay_seconds * 2**self._tries, self._policy.max_delay_seconds)
        self._tries += 1
        asked = error.retry_after_seconds
        if asked is None:  # more of the same is no use
            raise error from None
        delay = max(asked, backoff * random.uniform(0.5, 1.0))  # jitter, so that clients do not return in step
        if time.monotonic() + delay >= self._deadline:
            raise error from None
        return float(delay)


def say_age(request: Any, began: float) -> None:
    """Note in a request that can say it when it was first sent, by `time.monotonic`: series deleted since stay so."""
    if "age" in request.DESCRIPTOR.fields_by_name:
        request.age.FromNanoseconds(max(int((time.monotonic() - began) * 1e9), 0))


def is_too_large(error: ForecasterError) -> bool:
    """Return whether a request was refused as a whole for its size, so that parts of it may be right."""
    if isinstance(error, errors.InvalidArgumentError):
        return any(v.description.endswith(_SPLIT) for v in error.violations if v.field not in _NOT_SPLIT)
    return isinstance(error, errors.LimitReachedError) and error.retry_after_seconds is None


def to_error(failure: grpc.RpcError, address: str) -> ForecasterError:
    """Return the error that a failed call means."""
    code, details = failure.code(), failure.details() or ""
    status = _status(failure)
    info = error_details_pb2.ErrorInfo()
    for detail in status.details:
        detail.Unpack(info)
    kind = _BY_REASON.get(info.reason) or _BY_CODE.get(code)
    if kind is None:
        return errors.InternalError(f"{address}: {code.name}: {details}", info.metadata.get("error_id", ""))
    if not info.reason and code is grpc.StatusCode.UNAVAILABLE:
        first = details.splitlines()[0] if details else code.name
        details = f"no server answers at {address}: is it running (forecaster serve)? {first}"
    if not info.reason and code is grpc.StatusCode.DEADLINE_EXCEEDED:
        details = f"no answer from {address} in time"
    return _build(kind, details, info, status)


def _build(  # noqa: PLR0911 -- one return for each kind of detail
    kind: type[ForecasterError], message: str, info: error_details_pb2.ErrorInfo, status: status_pb2.Status
) -> ForecasterError:
    if issubclass(kind, errors.OutOfOrderError):
        text = info.metadata.get("expected_time")
        return kind(message, dt.datetime.fromisoformat(text) if text else None)
    if issubclass(kind, errors.ConflictError):
        stored = info.metadata.get("stored_value")
        return kind(message, float(stored) if stored else None)
    if issubclass(kind, errors.InternalError):
        return kind(message, info.metadata.get("error_id", ""))
    if issubclass(kind, errors.InvalidArgumentError):
        found = error_details_pb2.BadRequest()
        for detail in status.details:
            detail.Unpack(found)
        return kind(message, [FieldViolation(v.field, v.description) for v in found.field_violations])
    if issubclass(kind, errors.NotFoundError):
        return kind(message, [_unpacked(d).resource_name for d in status.details if d.Is(_RESOURCE)])
    if issubclass(kind, errors.RegistryError):
        return kind(message)
    if issubclass(kind, errors.LimitReachedError | errors.UnavailableError):
        retry = error_details_pb2.RetryInfo()
        found_any = [detail.Unpack(retry) for detail in status.details]
        if issubclass(kind, errors.LimitReachedError) and not any(found_any):
            # Proxies refuse what is too much at once without a detail; what is too large stays too large.
            is_final = info.reason or any(text in message for text in _TOO_LARGE)
            return kind(message, None if is_final else 0.0)
        return kind(message, retry.retry_delay.ToNanoseconds() / 1e9)
    return kind(message)


_RESOURCE = error_details_pb2.ResourceInfo.DESCRIPTOR


def _unpacked(detail: object) -> error_details_pb2.ResourceInfo:
    info = error_details_pb2.ResourceInfo()
    detail.Unpack(info)  # type: ignore[attr-defined]
    return info


def _status(failure: grpc.RpcError) -> status_pb2.Status:
    """Return the `google.rpc.Status` among the trailing metadata, empty if there is none."""
    metadata: Any = failure.trailing_metadata() or ()
    for key, value in metadata:
        if key == _DETAILS_KEY:
            return status_pb2.Status.FromString(value)
    return status_pb2.Status()
