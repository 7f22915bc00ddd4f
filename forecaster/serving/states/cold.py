"""The states of a model's series that lie in storage as snapshots.

Knows snapshots and their bytes; knows nothing of slots.

Shapes: N series.
"""

from collections.abc import Iterator, Sequence

from forecaster.serving.states.snapshot_bytes import Packed, Packing
from forecaster.serving.storage.contract import Snapshots
from forecaster.serving.storage.records import Snapshot


class ColdStates:
    """What storage has of one model.

    Args:
        snapshots: where they lie.
        fingerprint: the model's.
        packing: of its states.
    """

    def __init__(self, snapshots: Snapshots, fingerprint: str, packing: Packing) -> None:
        self._snapshots, self.fingerprint, self._packing = snapshots, fingerprint, packing

    def count(self) -> int:
        """Return how many there are."""
        return self._snapshots.count(self.fingerprint)

    def fetch(self, series_ids: Sequence[str]) -> list[Snapshot]:
        """Return the snapshots of those of the series that have one, corrupted ones too."""
        return self._snapshots.fetch(self.fingerprint, series_ids)

    def peek(self, series_ids: Sequence[str]) -> dict[str, Packed]:
        """Return what is known of series, but for those whose snapshots are corrupted."""
        return {
            snapshot.series_id: self.unpack([snapshot])
            for snapshot in self.fetch(series_ids)
            if self.can_unpack(snapshot)
        }

    def peek_all(self, series_ids: Sequence[str]) -> tuple[list[str], Packed | None]:
        """Return those of the series that have a whole snapshot, and what is known of them, None without any."""
        whole = [snapshot for snapshot in self.fetch(series_ids) if self.can_unpack(snapshot)]
        return [snapshot.series_id for snapshot in whole], self.unpack(whole) if whole else None

    def lost(self, series_ids: Sequence[str]) -> list[str]:
        """Return those of the series whose snapshots are corrupted."""
        found = self.fetch(series_ids) if series_ids else []
        return [one.series_id for one in found if not self.can_unpack(one)]

    def mark_lost(self, series_ids: Sequence[str], sequence: int) -> None:
        """Write snapshots as of a record that are known to be corrupted, so that their series are not taken for new."""
        if series_ids:
            self._snapshots.save(self.fingerprint, [Snapshot(name, sequence, b"", 1) for name in series_ids])

    def page(self, after: str) -> Iterator[str]:
        """Yield the series ids behind `after`, ascending by code points."""
        return (snapshot.series_id for snapshot in self._snapshots.read(self.fingerprint, after))

    def save(self, series_ids: Sequence[str], sequence: int, packed: Packed) -> None:
        """Write snapshots of N series as of a record."""
        self._snapshots.save(self.fingerprint, self._made(series_ids, sequence, packed))

    def end_idle(self, series_ids: Sequence[str], sequence: int, packed: Packed) -> None:
        """Write snapshots of N series as of a record, which are no longer idle then."""
        self._snapshots.end_idle(self.fingerprint, self._made(series_ids, sequence, packed), series_ids)

    def end_amended(self, series_ids: Sequence[str], sequence: int, packed: Packed, through: int) -> None:
        """Write snapshots of N series as of a record, which know what is late or corrected up to another."""
        self._snapshots.end_amended(self.fingerprint, self._made(series_ids, sequence, packed), through)

    def _made(self, series_ids: Sequence[str], sequence: int, packed: Packed) -> list[Snapshot]:
        states = self._packing.pack(packed)
        return [Snapshot.of(name, sequence, state) for name, state in zip(series_ids, states, strict=True)]

    def can_unpack(self, snapshot: Snapshot) -> bool:
        """Return whether a snapshot is what was written of a state of this model."""
        return snapshot.is_whole and len(snapshot.state) == self._packing.num_bytes

    def unpack(self, snapshots: Sequence[Snapshot]) -> Packed:
        """Return what N whole snapshots hold."""
        return self._packing.unpack([snapshot.state for snapshot in snapshots])


def merged(first: Iterator[str], second: Iterator[str]) -> Iterator[str]:
    """Yield two ascending runs as one, without what stands in both twice."""
    a, b = next(first, None), next(second, None)
    while a is not None or b is not None:
        if b is None or (a is not None and a <= b):
            assert a is not None
            yield a
            if a == b:
                b = next(second, None)
            a = next(first, None)
        else:
            yield b
            b = next(second, None)
