"""One version of a registered model on a server: where it is in its life, and why it failed.

Knows nothing of how a version is replaced.

    LOADING ──► REBUILDING ──► ACTIVE ──► RETIRED
       │            │
       └────────────┴──► FAILED

A version that has the weights of the active one goes from LOADING to ACTIVE at once. One that is tried again, or comes
back, is another `Version` of the same number.
"""

import dataclasses
import enum
import math
import time

from forecaster.errors import ForecasterError
from forecaster.model.bundle import Bundle
from forecaster.registry.registry import RegisteredModel
from forecaster.serving.telemetry import reason

_RETRY_SECONDS, _MOST_RETRY_SECONDS = 60.0, 3600.0  # behind a failure that may pass; then twice as long each time


class ModelState(enum.IntEnum):
    """Where a version is in its life on this server; the numbers are the API's."""

    LOADING = 1
    REBUILDING = 2
    ACTIVE = 3
    RETIRED = 4
    FAILED = 5


_AFTER = {
    ModelState.LOADING: {ModelState.REBUILDING, ModelState.ACTIVE, ModelState.FAILED},
    ModelState.REBUILDING: {ModelState.ACTIVE, ModelState.FAILED},
    ModelState.ACTIVE: {ModelState.RETIRED},
    ModelState.RETIRED: set[ModelState](),
    ModelState.FAILED: set[ModelState](),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """Why a version failed.

    Args:
        reason: in one line.
        attempt: how often it has been tried by then.
        is_permanent: whether that does not pass by itself: then it is not tried again until the alias has moved, or
            somebody activates it.
        holds: why series still belong to it, which cannot be given back yet; empty if none do.
    """

    reason: str
    attempt: int
    is_permanent: bool
    holds: str = ""

    def __str__(self) -> str:
        return f"{self.reason}; {self.holds}" if self.holds else self.reason

    @property
    def retry_seconds(self) -> float:
        """How long afterwards it is tried again by itself; infinite if that is no use."""
        if self.is_permanent:
            return math.inf
        return min(_RETRY_SECONDS * 2.0 ** min(self.attempt - 1, 20), _MOST_RETRY_SECONDS)


@dataclasses.dataclass(slots=True)
class Version:
    """One version.

    Args:
        registered: in the registry.
        state: here.
        bundle: once it is loaded; let go of when it is retired or has failed.
        fingerprint: empty before it is loaded.
        progress: the share of series that have been rebuilt, 0 to 1.
        failure: why it failed, of one that is FAILED.
        changed: when its state last changed, monotonic seconds.
        attempts: how often it has been tried, this time too.
    """

    registered: RegisteredModel
    state: ModelState = ModelState.LOADING
    bundle: Bundle | None = None
    fingerprint: str = ""
    progress: float = 0.0
    failure: Failure | None = None
    changed: float = dataclasses.field(default_factory=time.monotonic)
    attempts: int = 1

    @classmethod
    def serving(cls, registered: RegisteredModel, bundle: Bundle) -> "Version":
        """Return the one that serves from the start."""
        return cls(registered, ModelState.ACTIVE, bundle, bundle.fingerprint, 1.0)

    @property
    def is_coming(self) -> bool:
        """Whether it is about to replace another one."""
        return self.state in (ModelState.LOADING, ModelState.REBUILDING)

    @property
    def is_due(self) -> bool:
        """Whether it failed so long ago that it may be tried again."""
        return self.failure is not None and time.monotonic() - self.changed > self.failure.retry_seconds

    def again(self) -> "Version":
        """Return it as it is tried once more; attempts count as long as it has not served."""
        return Version(self.registered, attempts=self.attempts + 1 if self.failure is not None else 1)

    def load(self, bundle: Bundle) -> None:
        """Have the weights."""
        self.bundle, self.fingerprint = bundle, bundle.fingerprint

    def rebuild(self) -> None:
        """Begin to take the series over."""
        self._go_on(ModelState.REBUILDING)

    def activate(self) -> None:
        """Serve."""
        self._go_on(ModelState.ACTIVE)
        self.progress = 1.0

    def retire(self) -> None:
        """Serve no more."""
        self._go_on(ModelState.RETIRED)
        self.bundle = None

    def fail(self, error: ForecasterError) -> None:
        """Be given up."""
        self._go_on(ModelState.FAILED)
        self.failure, self.bundle = Failure(reason(error), self.attempts, error.lasting), None

    def hold(self, why: str) -> None:
        """Still have series, which cannot be given back, or have none any more (empty); only of one that failed."""
        assert self.failure is not None
        if self.failure.holds and not why:
            self.changed = time.monotonic()  # only now it is gone
        self.failure = dataclasses.replace(self.failure, holds=why)

    def _go_on(self, state: ModelState) -> None:
        assert state in _AFTER[self.state], f"{self.state.name} to {state.name}"
        self.state, self.changed = state, time.monotonic()
