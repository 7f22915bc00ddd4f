"""The states of some series under another model version, folded from journal and history beside the serving ones.

A series that has seen more than `replay_steps` steps is rebuilt from its last ones: hidden vectors and statistics
forget. Its window begins a whole number of memories (and periods of slow layers) after its start, so that the ring and
the clocks of layers stand as if all of it had been seen. A version that still has snapshots goes on from them.

Knows lanes and storage; knows nothing of the engine, of threads or of gRPC.

Shapes: N series.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from forecaster.errors import StorageError, UnavailableError
from forecaster.model.bundle import Bundle
from forecaster.model.state import State
from forecaster.serving.buckets import Grouped, bucket, marked
from forecaster.serving.calibration import Calibration
from forecaster.serving.census import EARLIEST_US, Census, memory_steps, ring_rows, windows
from forecaster.serving.issued import Issued
from forecaster.serving.lane import Lane
from forecaster.serving.records import Attributes, Columns, Deletion, IntArray, Record
from forecaster.serving.recovery import remembered
from forecaster.serving.replay import Part, in_parts
from forecaster.serving.storage import Journal, Snapshots
from forecaster.serving.store import SeriesStore
from forecaster.serving.volatile_storage import VolatileSnapshots

_ALWAYS_US, _NEVER_US = -(2**63), 2**63 - 1
_AT_ONCE = 1024


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What `Staging` made.

    Args:
        names: N of them.
        state: [N, ...].
        static_digest: int64 [N].
        touched_us: int64 [N].
        offset: steps before the window, which the states do not count, int64 [N].
    """

    names: list[str]
    state: State
    static_digest: IntArray
    touched_us: IntArray
    offset: IntArray

    def of(self, part: slice) -> "Rebuilt":
        """Return some of them."""
        state = {name: tensor[part] for name, tensor in self.state.items()}
        return Rebuilt(self.names[part], state, self.static_digest[part], self.touched_us[part], self.offset[part])


class Staging:
    """Series of some buckets under another version.

    Args:
        bundle: that version.
        census: of the lane that has them now, of these buckets.
        moving: the buckets, bool [1024].
        journal: for this thread.
        snapshots: of that version, which all its series go on from; None to rebuild all.
        replay_steps: of a series at least, if it has seen so many.
        calibration: of that version, if series have any.
        should_stop: asked at every record; `fold` raises UnavailableError soon after it says so.
    """

    def __init__(
        self,
        bundle: Bundle,
        census: Census,
        moving: np.ndarray,
        journal: Journal,
        snapshots: Snapshots | None,
        *,
        replay_steps: int,
        calibration: Calibration | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._should_stop, self._give_way = should_stop, _nothing
        self._census, self._moving, self._journal = census, moving.copy(), journal
        device = next(bundle.model.parameters()).device
        mine = snapshots or VolatileSnapshots()
        self.lane = Lane(bundle, "", SeriesStore(bundle, mine, device=device, calibration=calibration))
        self._index: dict[str, int] = {name: k for k, name in enumerate(census.names.tolist())}
        self._behind_us, self._offset = windows(census, bundle, replay_steps)
        self._first_us = np.full(len(census), _NEVER_US)  # the first row that was found of each
        self._goes_on = np.zeros(len(census), dtype=bool)  # from a snapshot
        self._newer = Grouped()  # series that are not in the census
        self._is_cut = False  # whether journal and history have less than everything
        self._sequence, self._begun = 0, False
        self._from_snapshots = snapshots is not None
        if snapshots is not None:
            self._sequence = snapshots.complete_through(bundle.fingerprint) or 0

    def fold(self, through: int = 2**62, give_way: Callable[[], None] | None = None) -> int:
        """Take in what the journal holds up to a record behind what was taken in before; return how many steps it was.

        `give_way` is called at every record, and may rest.
        """
        self._give_way = give_way or _nothing
        before = self.lane.steps
        if not self._begun:
            self._begin()
        self._take(itertools.takewhile(lambda one: one[0] <= through, self._journal.read(self._sequence)))
        return self.lane.steps - before

    def rebuilt(self, moving: np.ndarray) -> Rebuilt:
        """Return the states of some of the buckets; raises StorageError if one of their numbers is not finite."""
        store = self.lane.store
        names = [name for name in self._names(moving) if name in store.resident]
        slots = np.array([store.resident[name] for name in names], dtype=np.int64)
        state = store.gather_whole(slots)
        for name, tensor in state.items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise StorageError(f"the rebuilt states have numbers in {name!r} that are not finite")
        offset = np.array([self._offset[k] if (k := self._index.get(name, -1)) >= 0 else 0 for name in names])
        return Rebuilt(
            names, state, store.mirrors.static_digest[slots], store.mirrors.touched_us[slots], offset.astype(np.int64)
        )

    def release(self, moving: np.ndarray) -> None:
        """Let go of buckets whose series have moved: nothing that comes concerns them."""
        names, resident = self._names(moving), self.lane.store.resident
        self.lane.store.forget([name for name in names if name in resident])
        self._newer.discard(names)
        for name in names:
            self._index.pop(name, None)
        self._moving &= ~moving

    def incomplete(self, source: Lane, moving: np.ndarray) -> list[str]:
        """Return the series of some buckets of which less was found than a lane's states remember.

        They are left out from now on. Where journal and history have everything there are none.
        """
        store, resident = self.lane.store, source.store.resident
        memory, step_us = memory_steps(source.bundle), source.bundle.step_us
        short = []
        for place in np.flatnonzero(moving[self._census.buckets]).tolist():
            name, first_us = self._census.names[place], self._first_us[place]
            k = self._index.get(name, -1)
            if k < 0 or self._goes_on[k] or (first_us < _NEVER_US and not self._is_cut):
                continue
            clock_us, position = self._census.clock_us[k], self._census.position[k]
            if (slot := resident.get(name, -1)) >= 0:
                clock_us, position = source.store.mirrors.clock_us[slot], source.store.mirrors.position[slot]
            if first_us > clock_us - (min(position, memory) - 1) * step_us:
                short.append(name)
        store.forget(name for name in short if name in store.resident)
        # Those that began since the census: without a journal nothing else tells of them.
        begun = source.store.begun.of(moving) if source.store.begun is not None else []
        return short + [name for name in begun if name not in store.resident]

    def take_rings(self, source: Lane, names: Sequence[str]) -> None:
        """Take the last values that a lane's states remember of some series, of which journal and history have less.

        Their covariates are not remembered, and what lies further back is forgotten; but a series that could be
        forecast still can.
        """
        self._offset[[self._index[name] for name in names if name in self._index]] = 0
        self._newer.add(name for name in names if name not in self._index)
        at_once, store = min(_AT_ONCE, max(source.store.max_resident // 2, 1)), self.lane.store
        for start in range(0, len(names), at_once):
            some = tuple(names[start : start + at_once])
            columns, observed = ring_rows(source, some)
            self._replay(max(self._sequence, 1), columns)
            slots = store.bring(some)
            needed = np.minimum(observed, self.lane.model.config.min_history or 1)
            few = store.mirrors.observed_count[slots] < needed
            store.count_on(slots[few], store.mirrors.position[slots[few]], needed[few])

    def _names(self, moving: np.ndarray) -> list[str]:
        """Return the series of some buckets, those that are newer than the census too."""
        known = self._census.names[moving[self._census.buckets]].tolist()
        return list(dict.fromkeys((*known, *self._newer.of(moving))))

    def _begin(self) -> None:
        """Begin with the snapshots or the windows, and take in what came before the census."""
        self._begun, self._is_cut = True, self._journal.first_sequence() > 1
        if self._from_snapshots:
            self._check_reach()
            self._go_on()
        self._begin_windows(np.flatnonzero(self._offset > 0))
        before = itertools.takewhile(
            lambda one: one[0] <= self._census.sequence,
            self._journal.read(self._sequence, since_us=int(self._behind_us.min()) if len(self._census) else None),
        )
        self._take(before)
        self._sequence = max(self._sequence, self._census.sequence)  # series that are newer may have older times

    def _check_reach(self) -> None:
        """Raise StorageError if records behind the snapshots are gone."""
        if self._sequence and (first := self._journal.first_sequence()) > self._sequence + 1:
            raise StorageError(f"snapshots hold records up to {self._sequence} and the journal begins with {first}")

    def _go_on(self) -> None:
        """Take the states of snapshots; a series whose snapshot is corrupted is rebuilt from all that there is."""
        store, lost, names = self.lane.store, set[str](), self._census.names.tolist()
        store.on_lost = lost.update
        for start in range(0, len(names), _AT_ONCE):
            store.bring(names[start : start + _AT_ONCE])
        store.retire()
        self._goes_on[:] = [name not in lost for name in names]
        self._behind_us[self._goes_on], self._offset[self._goes_on] = _ALWAYS_US, 0
        if lost:
            self._sequence = 0

    def _begin_windows(self, places: IntArray) -> None:
        """Let the windows of series with a longer past begin with a missing value."""
        if len(places):
            names, count = tuple(self._census.names[places].tolist()), len(places)
            times = self._behind_us[places]
            oldest = max(self._journal.first_sequence() - 1, 1)  # what was given up to there, no record will tell
            self._replay(oldest, Columns(names, np.arange(count, dtype=np.int32), times, np.full(count, np.nan)))

    def _replay(self, sequence: int, columns: Columns) -> None:
        part = Part()
        part.add(sequence, columns)
        remembered(self.lane, self._journal, part)
        self.lane.replay(part)

    def _take(self, records: Iterator[tuple[int, Record]]) -> None:
        for part in in_parts(self._mine(records)):
            if isinstance(part, Part):
                remembered(self.lane, self._journal, part)
                self.lane.replay(part)
            else:
                self._forget(*part)

    def _forget(self, sequence: int, deletion: Deletion) -> None:
        """Forget a series' state, unless it is of after the deletion; what the census has of it may be of after it."""
        store, name = self.lane.store, deletion.series_id
        store.begin_turn()
        slot = int(store.bring([name])[0])
        if slot >= 0 and store.stands(store.bring([name]))[0] < sequence:
            store.forget([name])
        k = self._index.get(name, -1)
        if k >= 0 and sequence > self._census.sequence:
            del self._index[name]
            self._behind_us[k], self._offset[k] = _ALWAYS_US, 0
        elif k >= 0:
            self._first_us[k] = _NEVER_US
            if self._offset[k] > 0 and name not in store.resident:
                self._begin_windows(np.array([k]))

    def _mine(self, records: Iterator[tuple[int, Record]]) -> Iterator[tuple[int, Record]]:
        """Yield what of the records concerns these series."""
        for sequence, record in records:
            if self._should_stop():
                raise UnavailableError("the server was told to stop while it rebuilt states")
            self._give_way()
            self._sequence = sequence
            if isinstance(record, Deletion):
                if self._moving[bucket(record.series_id)]:
                    yield sequence, record
                continue
            codes = self._codes(record.series_ids, sequence)
            if (codes < -1).any() or (codes >= 0).any():
                mine = self._part(record, codes)
                if len(mine):
                    yield sequence, mine

    def _codes(self, names: Sequence[str], sequence: int) -> IntArray:
        """Return the series' places in the census, -2 for those that are newer than it, -1 for others."""
        codes = np.fromiter((self._index.get(name, -1) for name in names), np.int64, len(names))
        if sequence > self._census.sequence:
            for k in np.flatnonzero(codes < 0).tolist():
                if self._moving[bucket(names[k])]:
                    codes[k] = -2
                    self._newer.add([names[k]])
        return codes

    def _part(self, record: Columns | Attributes | Issued, codes: IntArray) -> Columns | Attributes | Issued:
        if not isinstance(record, Columns):
            return record.of(np.flatnonzero(codes != -1).tolist())
        behind = np.where(codes == -2, _ALWAYS_US, _NEVER_US)
        behind[codes >= 0] = self._behind_us[codes[codes >= 0]]
        part = record.rows(np.flatnonzero(record.time_us > behind[record.series]))
        places = codes[part.series]
        np.minimum.at(self._first_us, places[places >= 0], part.time_us[places >= 0])
        used, series = np.unique(part.series, return_inverse=True)
        names = tuple(part.series_ids[i] for i in used.tolist())
        rest = (part.time_us, part.values, part.covariate_names, part.covariates)
        return Columns(names, series.astype(np.int32), *rest)


def _nothing() -> None:
    """Go on."""


def refolded(
    bundle: Bundle, names: Sequence[str], journal: Journal, calibration: Calibration | None = None, *, through: int
) -> Rebuilt:
    """Return the states of some series as the fold of what journal and history have of them up to a record."""
    every = np.array(names, dtype=object)
    buckets, zeros = np.fromiter(map(bucket, names), np.int64, len(names)), np.zeros(len(names), dtype=np.int64)
    clocks = np.full(len(names), EARLIEST_US)
    moving = marked(buckets)
    census = Census(through, every, buckets, clocks, zeros)
    staging = Staging(bundle, census, moving, journal, VolatileSnapshots(), replay_steps=1, calibration=calibration)
    staging.fold(through)
    return staging.rebuilt(moving)
