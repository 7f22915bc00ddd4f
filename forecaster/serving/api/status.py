"""The one map from the project's errors to gRPC status codes, with `google.rpc` details."""

import itertools

import grpc
from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from forecaster.errors import (
    ConflictError,
    DeadlineError,
    FailedPreconditionError,
    ForecasterError,
    InternalError,
    InvalidArgumentError,
    LimitReachedError,
    NotFoundError,
    OutOfOrderError,
    StateLostError,
    UnavailableError,
)

DOMAIN = "forecaster.v1"
DETAILS_KEY = "grpc-status-details-bin"
MAX_TEXT_BYTES = 1024
MAX_ROW_TEXT_BYTES = 512  # of what is said of a row or a series: there may be many
_MOST_DETAILS = 10
_MOST_DETAIL_BYTES = 1536  # all together: clients refuse more than 8 KB of trailing metadata, texts and all
_FIELD_BYTES, _NAME_BYTES = 256, 1024
_CODES: tuple[tuple[type[ForecasterError], grpc.StatusCode], ...] = (
    (InvalidArgumentError, grpc.StatusCode.INVALID_ARGUMENT),
    (NotFoundError, grpc.StatusCode.NOT_FOUND),
    (StateLostError, grpc.StatusCode.FAILED_PRECONDITION),  # trying again does not help
    (FailedPreconditionError, grpc.StatusCode.FAILED_PRECONDITION),
    (ConflictError, grpc.StatusCode.ALREADY_EXISTS),
    (LimitReachedError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (UnavailableError, grpc.StatusCode.UNAVAILABLE),
    (DeadlineError, grpc.StatusCode.DEADLINE_EXCEEDED),
    (InternalError, grpc.StatusCode.INTERNAL),
)


def shortened(text: str, most_bytes: int = MAX_TEXT_BYTES) -> str:
    """Return a text of at most so many bytes of UTF-8: what was sent is in its middle, what to do at its end."""
    if 4 * len(text) <= most_bytes:
        return text
    start, end = (part.encode(errors="replace") for part in (text[:most_bytes], text[-most_bytes:]))
    if len(text) <= most_bytes and len(start) <= most_bytes:
        return text
    kept = most_bytes - len("…".encode())
    return start[: kept - kept // 3].decode(errors="ignore") + "…" + end[-(kept // 3) :].decode(errors="ignore")


def status_code(error: ForecasterError) -> grpc.StatusCode:
    """Return the canonical code of an error."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), grpc.StatusCode.UNKNOWN)


def to_status(error: ForecasterError) -> status_pb2.Status:
    """Return an error as `google.rpc.Status` with an ErrorInfo and the detail of its kind."""
    status = status_pb2.Status(code=status_code(error).value[0], message=shortened(str(error)))
    for detail in (_error_info(error), *_details(error)):
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def _error_info(error: ForecasterError) -> error_details_pb2.ErrorInfo:
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)
    if isinstance(error, OutOfOrderError) and error.expected_time is not None:
        info.metadata["expected_time"] = error.expected_time.isoformat()
    if isinstance(error, ConflictError) and error.stored_value is not None:
        info.metadata["stored_value"] = repr(error.stored_value)
    if isinstance(error, InternalError):
        info.metadata["error_id"] = error.error_id
    return info


def _details(error: ForecasterError) -> list[Message]:
    if isinstance(error, InvalidArgumentError):
        return [error_details_pb2.BadRequest(field_violations=_violations(error))]
    if isinstance(error, NotFoundError):
        names = [shortened(name, _NAME_BYTES) for name in error.resource_names[:_MOST_DETAILS]]
        sizes = itertools.accumulate(len(name.encode()) for name in names)
        return [
            error_details_pb2.ResourceInfo(resource_type=error.resource_type, resource_name=name)
            for name, size in zip(names, sizes, strict=True)
            if size <= _MOST_DETAIL_BYTES
        ]
    if isinstance(error, LimitReachedError | UnavailableError) and error.retry_after_seconds is not None:
        delay = Duration()
        delay.FromNanoseconds(int(error.retry_after_seconds * 1e9))
        return [error_details_pb2.RetryInfo(retry_delay=delay)]
    return []


def _violations(error: InvalidArgumentError) -> list[error_details_pb2.BadRequest.FieldViolation]:
    """Return the first wrong fields, as many as fit."""
    found, size = [], 0
    for violation in error.violations[:_MOST_DETAILS]:
        field, text = shortened(violation.field, _FIELD_BYTES), shortened(violation.description, MAX_ROW_TEXT_BYTES)
        size += len(field.encode()) + len(text.encode())
        if size > _MOST_DETAIL_BYTES:
            break
        found.append(error_details_pb2.BadRequest.FieldViolation(field=field, description=text))
    return found
