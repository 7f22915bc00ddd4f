"""What is counted as the server works, a few additions a turn and a call. Does not know who reads it, or what for.

Each counter has one thread that writes it; any thread may read it.
"""

import dataclasses
from bisect import bisect_left
from collections.abc import Collection, Iterable

from forecaster.errors import ForecasterError

BOUNDS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@dataclasses.dataclass(slots=True)
class WorkDone:
    """What one engine has done since it was made; written by its thread.

    Args:
        applied: observations.
        duplicate: observations.
        corrected: observations in place of what was said of their times before.
        filled: observations of times that were missing, late.
        rejected: observations; not those of requests that were refused whole.
        reasons: those by the error's reason.
        forecasts: series that were forecast.
        journal_sequence: of the journal's last record.
    """

    applied: int = 0
    duplicate: int = 0
    corrected: int = 0
    filled: int = 0
    rejected: int = 0
    reasons: dict[str, int] = dataclasses.field(default_factory=dict)
    forecasts: int = 0
    journal_sequence: int = 0

    def reject(self, errors: Collection[ForecasterError]) -> None:
        """Count observations that were refused."""
        self.rejected += len(errors)
        for error in errors:
            self.reasons[error.reason] = self.reasons.get(error.reason, 0) + 1


def reasons(done: Iterable[WorkDone]) -> dict[str, int]:
    """Return how many observations several threads rejected, by the error's reason."""
    total: dict[str, int] = {}
    for work in done:
        for reason, count in work.reasons.copy().items():
            total[reason] = total.get(reason, 0) + count
    return total


@dataclasses.dataclass(slots=True)
class Durations:
    """How long something took: how often up to each of `BOUNDS_SECONDS` and longer, and the sum."""

    counts: list[int] = dataclasses.field(default_factory=lambda: [0] * (len(BOUNDS_SECONDS) + 1))
    seconds: float = 0.0


class Calls:
    """RPCs by method and code, and how long they took; written by the event loop's thread."""

    def __init__(self) -> None:
        self._ended: dict[tuple[str, str], int] = {}
        self._durations: dict[str, Durations] = {}
        self._refused: dict[tuple[str, str], int] = {}

    def ended(self, method: str, code: str) -> None:
        """Count a call that has ended."""
        key = method, code
        self._ended[key] = self._ended.get(key, 0) + 1

    def refused(self, method: str, reason: str) -> None:
        """Count a call that was refused, by the error's reason."""
        key = method, reason
        self._refused[key] = self._refused.get(key, 0) + 1

    def took(self, method: str, seconds: float) -> None:
        """Note how long a call took, or a message of a stream."""
        durations = self._durations.get(method)
        if durations is None:
            durations = self._durations[method] = Durations()
        durations.counts[bisect_left(BOUNDS_SECONDS, seconds)] += 1
        durations.seconds += seconds

    def by_code(self) -> dict[tuple[str, str], int]:
        """Return how many calls have ended, by method and code."""
        return self._ended.copy()

    def by_reason(self) -> dict[tuple[str, str], int]:
        """Return how many calls were refused, by method and reason."""
        return self._refused.copy()

    def durations(self) -> dict[str, Durations]:
        """Return how long calls took, by method."""
        return {name: Durations(list(one.counts), one.seconds) for name, one in self._durations.copy().items()}
