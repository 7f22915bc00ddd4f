"""Storage of durability `none`: records are counted, snapshots kept in memory, so that series can still be evicted."""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence

from forecaster.serving.storage.contract import AMENDED, IDLE, RETURNED, Activation, OnDamage
from forecaster.serving.storage.records import Attributes, Columns, Deletion, Record, Snapshot, nothing
from forecaster.serving.storage.words import Bools, Words

_PAST_ATTRIBUTES = 16  # of a series


class VolatileJournal:
    """See `Journal`: it keeps no record.

    Args:
        snapshots: from which deleted series are removed.
    """

    def __init__(self, snapshots: "VolatileSnapshots") -> None:
        self._snapshots = snapshots
        self._past: dict[str, deque[Attributes]] = {}  # of one series each
        self._sequence = 0

    def append(self, *records: Record) -> int:
        """Count the records."""
        for record in records:
            self._sequence += 1
            if isinstance(record, Deletion):
                self._past.pop(record.series_id, None)
                self._snapshots.forget(record.series_id)
            elif isinstance(record, Attributes):
                for k, name in enumerate(record.series_ids):
                    self._past.setdefault(name, deque(maxlen=_PAST_ATTRIBUTES)).append(record.of([k]))
        return self._sequence

    def last_sequence(self) -> int:
        """Return how many records were appended in this process."""
        return self._sequence

    def first_sequence(self) -> int:
        """Return the next record's sequence."""
        return self._sequence + 1

    def dropped(self) -> int:
        """Return 0: nothing was ever promised to be kept."""
        return 0

    def damage(self) -> list[str]:
        """Have nothing to look through."""
        return []

    def read(
        self,
        after: int,
        *,
        since_us: int | None = None,
        before_us: int | None = None,
        on_damage: OnDamage | None = None,
    ) -> Iterator[tuple[int, Record]]:
        """Yield nothing."""
        return iter(())

    def find(self, wanted: Columns, give_way: Callable[[], None] = nothing, whole: Bools | None = None) -> Words:
        """Find nothing."""
        return Words.none(len(wanted))

    def attributes(self, series_ids: Sequence[str], through: int = 2**62) -> Attributes:
        """See `Journal.attributes`: no record can be read, so the latest ones are all that is known."""
        latest = [self._past[name][-1] for name in dict.fromkeys(series_ids) if name in self._past]
        parts = (
            tuple(snapshot.numbers[0] for snapshot in latest),
            tuple(snapshot.categories[0] for snapshot in latest),
        )
        return Attributes(tuple(snapshot.series_ids[0] for snapshot in latest), *parts)

    def past_attributes(self, series_ids: Sequence[str]) -> list[Attributes]:
        """See `Journal.past_attributes`: the latest few of each series are kept."""
        return [one for name in dict.fromkeys(series_ids) for one in self._past.get(name, ())]

    def deletions(self) -> list[tuple[int, str]]:
        """Return none: no record is kept."""
        return []

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
            for snapshot in snapshots:
                if snapshot.series_id not in states or states[snapshot.series_id].sequence <= snapshot.sequence:
                    states[snapshot.series_id] = snapshot

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

    def set_idle(self, snapshots: Sequence[Snapshot]) -> None:
        """See `Snapshots.set_idle`."""
        with self._lock:
            for states in self._states.values():
                for snapshot in snapshots:
                    if snapshot.series_id in states and states[snapshot.series_id].sequence <= snapshot.sequence:
                        del states[snapshot.series_id]
        self.save(IDLE, snapshots)

    def end_idle(self, fingerprint: str, snapshots: Sequence[Snapshot], series_ids: Sequence[str]) -> None:
        """See `Snapshots.end_idle`."""
        idle = {snapshot.series_id: snapshot for snapshot in self.fetch(IDLE, series_ids)}
        self.save(fingerprint, snapshots)
        under = fingerprint.encode()
        with self._lock:
            returned = self._states.setdefault(RETURNED, {})
            for name, one in idle.items():
                returned[name] = Snapshot.of(name, one.sequence, under)
                del self._states[IDLE][name]

    def end_amended(self, fingerprint: str, snapshots: Sequence[Snapshot], through: int) -> None:
        """See `Snapshots.end_amended`."""
        under = fingerprint.encode()
        with self._lock:
            for snapshot in snapshots:
                for model, states in self._states.items():
                    last = through if model == AMENDED else snapshot.sequence
                    if snapshot.series_id in states and states[snapshot.series_id].sequence <= last:
                        del states[snapshot.series_id]
        self.save(fingerprint, snapshots)
        self.save(RETURNED, [Snapshot.of(s.series_id, s.sequence, under) for s in snapshots])

    def settle_returned(self, fingerprint: str) -> None:
        """See `Snapshots.settle_returned`."""
        with self._lock:
            returned = self._states.get(RETURNED, {})
            self._states[RETURNED] = {n: one for n, one in returned.items() if one.state == fingerprint.encode()}

    def drop(self, fingerprint: str) -> None:
        """See `Snapshots.drop`."""
        with self._lock:
            self._states.pop(fingerprint, None)
            self._complete.pop(fingerprint, None)

    def fingerprints(self) -> list[str]:
        """See `Snapshots.fingerprints`."""
        with self._lock:
            models = (name for name in self._states if name not in (IDLE, RETURNED, AMENDED))
            held = (name for name in models if self._states[name])
            return list(dict.fromkeys((*held, *self._complete)))

    def complete(self, fingerprint: str, sequence: int) -> None:
        """See `Snapshots.complete`."""
        self._complete[fingerprint] = sequence

    def complete_through(self, fingerprint: str) -> int | None:
        """See `Snapshots.complete_through`."""
        return self._complete.get(fingerprint)

    def activate(self, activation: Activation) -> None:
        """See `Snapshots.activate`."""
        self._active = activation

    def keep_bundle(self, fingerprint: str, files: Mapping[str, bytes]) -> None:
        """Keep nothing: no state outlives the process either."""

    def kept_bundle(self, fingerprint: str) -> dict[str, bytes] | None:
        """Return None."""
        return None

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

    @property
    def keeps_records(self) -> bool:
        """Return False."""
        return False

    @property
    def accepted_loss(self) -> int:
        """Return 0: nothing is lost that was kept."""
        return 0

    def beside(self) -> "VolatileStorage":
        """Return itself: nothing in it belongs to a thread."""
        return self

    def check(self) -> None:
        """Do nothing."""

    def damaged(self) -> list[str]:
        """Return nothing: there is no history."""
        return []

    def close(self) -> None:
        """Do nothing."""
