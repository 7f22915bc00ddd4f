"""The one map from the project's errors to gRPC status codes, with `google.rpc` details."""

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
_MOST_DETAILS = 10
_MOST_CHARACTERS = 300
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


def shortened(text: str) -> str:
    """Return a text that fits a status: clients refuse more than some kilobytes of trailing metadata."""
    return text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 1] + "…"


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
        violations = [
            error_details_pb2.BadRequest.FieldViolation(field=shortened(v.field), description=shortened(v.description))
            for v in error.violations[:_MOST_DETAILS]
        ]
        return [error_details_pb2.BadRequest(field_violations=violations)]
    if isinstance(error, NotFoundError):
        return [
            error_details_pb2.ResourceInfo(resource_type=error.resource_type, resource_name=name)
            for name in error.resource_names[:_MOST_DETAILS]
        ]
    if isinstance(error, LimitReachedError | UnavailableError) and error.retry_after_seconds is not None:
        delay = Duration()
        delay.FromNanoseconds(int(error.retry_after_seconds * 1e9))
        return [error_details_pb2.RetryInfo(retry_delay=delay)]
    return []
