"""Series that were not observed for long: no model has a state of them, and they come back when they are observed.

What is kept of each is where it stood, a few numbers beside its rows in the history. Knows snapshots; knows nothing of
states or of who brings a series back.

Shapes: N series.
"""

import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from forecaster.errors import ForecasterError, ReturningError, StateLostError
from forecaster.serving.records import Snapshot
from forecaster.serving.storage import IDLE, RETURNED, Snapshots

_FORMAT = struct.Struct("<4q")
_NAMED = 10  # series in an error


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
        days = (time.time() - self.touched_us / 1e6) / 86_400
        return f"series {self.series_id!r} is idle, not observed for {days:.3g} days: observe it, and it comes back"

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
    """

    def __init__(self, snapshots: Snapshots) -> None:
        self._snapshots = snapshots
        self._count = snapshots.count(IDLE)
        self._failures: dict[str, ForecasterError] = {}  # why series could not come back the last time
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
        return [IdleSeries.of(one) for one in self._snapshots.fetch(IDLE, series_ids)]

    def want(self, series_ids: Sequence[str]) -> None:
        """Raise ReturningError if any of the series, which have no state, is idle: it comes back from now on.

        Raises StateLostError instead, once, of those that could not.
        """
        if not (found := [one.series_id for one in self.among(series_ids)]):
            return
        failed = [name for name in found if name in self._failures]
        if failed:
            error = self._failures[failed[0]]
            for name in failed:
                del self._failures[name]
            raise StateLostError(str(error), failed)
        self.on_asked(found)
        names = ", ".join(map(repr, found[:_NAMED]))
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        raise ReturningError(f"series {names}{more} were not observed for long and are being folded again")

    def add(self, series: Sequence[IdleSeries]) -> None:
        """Let series be idle, whose states the caller then lets go of; raises StorageError."""
        self._snapshots.set_idle([one.snapshot() for one in series])
        self._count += len(series)

    def remove(self, series_ids: Sequence[str], fingerprint: str) -> None:
        """Note that series which were idle have states of a model again; raises StorageError."""
        come_back(self._snapshots, series_ids, fingerprint)
        self._count -= len(series_ids)

    def deleted(self, series_id: str) -> None:
        """Note that an idle series was deleted: storage has let go of it."""
        self._count -= 1
        self._failures.pop(series_id, None)

    def fail(self, series_ids: Sequence[str], error: ForecasterError) -> None:
        """Note why series cannot come back; whoever wants them next is told."""
        self._failures |= dict.fromkeys(series_ids, error)


def come_back(snapshots: Snapshots, series_ids: Sequence[str], fingerprint: str) -> None:
    """Note in storage that series have states of a model again; a former one, if it is served again, has none."""
    snapshots.save(RETURNED + fingerprint, snapshots.fetch(IDLE, series_ids))
    snapshots.remove(IDLE, series_ids)


def _nothing(series_ids: Sequence[str]) -> None:
    """Do nothing: nobody brings them back."""
