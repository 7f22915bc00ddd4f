"""Which series the server holds, where their states lie, and what admission must know of each.

The store joins slots (the slab) with series ids and host-side clocks, and with their snapshots (the journal).
It does not compute.

Shapes: N series.
"""

import bisect
import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from forecaster.model.bundle import Bundle
from forecaster.model.state import State
from forecaster.serving.journal import Journal
from forecaster.serving.records import IntArray, Snapshot
from forecaster.serving.slab import Slab
from forecaster.serving.telemetry import LOGGER

_SNAPSHOTS_PER_BATCH = 4096


class SeriesStore:
    """The series of one model.

    Args:
        bundle: the model whose states these are.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._spec = bundle.model.state_spec
        self._fingerprint = bundle.fingerprint
        self._slab = Slab(self._spec)
        self._slots: dict[str, int] = {}
        self._sorted: list[str] | None = []
        # By slot: time of the last step, steps seen, steps with a value, when it last advanced here, and the digest of
        # its static covariates, 0 if it has none or they are from before this process.
        self.clock_us = np.zeros(0, dtype=np.int64)
        self.position = np.zeros(0, dtype=np.int64)
        self.observed_count = np.zeros(0, dtype=np.int64)
        self.touched_seconds = np.zeros(0, dtype=np.float64)
        self.static_digest = np.zeros(0, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._slots)

    def slot(self, series_id: str) -> int:
        """Return the series' slot, or -1 if there is no such series."""
        return self._slots.get(series_id, -1)

    def create(self, series_ids: Sequence[str]) -> list[int]:
        """Add fresh series and return their slots; none of them may exist."""
        slots = self._slab.allocate(len(series_ids))
        self._fit_mirrors()
        self._slots.update(zip(series_ids, slots, strict=True))
        mirrors = (self.clock_us, self.position, self.observed_count, self.touched_seconds, self.static_digest)
        for mirror in mirrors:
            mirror[slots] = 0
        self._sorted = None
        return slots

    def delete(self, series_id: str) -> None:
        """Forget a series; it must exist."""
        self._slab.release([self._slots.pop(series_id)])
        self._sorted = None

    def page(self, after: str, size: int) -> list[str]:
        """Return up to `size` series ids behind `after`, ascending."""
        if self._sorted is None:
            self._sorted = sorted(self._slots)
        start = bisect.bisect_right(self._sorted, after) if after else 0
        return self._sorted[start : start + size]

    def gather(self, slots: Sequence[int]) -> State:
        """Return a copy of the states in `slots`."""
        return self._slab.gather(torch.as_tensor(slots, dtype=torch.int64))

    def scatter(self, slots: Sequence[int], state: State) -> None:
        """Put states into `slots`, all different, and the mirrors with them."""
        self._slab.scatter(torch.as_tensor(slots, dtype=torch.int64), state)
        at = np.asarray(slots, dtype=np.int64)
        self.clock_us[at] = state["time_us"].cpu().numpy()
        self.position[at] = state["position"].cpu().numpy()
        self.observed_count[at] = state["observed_count"].cpu().numpy()
        self.touched_seconds[at] = time.monotonic()

    def set_static(self, slots: Sequence[int], static: State, digests: Sequence[int]) -> None:
        """Put the tensors of static covariates into `slots`, all different; nothing else of the states changes."""
        self._slab.scatter(torch.as_tensor(slots, dtype=torch.int64), static)
        self.static_digest[np.asarray(slots, dtype=np.int64)] = digests

    def save_snapshots(self, journal: Journal) -> int:
        """Write every series' state as of the journal's last record; return how many."""
        sequence = journal.last_sequence()
        items = list(self._slots.items())
        for start in range(0, len(items), _SNAPSHOTS_PER_BATCH):
            part = items[start : start + _SNAPSHOTS_PER_BATCH]
            packed = self._spec.pack(self.gather([slot for _, slot in part])).numpy()
            rows = (Snapshot.of(i, sequence, packed[k].tobytes()) for k, (i, _) in enumerate(part))
            journal.save_snapshots(self._fingerprint, rows)
        journal.complete_snapshots(self._fingerprint, sequence)
        return len(items)

    def load_snapshots(self, journal: Journal) -> tuple[dict[str, int], int]:
        """Take over this model's snapshots.

        Returns:
            For each series the record that it stands at, and the record up to which every series has a snapshot,
            behind which the replay has to start.
        """
        stands: dict[str, int] = {}
        complete_through = journal.complete_through(self._fingerprint)
        waiting: list[Snapshot] = []
        for snapshot in journal.read_snapshots(self._fingerprint):
            if not snapshot.is_whole or len(snapshot.state) != self._spec.num_bytes:
                LOGGER.warning("the snapshot of series %r is corrupted: the journal is replayed", snapshot.series_id)
                complete_through = 0
                continue
            stands[snapshot.series_id] = snapshot.sequence
            waiting.append(snapshot)
            if len(waiting) == _SNAPSHOTS_PER_BATCH:
                self._restore(waiting)
                waiting = []
        self._restore(waiting)
        return stands, complete_through

    def _restore(self, snapshots: Sequence[Snapshot]) -> None:
        if not snapshots:
            return
        slots = self.create([snapshot.series_id for snapshot in snapshots])
        joined = np.frombuffer(b"".join(snapshot.state for snapshot in snapshots), np.uint8)
        packed = torch.from_numpy(joined.reshape(len(snapshots), -1).copy())
        self.scatter(slots, self._spec.unpack(packed))

    def held(self, slots: IntArray, steps_back: IntArray) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
        """Look up remembered values.

        Args:
            slots: int64 [N].
            steps_back: before each slot's clock, 0 or more, int64 [N].

        Returns:
            Whether the memory reaches that far, bool [N], and the value, NaN where missing, float64 [N].
        """
        position = self.position[slots]
        memory = self._slab.shape("ring")[0]
        reached = steps_back < np.minimum(memory, position)
        index = torch.from_numpy((position - 1 - steps_back) % memory)
        rows = torch.from_numpy(slots)
        values = torch.where(
            self._slab.peek("ring_observed", rows, index), self._slab.peek("ring", rows, index), np.nan
        )
        return reached, values.cpu().numpy()

    def _fit_mirrors(self) -> None:
        missing = self._slab.capacity - len(self.clock_us)
        if missing > 0:
            grow = (0, missing)
            self.clock_us = np.pad(self.clock_us, grow)
            self.position = np.pad(self.position, grow)
            self.observed_count = np.pad(self.observed_count, grow)
            self.touched_seconds = np.pad(self.touched_seconds, grow)
            self.static_digest = np.pad(self.static_digest, grow)
