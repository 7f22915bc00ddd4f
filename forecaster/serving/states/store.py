"""Which series there are, where the state of each lies, and what admission must know of those at hand.

A series is resident (its state in the slab, host-side clocks beside it) or cold (a snapshot in storage). `bring` makes
cold ones resident, many in one query; past a limit the least recently used leave, after a snapshot if they have
changed. The store does not compute.

Shapes: N series.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat

import numpy as np
import torch

from forecaster.errors import LimitReachedError
from forecaster.model.bundle import Bundle
from forecaster.model.state import State
from forecaster.serving.calibration.calibration import Calibration
from forecaster.serving.states.buckets import Grouped
from forecaster.serving.states.cold import ColdStates, merged
from forecaster.serving.states.mirrors import Standing
from forecaster.serving.states.residents import Residents
from forecaster.serving.states.snapshot_bytes import Packed, Packing
from forecaster.serving.storage.contract import Snapshots
from forecaster.serving.storage.records import IntArray, Snapshot
from forecaster.serving.telemetry import LOGGER

_SNAPSHOTS_AT_ONCE = 1024
_LEAVING_SHARE = 128  # one part in so many leaves at a time, so that choosing whom is seldom


class SeriesStore(Residents):
    """The series of one model version.

    Args:
        bundle: the model whose states these are.
        snapshots: where cold series lie.
        max_resident: of the slab.
        device: of the slab.
        calibration: whose tensors stand beside the model's; None for none.
        empty: whether the snapshots that there are do not count: their series are yet to be moved here.
    """

    def __init__(
        self,
        bundle: Bundle,
        snapshots: Snapshots,
        *,
        max_resident: int = 2**62,
        device: torch.device | str = "cpu",
        calibration: Calibration | None = None,
        empty: bool = False,
    ) -> None:
        super().__init__(bundle, max_resident=max_resident, device=device, calibration=calibration)
        self.cold = ColdStates(snapshots, bundle.fingerprint, Packing(self.spec))
        self._cold = 0 if empty else self.cold.count()
        self._sorted_unsaved: list[str] | None = None
        self.sequence = 0  # of the last record that the states hold
        self._lost: set[str] = set()  # series whose snapshots are corrupted
        self.begun: Grouped | None = None  # series that were created since an inventory, while a lane is being replaced
        self.on_lost: Callable[[list[str]], None] = _leave  # who makes them resident all the same
        self._turn = 0

    def __len__(self) -> int:
        return len(self._slots) + self._cold

    @property
    def has_cold(self) -> bool:
        """Whether there are series that have to be read back before they can be observed."""
        return self._cold > 0

    def retire(self) -> None:
        """Let go of whoever made lost series resident, who holds this store: its memory is then freed at once."""
        self.on_lost = _leave

    def begin_turn(self) -> None:
        """Begin a turn: series that are brought or created in it stay until the next one."""
        self._turn += 1

    def bring(self, series_ids: Sequence[str]) -> IntArray:
        """Make series resident and return their slots, int64 [N], -1 where there is no such series.

        Raises StorageError if a snapshot cannot be read or one that has to leave cannot be written, and
        LimitReachedError if more series than may be resident are wanted in one turn.
        """
        slots = self._look_up(series_ids)
        self.mirrors.touched[slots[slots >= 0]] = self._turn  # they must not leave for the others
        if (self._cold or self._lost) and (missing := np.flatnonzero(slots < 0)).size:
            wanted = [series_ids[i] for i in missing.tolist()]
            if found := self.cold.fetch(wanted):
                self.adopt([one for one in found if one.series_id not in self._lost])
                if lost := self._lost.intersection(wanted):
                    self.on_lost(sorted(lost))
                slots = self._look_up(series_ids)
        return slots

    def make_room(self, series_ids: Sequence[str]) -> None:
        """Let others leave so that those of the series that are not resident fit; raises what `bring` raises."""
        if len(self._slots) + len(series_ids) > self._max_resident:
            self._make_room(sum(series_id not in self._slots for series_id in series_ids))

    def adopt(self, snapshots: Sequence[Snapshot]) -> list[str]:
        """Make cold series resident from their snapshots; return those whose snapshot is corrupted, which stay out."""
        whole = [snapshot for snapshot in snapshots if self.cold.can_unpack(snapshot)]
        if whole:
            packed = self.cold.unpack(whole)
            slots = self._place([snapshot.series_id for snapshot in whole])
            self._cold -= len(whole)
            self.mirrors.saved[slots] = [snapshot.sequence for snapshot in whole]
            self.mirrors.dirty[slots] = False
            self.scatter(slots, packed.state)
            self.refresh_targets(slots)
            self.mirrors.take(slots, packed.static_digest, packed.touched_us)
        broken = (
            [snapshot.series_id for snapshot in snapshots if snapshot not in whole]
            if len(whole) < len(snapshots)
            else []
        )
        for series_id in broken:
            LOGGER.warning(
                "the snapshot of series %r is corrupted: it is folded again if all of it is there",
                series_id,
            )
        self._lost.update(broken)
        self._cold -= len(broken)
        return broken

    def create(self, series_ids: Sequence[str]) -> IntArray:
        """Add fresh series and return their slots, int64 [N]; none of them may exist. Raises what `bring` raises."""
        slots = self._place(series_ids)
        rows = torch.from_numpy(slots).to(self.slab.device)
        for tensor in self.slab.tensors.values():
            tensor[rows] = 0
        self.mirrors.begin(slots)
        if self.begun is not None:
            self.begun.add(series_ids)
        self._sorted_unsaved = None
        self._lost.difference_update(series_ids)
        return slots

    def take(self, series_ids: Sequence[str], state: State, static_digest: IntArray, touched_us: IntArray) -> IntArray:
        """Add series with their states and return their slots, int64 [N]; none of them may exist."""
        slots = self._place(series_ids)
        self.scatter(slots, state)
        self.refresh_targets(slots)
        self.mirrors.take(slots, static_digest, touched_us)
        self.mirrors.saved[slots], self.mirrors.dirty[slots] = 0, True
        self._sorted_unsaved = None
        self._lost.difference_update(series_ids)
        return slots

    def standing(self, series_ids: Sequence[str]) -> Standing:
        """Return where series stand; cold ones stay cold."""
        found = self.mirrors.standing(self._look_up(series_ids))
        absent = {series_ids[i]: i for i in np.flatnonzero(~found.exists).tolist()}
        cold, packed = self.cold.peek_all(list(absent)) if absent and self._cold else ([], None)
        if packed is not None:
            at = [absent[name] for name in cold]
            for part, tensor in zip(found, ("time_us", "position", "observed_count"), strict=False):
                part[at] = packed.state[tensor].numpy()
            found.touched_us[at], found.exists[at] = packed.touched_us, True
        return found

    def end_idle(self, series_ids: Sequence[str], sequence: int, packed: Packed) -> None:
        """Add series that were idle by their snapshots as of a record, all or none. Raises StorageError."""
        self.cold.end_idle(series_ids, sequence, packed)
        self._cold += len(series_ids)

    def amend(self, slots: IntArray, state: State, through: int) -> None:
        """Exchange the model's states in `slots`, all different, for ones that know what is late or corrected.

        What waits to be scored, and what was learnt from it, stays. Snapshots are written at once, as of the last
        record; the states know of corrections up to the record `through`. Raises StorageError, and has changed nothing
        then.
        """
        before = self.gather_whole(slots)
        position = self.mirrors.position[slots]
        self.scatter(slots, state)
        if self.calibration is not None:
            self.calibration.move(self.slab.tensors, slots, self.mirrors.position[slots] - position)
            self.refresh_targets(slots)
        packed = Packed(self.gather_whole(slots), self.mirrors.static_digest[slots], self.mirrors.touched_us[slots])
        try:
            self.cold.end_amended(self.names(slots), self.sequence, packed, through)
        except BaseException:
            self.scatter(slots, before)
            self.refresh_targets(slots)
            raise
        if (self.mirrors.saved[slots] == 0).any():
            self._sorted_unsaved = None
        self.mirrors.dirty[slots], self.mirrors.saved[slots] = False, max(self.sequence, 1)

    def lose(self, series_ids: Sequence[str]) -> None:
        """Take over series whose states could not be made, durably: who asks for them is told, after a start too."""
        self.cold.mark_lost(series_ids, self.sequence)
        self._lost.update(series_ids)

    def forget(self, series_ids: Iterable[str]) -> None:
        """Drop series without a snapshot, resident or cold; all of them exist."""
        names = list(series_ids)
        slots = np.array([self._slots.pop(name) for name in names if name in self._slots], dtype=np.int64)
        self._free(slots)
        self._cold -= len(names) - len(slots) - len(self._lost.intersection(names))
        self._lost.difference_update(names)
        if self.begun is not None:
            self.begun.discard(names)

    def count_lost(self) -> int:
        """Return how many series were met whose states cannot be had; any thread may ask."""
        return len(self._lost)

    def save(self, slots: IntArray, *, sequence: int | None = None) -> None:
        """Write snapshots of `slots` as of a record, the last one if none is named.

        Those that are not in use or have not changed are left out.
        """
        sequence = self.sequence if sequence is None else sequence
        slots = slots[self.mirrors.dirty[slots]]
        for start in range(0, len(slots), _SNAPSHOTS_AT_ONCE):
            part = slots[start : start + _SNAPSHOTS_AT_ONCE]
            packed = Packed(self.gather_whole(part), self.mirrors.static_digest[part], self.mirrors.touched_us[part])
            self.cold.save(self.names(part), sequence, packed)
            self.mirrors.dirty[part] = False
            if (self.mirrors.saved[part] == 0).any():
                self._sorted_unsaved = None
            self.mirrors.saved[part] = max(sequence, 1)

    def page(self, after: str) -> Iterator[str]:
        """Yield the series ids behind `after`, ascending by code points."""
        if self._sorted_unsaved is None:
            slots = np.flatnonzero(self.mirrors.used & (self.mirrors.saved == 0))
            self._sorted_unsaved = sorted(self.mirrors.ids[slots].tolist())
        unsaved = (series_id for series_id in self._sorted_unsaved if series_id > after)
        return merged(unsaved, self.cold.page(after))

    def inventory(self) -> tuple[dict[str, int], IntArray, IntArray]:
        """Return copies of the resident series' slots, clocks and positions; `begun` is filled from then on."""
        self.begun = Grouped()
        return dict(self._slots), self.mirrors.clock_us.copy(), self.mirrors.position.copy()

    def _look_up(self, series_ids: Sequence[str]) -> IntArray:
        return np.fromiter(map(self._slots.get, series_ids, repeat(-1)), np.int64, len(series_ids))

    def _place(self, series_ids: Sequence[str]) -> IntArray:
        """Return slots for series that become resident, whose states are yet to be filled in."""
        self._make_room(len(series_ids))
        slots = self.slab.reserve(len(series_ids))
        self.mirrors.fit(self.slab.capacity)
        self._slots.update(zip(series_ids, slots.tolist(), strict=True))
        self.mirrors.ids[slots] = np.array(series_ids, dtype=object)
        self.mirrors.used[slots], self.mirrors.touched[slots] = True, self._turn
        return slots

    def _make_room(self, needed: int) -> None:
        over = len(self._slots) + needed - self._max_resident
        if over <= 0:
            return
        leaving = self.mirrors.least_recent(self._turn, max(over, self._max_resident // _LEAVING_SHARE))
        if len(leaving) < over:
            raise LimitReachedError(
                f"more series at once than may be resident, {self._max_resident}: ask for fewer at once",
                retry_after_seconds=0.1,
            )
        self.save(leaving)
        for name in self.mirrors.ids[leaving].tolist():
            del self._slots[name]
        self._free(leaving)
        self._cold += len(leaving)

    def _free(self, slots: IntArray) -> None:
        self.mirrors.used[slots] = self.mirrors.dirty[slots] = False
        self.mirrors.ids[slots] = None
        self.slab.release(slots)
        self._sorted_unsaved = None


def _leave(series_ids: list[str]) -> None:
    """Do nothing: while the journal is replayed, it creates them anew."""
