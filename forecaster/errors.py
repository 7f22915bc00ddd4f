"""Every error that the project raises on purpose, in one tree, each with a stable reason.

    ForecasterError
    ├── InvalidArgumentError            the caller's input is wrong; fix it
    │   ├── DataError                   a data file or frame
    │   ├── ConfigError                 a configuration value
    │   │   └── CheckpointError         the checkpoint to continue from is torn, or another training's
    │   ├── BundleError                 a model bundle
    │   └── UnsupportedError            the model cannot do that; another one could
    ├── NotFoundError
    │   ├── SeriesNotFoundError
    │   └── ModelNotFoundError
    ├── FailedPreconditionError         right input, wrong moment
    │   ├── OutOfOrderError             older than the series' clock
    │   ├── TooLittleHistoryError
    │   └── BrokenStateError            the series' state is not finite; it starts afresh
    ├── ConflictError                   same time, different value
    ├── LimitReachedError               a queue, series or rate limit
    ├── UnavailableError                draining, recovering, or not reachable
    │   ├── ReturningError              series that were not observed for long are being folded again
    │   ├── RefoldingError              series with late or corrected values are being folded again
    │   ├── RegistryError               the server's model store does not answer, the server does
    │   └── StorageError                the journal cannot be written or read
    │       ├── FencedError             another server has taken the series over
    │       ├── DamagedHistoryError     what left the journal cannot be read, in part
    │       └── StateLostError          the states of some series are lost, or cannot be had until files are restored
    ├── DeadlineError                   no answer in time
    └── InternalError                   a defect of ours; carries an id that the log has

This module knows nothing of gRPC: `forecaster.serving.api.status` maps the tree to status codes on the
server, `forecaster.client.transport.retry` maps it back for the caller.
"""

import copy
import datetime as dt
from collections.abc import Sequence
from typing import ClassVar, NamedTuple, Self

_NAMED = 10  # series in a line


class FieldViolation(NamedTuple):
    """One wrong field: its path in the request or configuration, and what is wrong with it."""

    field: str
    description: str


class ForecasterError(Exception):
    """The root of the tree. `str(error)` is one line for a person: what is wrong and what to do.

    Attributes:
        lasting: whether the same fails again until somebody changes something; else it may pass by itself. What is
            usual of a class stands there, `for_good` says it of one error.
        clients_line: what clients of a server are told instead, because the line names places of the machine.
    """

    reason: ClassVar[str] = "UNKNOWN"
    lasting: bool = True
    clients_line: str | None = None

    def for_good(self) -> Self:
        """Return this error, which will not pass by itself."""
        self.lasting = True
        return self

    def told_as(self, line: str) -> Self:
        """Return this error with another line for clients of a server."""
        self.clients_line = line
        return self

    @property
    def told(self) -> str:
        """The line for clients of a server."""
        return str(self) if self.clients_line is None else self.clients_line

    def for_clients(self) -> Self:
        """Return the error as clients of a server may have it."""
        if self.clients_line is None:
            return self
        shown = copy.copy(self)
        shown.args = (self.clients_line,)
        return shown


class InvalidArgumentError(ForecasterError, ValueError):
    """The caller's input is wrong, whatever the moment."""

    reason = "INVALID_ARGUMENT"

    def __init__(self, message: str, violations: Sequence[FieldViolation] = ()) -> None:
        super().__init__(message)
        self.violations = tuple(violations)


class DataError(InvalidArgumentError):
    """A data file or frame does not hold what was declared."""

    reason = "DATA_INVALID"


class ConfigError(InvalidArgumentError):
    """A configuration value is out of its range or contradicts another."""

    reason = "CONFIG_INVALID"


class CheckpointError(ConfigError):
    """The checkpoint that a training was to continue from is torn, or another training's."""

    reason = "CHECKPOINT_INVALID"


class BundleError(InvalidArgumentError):
    """A model bundle is incomplete, or its weights do not fit its configuration."""

    reason = "BUNDLE_INVALID"


class UnsupportedError(InvalidArgumentError):
    """What is asked for needs another kind of model."""

    reason = "UNSUPPORTED"


class NotFoundError(ForecasterError):
    """Something named does not exist. `resource_type` and `resource_name` say what."""

    reason = "NOT_FOUND"
    resource_type: ClassVar[str] = "resource"

    def __init__(self, message: str, resource_names: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.resource_names = tuple(resource_names)


class SeriesNotFoundError(NotFoundError):
    """The server holds no such series."""

    reason = "SERIES_NOT_FOUND"
    resource_type = "forecaster.v1.Series"


class ModelNotFoundError(NotFoundError):
    """No such model is served or registered."""

    reason = "MODEL_NOT_FOUND"
    resource_type = "forecaster.v1.Model"


class FailedPreconditionError(ForecasterError):
    """The request is right but the series is not in the state that it needs."""

    reason = "FAILED_PRECONDITION"


class OutOfOrderError(FailedPreconditionError):
    """The observation is older than the series' clock; `expected_time` is the next one it takes."""

    reason = "OUT_OF_ORDER"

    def __init__(self, message: str, expected_time: dt.datetime | None = None) -> None:
        super().__init__(message)
        self.expected_time = expected_time


class TooLittleHistoryError(FailedPreconditionError):
    """The series has seen too few values to be forecast."""

    reason = "TOO_LITTLE_HISTORY"


class BrokenStateError(FailedPreconditionError):
    """The model's state of the series is not made of finite numbers any more; the series has started afresh."""

    reason = "STATE_BROKEN"


class ConflictError(ForecasterError):
    """The series holds another value at that time; `stored_value` is None if it holds a missing one."""

    reason = "CONFLICTING_VALUE"

    def __init__(self, message: str, stored_value: float | None = None) -> None:
        super().__init__(message)
        self.stored_value = stored_value


class LimitReachedError(ForecasterError):
    """A limit of a queue, of series or of a rate: backpressure; retry after `retry_after_seconds`, None if no use."""

    reason = "LIMIT_REACHED"
    lasting = False

    def __init__(self, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class UnavailableError(ForecasterError):
    """The server cannot answer now; try again after `retry_after_seconds`, None if that is no use for now."""

    reason = "UNAVAILABLE"
    lasting = False

    def __init__(self, message: str, retry_after_seconds: float | None = 1.0) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class ReturningError(UnavailableError):
    """Series that were not observed for long are being folded again: they take observations shortly.

    Args:
        series_ids: these, or the line that a server told.
        retry_after_seconds: see `UnavailableError`.
    """

    reason = "SERIES_RETURNING"

    def __init__(self, series_ids: Sequence[str] | str, retry_after_seconds: float | None = 0.1) -> None:
        if isinstance(series_ids, str):
            super().__init__(series_ids, retry_after_seconds)
            self.series_ids: tuple[str, ...] = ()
            return
        self.series_ids = tuple(series_ids)
        names, more = ", ".join(map(repr, self.series_ids[:_NAMED])), len(self.series_ids) - _NAMED
        some = f"series {names} and {more} more" if more > 0 else f"series {names}"
        super().__init__(f"{some}: not observed for long, and being folded again; come again", retry_after_seconds)


class RefoldingError(UnavailableError):
    """A series has late or corrected values that its state does not know yet; it will shortly."""

    reason = "SERIES_REFOLDING"

    def __init__(self, message: str, retry_after_seconds: float | None = 0.1) -> None:
        super().__init__(message, retry_after_seconds)


class RegistryError(UnavailableError):
    """The server cannot ask its model store; it goes on with what it serves, and only a change has to wait."""

    reason = "REGISTRY_UNAVAILABLE"

    def __init__(self, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(message, retry_after_seconds)


class StorageError(UnavailableError):
    """The journal cannot be written or read; the message names the file and what to do."""

    reason = "STORAGE_FAILED"


class FencedError(StorageError):
    """Another server has taken the series over; nothing of this one is written any more, and it has to end."""

    reason = "FENCED"


class DamagedHistoryError(StorageError):
    """A part of what left the journal is changed or gone; `why`, and up to which time it has rows, microseconds."""

    reason = "HISTORY_DAMAGED"

    def __init__(self, message: str, why: str = "", last_us: int = 2**63 - 1) -> None:
        super().__init__(message)
        self.why, self.last_us = why, last_us


class StateLostError(StorageError):
    """The states of some series are damaged and cannot be folded again; trying again does not help, others go on."""

    reason = "STATE_LOST"

    def __init__(self, message: str, series_ids: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.series_ids = tuple(series_ids)


class DeadlineError(ForecasterError):
    """No answer came in time; an observation sent may or may not have been applied, retrying is safe."""

    reason = "DEADLINE_EXCEEDED"
    lasting = False


class InternalError(ForecasterError):
    """A defect of ours. `error_id` finds the traceback in the server's log."""

    reason = "INTERNAL"

    def __init__(self, message: str, error_id: str = "") -> None:
        super().__init__(message)
        self.error_id = error_id
