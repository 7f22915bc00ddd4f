"""The states of some series under another model version, folded from journal and history beside the serving ones.

A series that has seen more than `replay_steps` steps is rebuilt from its last ones: hidden vectors and statistics
forget. Its window begins a whole number of memories (and periods of slow layers) after its start, so that the ring and
the clocks of layers stand as if all of it had been seen. A version that still has snapshots goes on from them.

Knows lanes and storage; knows nothing of the engine, of threads or of gRPC.

Shapes: N series.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
import torch

from forecaster.errors import StorageError
from forecaster.model.bundle import Bundle
from forecaster.model.memory import unroll
from forecaster.model.state import State
from forecaster.serving.calibration import Calibration
from forecaster.serving.issued import Issued
from forecaster.serving.lane import Lane
from forecaster.serving.lanes import BUCKETS, bucket
from forecaster.serving.records import Attributes, Columns, Deletion, IntArray, Record
from forecaster.serving.recovery import remembered
from forecaster.serving.replay import Part, in_parts
from forecaster.serving.storage import Journal, Snapshots
from forecaster.serving.store import SeriesStore
from forecaster.serving.volatile_storage import VolatileSnapshots

_RINGS_AT_ONCE = 1024


@dataclass(frozen=True, slots=True)
class Census:
    """The series of a lane at one record.

    Args:
        sequence: of the record.
        names: object [N].
        buckets: int64 [N].
        clock_us: int64 [N].
        position: int64 [N].
    """

    sequence: int
    names: np.ndarray
    buckets: IntArray
    clock_us: IntArray
    position: IntArray

    def __len__(self) -> int:
        return len(self.names)

    def of(self, moving: np.ndarray) -> "Census":
        """Return those whose buckets are marked, bool [1024]."""
        rows = np.flatnonzero(moving[self.buckets])
        return Census(self.sequence, self.names[rows], self.buckets[rows], self.clock_us[rows], self.position[rows])


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
    ) -> None:
        self._census, self._moving, self._journal = census, moving, journal
        self.lane = Lane(bundle, "", SeriesStore(bundle, snapshots or VolatileSnapshots(), calibration=calibration))
        self._index: dict[str, int] = {name: k for k, name in enumerate(census.names.tolist())}
        self._behind_us, self._offset = _windows(census, bundle, replay_steps)
        self._sequence, self._begun = 0, False
        if snapshots is not None:
            self._behind_us[:], self._offset[:] = -(2**63), 0
            self._sequence = snapshots.complete_through(bundle.fingerprint) or 0

    def fold(self, through: int = 2**62) -> int:
        """Take in what the journal holds up to a record behind what was taken in before; return how many rows."""
        since_us = None
        if not self._begun:
            self._begun = True
            self._begin()
            since_us = int(self._behind_us.min()) if len(self._census) else None
        rows = 0
        records = takewhile(lambda one: one[0] <= through, self._journal.read(self._sequence, since_us=since_us))
        for part in in_parts(self._mine(records)):
            if isinstance(part, Part):
                remembered(self.lane, self._journal, part)
                rows += self.lane.replay(part)
            else:
                self._forget(part[1])
        return rows

    def rebuilt(self) -> Rebuilt:
        """Return the states; raises StorageError if one of their numbers is not finite."""
        store = self.lane.store
        names = list(store.resident)
        slots = np.array([store.resident[name] for name in names], dtype=np.int64)
        state = store.gather_whole(slots)
        for name, tensor in state.items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise StorageError(f"the rebuilt states have numbers in {name!r} that are not finite")
        offset = np.array([self._offset[k] if (k := self._index.get(name, -1)) >= 0 else 0 for name in names])
        return Rebuilt(names, state, store.static_digest[slots], store.touched_us[slots], offset.astype(np.int64))

    def missing(self) -> list[str]:
        """Return the series of which nothing was found but where their windows begin; they are left out from now on."""
        store = self.lane.store
        found = {name: store.clock_us[slot] for name, slot in store.resident.items()}
        missing = [name for name, k in self._index.items() if found.get(name, self._behind_us[k]) == self._behind_us[k]]
        store.forget(name for name in missing if name in found)
        return missing

    def take_rings(self, source: Lane, names: Sequence[str]) -> None:
        """Take the last values that a lane's states remember of some series, of which journal and history have nothing.

        Their covariates are not remembered, and what lies further back is forgotten.
        """
        self._offset[[self._index[name] for name in names if name in self._index]] = 0
        for start in range(0, len(names), _RINGS_AT_ONCE):
            part = Part()
            part.add(max(self._sequence, 1), _ring_rows(source, tuple(names[start : start + _RINGS_AT_ONCE])))
            remembered(self.lane, self._journal, part)
            self.lane.replay(part)

    def _begin(self) -> None:
        """Let the windows of series with a longer past begin with a missing value."""
        long = np.flatnonzero(self._offset > 0)
        if not len(long):
            return
        names = tuple(self._census.names[long].tolist())
        columns = Columns(
            names, np.arange(len(long), dtype=np.int32), self._behind_us[long], np.full(len(long), np.nan)
        )
        part = Part()
        part.add(1, columns)
        remembered(self.lane, self._journal, part)
        self.lane.replay(part)

    def _forget(self, deletion: Deletion) -> None:
        store = self.lane.store
        store.begin_turn()
        if store.bring([deletion.series_id])[0] >= 0:
            store.forget([deletion.series_id])
        if (k := self._index.pop(deletion.series_id, -1)) >= 0:
            self._behind_us[k], self._offset[k] = -(2**63), 0

    def _mine(self, records: Iterator[tuple[int, Record]]) -> Iterator[tuple[int, Record]]:
        """Yield what of the records concerns these series."""
        for sequence, record in records:
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
        return codes

    def _part(self, record: Columns | Attributes | Issued, codes: IntArray) -> Columns | Attributes | Issued:
        if not isinstance(record, Columns):
            return record.of(np.flatnonzero(codes != -1).tolist())
        behind = np.where(codes >= 0, self._behind_us[codes] if len(self._behind_us) else 0, 2**63 - 1)
        behind[codes == -2] = -(2**63)
        part = record.rows(np.flatnonzero(record.time_us > behind[record.series]))
        used, series = np.unique(part.series, return_inverse=True)
        names = tuple(part.series_ids[i] for i in used.tolist())
        rest = (part.time_us, part.values, part.covariate_names, part.covariates)
        return Columns(names, series.astype(np.int32), *rest)


def refolded(
    bundle: Bundle, names: Sequence[str], journal: Journal, calibration: Calibration | None = None, *, through: int
) -> Rebuilt:
    """Return the states of some series as the fold of what journal and history have of them up to a record."""
    every = np.array(names, dtype=object)
    buckets, zeros = np.fromiter(map(bucket, names), np.int64, len(names)), np.zeros(len(names), dtype=np.int64)
    long_ago = np.full(len(names), -(2**62))  # all rows are behind it
    moving = np.zeros(BUCKETS, dtype=bool)
    moving[buckets] = True
    census = Census(journal.last_sequence(), every, buckets, long_ago, zeros)
    staging = Staging(bundle, census, moving, journal, VolatileSnapshots(), replay_steps=1, calibration=calibration)
    staging.fold(through)
    return staging.rebuilt()


def _ring_rows(source: Lane, names: tuple[str, ...]) -> Columns:
    """Return what the states of series remember as rows."""
    source.store.begin_turn()
    state = source.store.gather(source.store.bring(names))
    past = unroll(state["ring"].cpu(), state["ring_observed"].cpu(), state["position"].cpu())
    memory = past.values.shape[1]
    back = np.arange(memory)[::-1]
    times = state["time_us"].cpu().numpy()[:, None] - back * source.bundle.step_us
    there = back < state["position"].cpu().numpy()[:, None]
    values = torch.where(past.observed, past.values, torch.nan).numpy()
    series = np.broadcast_to(np.arange(len(names), dtype=np.int32)[:, None], there.shape)
    return Columns(names, series[there], times[there], values[there])


def _windows(census: Census, bundle: Bundle, replay_steps: int) -> tuple[IntArray, IntArray]:
    """Return the time behind which each series' rows count, and the steps before that: int64 [N] each."""
    config = bundle.model.config
    memory = {one.name: one.shape for one in bundle.model.state_spec}["ring"][0]
    period = math.lcm(memory, *(config.layer_periods or ()))
    steps = max(replay_steps, memory + 1)
    offset = np.maximum(census.position - steps, 0) // period * period
    counted = census.position - offset
    first_us = census.clock_us - (counted - 1) * bundle.step_us
    return np.where(offset > 0, first_us, first_us - 1), offset
