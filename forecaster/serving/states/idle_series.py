"""Series that were not observed for long: no model has a state of them, and they come back when they are observed.

What is kept of each is where it stood, a few numbers beside its rows in the history. Knows snapshots; knows nothing of
states or of who brings a series back.

Shapes: N series.
"""

import datetime as dt
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from forecaster.errors import ForecasterError, ReturningError, StateLostError
from forecaster.serving.storage.contract import IDLE, Snapshots
from forecaster.serving.storage.records import Snapshot

_FORMAT = struct.Struct("<4q")
_FAILURE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class IdleSeries:
    """One of them.

    Args:
        series_id: the series.
        sequence: of the last record that its state held.
        clock_us: of its last step.
        position: steps seen.
        observed_count: of them with a value.
        touched_us: when it was last observed.
    """

    series_id: str
    sequence: int
    clock_us: int
    position: int
    observed_count: int
    touched_us: int

    def explained(self) -> str:
        """Return why it cannot be forecast, and what to do, in one line."""
        since = dt.timedelta(seconds=round(time.time() - self.touched_us / 1e6))
        return f"series {self.series_id!r} is idle, not observed for {since}: observe it, and it comes back"

    def snapshot(self) -> Snapshot:
        """Return it as it is kept."""
        numbers = (self.clock_us, self.position, self.observed_count, self.touched_us)
        return Snapshot.of(self.series_id, self.sequence, _FORMAT.pack(*numbers))

    @classmethod
    def of(cls, snapshot: Snapshot) -> "IdleSeries":
        """Return what was kept; of one that is damaged it is only known that there is such a series."""
        is_whole = snapshot.is_whole and len(snapshot.state) == _FORMAT.size
        numbers = _FORMAT.unpack(snapshot.state) if is_whole else (0, 0, 0, 0)
        return cls(snapshot.series_id, snapshot.sequence, *numbers)


class IdleRegister:
    """Which series are idle; only the engine's thread asks and changes it.

    Args:
        snapshots: where they are kept.
        clock: seconds.
    """

    def __init__(self, snapshots: Snapshots, clock: Callable[[], float] = time.monotonic) -> None:
        self._snapshots = snapshots
        self._count = snapshots.count(IDLE)
        self._clock = clock
        self._failures: dict[str, tuple[ForecasterError, float]] = {}  # why series could not come back, and until when
        self.on_asked: Callable[[Sequence[str]], object] = _nothing  # told of series that are to come back

    def __len__(self) -> int:
        return self._count

    def recount(self) -> None:
        """Take over what a start has found of them."""
        self._count = self._snapshots.count(IDLE)

    def among(self, series_ids: Sequence[str]) -> list[IdleSeries]:
        """Return those of the series that are idle; none of them has a state."""
        if not self._count or not series_ids:
            return []
        return [IdleSeries.of(snapshot) for snapshot in self._snapshots.fetch(IDLE, series_ids)]

    def want(self, series_ids: Sequence[str]) -> None:
        """Raise ReturningError if any of the series, which have no state, is idle: `on_asked` has to be told.

        Raises StateLostError instead of those that could not a short while ago.
        """
        if not (idle := [idle_series.series_id for idle_series in self.among(series_ids)]):
            return
        self._failures = {name: why for name, why in self._failures.items() if why[1] > self._clock()}
        if failed := [name for name in idle if name in self._failures]:
            raise StateLostError(str(self._failures[failed[0]][0]), failed)
        raise ReturningError(idle)

    def add(self, series: Sequence[IdleSeries]) -> None:
        """Let series be idle, whose states the caller then lets go of; raises StorageError."""
        self._snapshots.set_idle([one_series.snapshot() for one_series in series])
        self._count += len(series)

    def end(self, series_ids: Sequence[str]) -> None:
        """Note that series are idle no more: storage has states of theirs again."""
        self._count -= len(series_ids)

    def deleted(self, series_id: str) -> None:
        """Note that an idle series was deleted: storage has let go of it."""
        self._count -= 1
        self._failures.pop(series_id, None)

    def fail(self, series_ids: Sequence[str], error: ForecasterError) -> None:
        """Note why series cannot come back; for a short while whoever wants them is told, then it is tried again."""
        self._failures |= dict.fromkeys(series_ids, (error, self._clock() + _FAILURE_SECONDS))


def _nothing(series_ids: Sequence[str]) -> None:
    """Do nothing: nobody brings them back."""
