"""What the host knows of each slot, so that admission reads no tensor: clocks, counts, whose it is.

Shapes: C slots, N series.
"""

from dataclasses import dataclass, field, fields
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from forecaster.serving.calibration.calibration import NEVER
from forecaster.serving.storage.records import IntArray


class Standing(NamedTuple):
    """Where N series stand; -1 where there is no such series.

    Args:
        clock_us: int64 [N].
        position: int64 [N].
        observed_count: int64 [N].
        touched_us: when it last advanced, int64 [N].
        exists: bool [N].
    """

    clock_us: IntArray
    position: IntArray
    observed_count: IntArray
    touched_us: IntArray
    exists: npt.NDArray[np.bool_]

    def of(self, rows: slice) -> "Standing":
        """Return that of some of the series."""
        clocks, positions, counts, touched = (part[rows] for part in self[:4])
        return Standing(clocks, positions, counts, touched, self.exists[rows])


def _int64() -> IntArray:
    return np.zeros(0, dtype=np.int64)


@dataclass(slots=True)
class Mirrors:
    """Arrays by slot [C].

    Args:
        ids: the series, None where the slot is free.
        used: whether it is in use.
        touched: its last turn.
        dirty: whether its snapshot is older than its state.
        saved: of which record its snapshot is, 0 without one.
        clock_us: of its last step.
        position: steps seen.
        observed_count: of them with a value.
        touched_us: when it last advanced.
        static_digest: tells its static covariates from others.
        next_target: the position of the next step that a forecast waits for.
    """

    ids: npt.NDArray[np.object_] = field(default_factory=lambda: np.zeros(0, dtype=object))
    used: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=bool))
    touched: IntArray = field(default_factory=_int64)
    dirty: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=bool))
    saved: IntArray = field(default_factory=_int64)
    clock_us: IntArray = field(default_factory=_int64)
    position: IntArray = field(default_factory=_int64)
    observed_count: IntArray = field(default_factory=_int64)
    touched_us: IntArray = field(default_factory=_int64)
    static_digest: IntArray = field(default_factory=_int64)
    next_target: IntArray = field(default_factory=_int64)

    def fit(self, capacity: int) -> None:
        """Grow to so many slots."""
        missing = capacity - len(self.used)
        if missing > 0:
            for field in fields(self):
                setattr(self, field.name, np.pad(getattr(self, field.name), (0, missing)))

    def standing(self, slots: IntArray) -> Standing:
        """Return where the series in slots [N] stand, -1 being none."""
        there = slots >= 0
        mirrors = (self.clock_us, self.position, self.observed_count, self.touched_us)
        clocks, positions, counts, touched = parts = [np.full(len(slots), -1, dtype=np.int64) for _ in mirrors]
        for part, mirror in zip(parts, mirrors, strict=True):
            part[there] = mirror[slots[there]]
        return Standing(clocks, positions, counts, touched, there)

    def stand(self, slots: IntArray, clock_us: IntArray, position: IntArray, observed_count: IntArray) -> None:
        """Set where the series in slots [N] stand."""
        self.clock_us[slots], self.position[slots], self.observed_count[slots] = clock_us, position, observed_count

    def take(self, slots: IntArray, static_digest: IntArray, touched_us: IntArray) -> None:
        """Set what a snapshot has of slots [N] beside the state."""
        self.static_digest[slots], self.touched_us[slots] = static_digest, touched_us

    def begin(self, slots: IntArray) -> None:
        """Let slots [N] be those of fresh series."""
        self.clear(slots)
        self.saved[slots] = self.static_digest[slots] = self.touched_us[slots] = 0
        self.dirty[slots] = True

    def clear(self, slots: IntArray) -> None:
        """Let the series in slots [N] start afresh."""
        for mirror in (self.clock_us, self.position, self.observed_count):
            mirror[slots] = 0
        self.next_target[slots] = NEVER

    def least_recent(self, turn: int, most: int) -> IntArray:
        """Return the slots that were not touched for longest, `most` of them at most, none of them in a turn."""
        candidates = np.flatnonzero(self.used & (self.touched < turn))
        if len(candidates) <= most:
            return candidates
        return candidates[np.argpartition(self.touched[candidates], most - 1)[:most]]
