"""Storage of durability `none`: records are counted, snapshots kept in memory, so that series can still be evicted."""

import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from forecaster.serving.records import Attributes, Columns, Deletion, Record, Snapshot, nothing
from forecaster.serving.storage import Activation


class VolatileJournal:
    """See `Journal`: it keeps no record.

    Args:
        snapshots: from which deleted series are removed.
    """

    def __init__(self, snapshots: "VolatileSnapshots") -> None:
        self._snapshots = snapshots
        self._attributes: dict[str, tuple[dict[str, float], dict[str, str]]] = {}
        self._sequence = 0

    def append(self, *records: Record) -> int:
        """Count the records."""
        for record in records:
            self._sequence += 1
            if isinstance(record, Deletion):
                self._attributes.pop(record.series_id, None)
                self._snapshots.forget(record.series_id)
            elif isinstance(record, Attributes):
                named = zip(record.numbers, record.categories, strict=True)
                self._attributes |= dict(zip(record.series_ids, named, strict=True))
        return self._sequence

    def last_sequence(self) -> int:
        """Return how many records were appended in this process."""
        return self._sequence

    def first_sequence(self) -> int:
        """Return the next record's sequence."""
        return self._sequence + 1

    def read(self, after: int, *, since_us: int | None = None) -> Iterator[tuple[int, Record]]:
        """Yield nothing."""
        return iter(())

    def find(
        self, wanted: Columns, give_way: Callable[[], None] = nothing
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
        """Find nothing."""
        return np.zeros(len(wanted), dtype=bool), np.full(len(wanted), np.nan)

    def attributes(self, series_ids: Sequence[str], through: int = 2**62) -> Attributes:
        """See `Journal.attributes`: no record can be read, so the latest ones are all that is known."""
        known = [name for name in dict.fromkeys(series_ids) if name in self._attributes]
        numbers, categories = (tuple(self._attributes[name][k] for name in known) for k in (0, 1))
        return Attributes(tuple(known), numbers, categories)  # type: ignore[arg-type]

    def prune(self, through: int, *, committed_before_us: int, keep_history: bool) -> int:
        """Have nothing to do."""
        return 0

    def erase(self) -> int:
        """Have nothing to do."""
        return 0

    def sync(self) -> None:
        """Do nothing."""


class VolatileSnapshots:
    """See `Snapshots`: in memory."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # several threads have a `beside`
        self._states: dict[str, dict[str, Snapshot]] = {}
        self._complete: dict[str, int] = {}
        self._active: Activation | None = None

    def save(self, fingerprint: str, snapshots: Sequence[Snapshot]) -> None:
        """See `Snapshots.save`."""
        with self._lock:
            states = self._states.setdefault(fingerprint, {})
            for one in snapshots:
                if one.series_id not in states or states[one.series_id].sequence <= one.sequence:
                    states[one.series_id] = one

    def fetch(self, fingerprint: str, series_ids: Sequence[str]) -> list[Snapshot]:
        """See `Snapshots.fetch`."""
        with self._lock:
            states = self._states.get(fingerprint, {})
            return [states[name] for name in dict.fromkeys(series_ids) if name in states]

    def read(self, fingerprint: str, after: str = "") -> Iterator[Snapshot]:
        """See `Snapshots.read`."""
        with self._lock:
            states = self._states.get(fingerprint, {})
            wanted = [states[name] for name in sorted(states) if name > after]
        return iter(wanted)

    def count(self, fingerprint: str) -> int:
        """See `Snapshots.count`."""
        return len(self._states.get(fingerprint, {}))

    def drop(self, fingerprint: str) -> None:
        """See `Snapshots.drop`."""
        with self._lock:
            self._states.pop(fingerprint, None)
            self._complete.pop(fingerprint, None)

    def fingerprints(self) -> list[str]:
        """See `Snapshots.fingerprints`."""
        with self._lock:
            return list(dict.fromkeys((*(name for name, held in self._states.items() if held), *self._complete)))

    def complete(self, fingerprint: str, sequence: int) -> None:
        """See `Snapshots.complete`."""
        self._complete[fingerprint] = sequence

    def complete_through(self, fingerprint: str) -> int | None:
        """See `Snapshots.complete_through`."""
        return self._complete.get(fingerprint)

    def activate(self, activation: Activation) -> None:
        """See `Snapshots.activate`."""
        self._active = activation

    def active(self) -> Activation | None:
        """See `Snapshots.active`."""
        return self._active

    def sync(self) -> None:
        """Do nothing."""

    def forget(self, series_id: str) -> None:
        """Remove a series' snapshots."""
        with self._lock:
            for states in self._states.values():
                states.pop(series_id, None)


class VolatileStorage:
    """See `Storage`: it ends with the process."""

    def __init__(self) -> None:
        self._snapshots = VolatileSnapshots()
        self._journal = VolatileJournal(self._snapshots)

    @property
    def journal(self) -> VolatileJournal:
        """See `Storage.journal`."""
        return self._journal

    @property
    def snapshots(self) -> VolatileSnapshots:
        """See `Storage.snapshots`."""
        return self._snapshots

    def beside(self) -> "VolatileStorage":
        """Return itself: nothing in it belongs to a thread."""
        return self

    def check(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""
