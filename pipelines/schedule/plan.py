"""Which retraining comes next: what was asked for, what is repeated after failures, and what those repeats answer.

Knows times as numbers that it is told; knows nothing of clocks, processes or threads.
"""

from dataclasses import dataclass

from forecaster.config import ScheduleConfig


@dataclass(slots=True)
class Plan:
    """What is to be done next.

    A trigger that comes during a first attempt is remembered once, for when it has ended well. From the first failure
    on, the attempts that repeat it answer all that comes until they end, one way or the other: a retraining that was
    given up begins again when something asks anew, not because something asked meanwhile.

    Args:
        config: how often a failure is repeated, and after how long.
        pending: the trigger that came first since the last attempt began; those behind it ask for nothing more.
        retry: of the attempt that failed, or None.
        retry_at: when it is due.
        failures: one after the other; more than 0 while failed attempts are being repeated.
        answered_until: triggers from before this time have had their answer.
        ingest: whether what is new of the sources is wanted meanwhile.
    """

    config: ScheduleConfig
    pending: str | None = None
    retry: str | None = None
    retry_at: float = 0.0
    failures: int = 0
    answered_until: float = float("-inf")
    ingest: bool = False

    def asked(self, trigger: str, at: float) -> bool:
        """Note that a trigger came at a time; return whether it is the one to be remembered."""
        if self.pending is not None or at <= self.answered_until:
            return False
        self.pending = trigger
        return True

    def due(self, now: float) -> str | None:
        """Return the trigger of the attempt to begin now, None if there is none yet."""
        if self.retry is not None:
            return self.retry if now >= self.retry_at else None
        return self.pending

    def wait_seconds(self, now: float) -> float | None:
        """Return how long there is nothing to do unless something comes; None is for ever."""
        return max(self.retry_at - now, 0.0) if self.retry is not None else None

    def began(self) -> None:
        """Note that an attempt begins, which does what everything before it asked for."""
        self.pending = self.retry = None
        self.ingest = False

    def succeeded(self, now: float) -> None:
        """Note that an attempt has ended well."""
        if self.failures > 0:
            self._answer(now)

    def failed(self, trigger: str, now: float) -> float | None:
        """Note a failure, and return the seconds until it is tried again, None if it is given up."""
        self.failures += 1
        if self.failures > self.config.retries:
            self._answer(now)
            return None
        wait = self.config.retry_seconds * 2.0 ** (self.failures - 1)
        self.retry, self.retry_at = trigger, now + wait
        return wait

    def _answer(self, now: float) -> None:
        """Note that the repeats have ended, and with them all that asked until now."""
        self.failures, self.pending, self.answered_until = 0, None, now
