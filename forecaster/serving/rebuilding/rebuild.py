"""The states of some series under another model version, folded from journal and history beside the serving ones.

A series that has seen more than `replay_steps` steps is rebuilt from its last ones: hidden vectors and statistics
forget. Its window begins a whole number of memories (and periods of slow layers) after its start, so that the ring and
the clocks of layers stand as if all of it had been seen. A version that still has snapshots goes on from them.

Knows lanes and storage; knows nothing of the engine, of threads or of gRPC.

Shapes: N series.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from forecaster.errors import BundleError, DamagedHistoryError, StorageError, UnavailableError
from forecaster.model.bundle import Bundle
from forecaster.serving.calibration.calibration import Calibration
from forecaster.serving.lanes.lane import Lane
from forecaster.serving.lanes.replaying import replay
from forecaster.serving.rebuilding.census import EARLIEST_US, Census, memory_steps, ring_rows, windows
from forecaster.serving.rebuilding.rebuilt import Rebuilt
from forecaster.serving.rebuilding.recovery import remembered
from forecaster.serving.rebuilding.row_filter import ALWAYS_US, NEVER_US, RowFilter
from forecaster.serving.states.store import SeriesStore
from forecaster.serving.storage.contract import RETURNED, Journal, Snapshots
from forecaster.serving.storage.records import Columns, Deletion, IntArray, Record
from forecaster.serving.storage.replay import Part, in_parts
from forecaster.serving.storage.volatile import VolatileSnapshots
from forecaster.serving.telemetry import LOGGER

_AT_ONCE = 1024
_NAMED = 10  # series in the log


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
        self._census, self._journal = census, journal
        self._rows = RowFilter(census, moving, *windows(census, bundle, replay_steps))
        device = next(bundle.model.parameters()).device
        mine = snapshots or VolatileSnapshots()
        self.lane = Lane(bundle, "", SeriesStore(bundle, mine, device=device, calibration=calibration))
        self._goes_on = np.zeros(len(census), dtype=bool)  # from a snapshot
        self._short = np.zeros(len(census), dtype=bool)  # what may hold rows of theirs is damaged
        self.damage: DamagedHistoryError | None = None
        self._is_cut = False  # whether journal and history have less than everything
        self._sequence, self._begun = 0, False
        self._from = snapshots
        if snapshots is not None:
            self._sequence = snapshots.complete_through(bundle.fingerprint) or 0

    def begin_with(self, other: "Staging") -> None:
        """Take over what another one has rebuilt up to the census, of series that belong here; before all else."""
        places = [place for place, name in enumerate(other._census.names.tolist()) if name in self._rows.index]
        mine = np.array([self._rows.index[other._census.names[place]] for place in places], dtype=np.int64)
        self._rows.settled[mine], self._rows.first_us[mine] = True, other._rows.first_us[places]
        theirs = other.lane.store
        names = [name for name in other._census.names[places].tolist() if name in theirs.resident]
        slots = np.array([theirs.resident[name] for name in names], dtype=np.int64)
        digests, touched = theirs.mirrors.static_digest[slots], theirs.mirrors.touched_us[slots]
        self.lane.store.take(names, theirs.gather_whole(slots), digests, touched)
        theirs.forget(names)

    def fold(self, through: int = 2**62, give_way: Callable[[], None] | None = None) -> int:
        """Take in what the journal holds up to a record behind what was taken in before; return how many steps it was.

        `give_way` is called at every record, and may rest.
        """
        self._give_way = give_way or _nothing
        before = self.lane.steps
        if not self._begun:
            self._begin()
        records = self._journal.read(self._sequence, on_damage=self._leave_out)
        self._take(itertools.takewhile(lambda one: one[0] <= through, records))
        return self.lane.steps - before

    def short(self) -> list[str]:
        """Return the series that a damaged part of the history may have rows of: their states are not whole."""
        return self._census.names[self._short].tolist()  # type: ignore[no-any-return]

    def rebuilt(self, moving: np.ndarray) -> Rebuilt:
        """Return the states of some of the buckets; those that are not finite start afresh, where they stand."""
        store = self.lane.store
        names = [name for name in self._names(moving) if name in store.resident]
        slots = np.array([store.resident[name] for name in names], dtype=np.int64)
        if len(broken := store.broken(slots)):
            self.lane.restart(broken)
        state = store.gather_whole(slots)
        offset = np.array([self._rows.offset[k] if (k := self._rows.index.get(name, -1)) >= 0 else 0 for name in names])
        return Rebuilt(
            names, state, store.mirrors.static_digest[slots], store.mirrors.touched_us[slots], offset.astype(np.int64)
        )

    def check(self) -> None:
        """Raise BundleError if most of the states are not finite: then the version is to blame, not the series."""
        store = self.lane.store
        slots = store.used_slots(0, store.slab.capacity)
        count = sum(len(store.broken(slots[low : low + _AT_ONCE])) for low in range(0, len(slots), _AT_ONCE))
        if 2 * count > len(slots):
            raise BundleError(f"its states of {count} of {len(slots)} series are not finite numbers")

    def release(self, moving: np.ndarray) -> None:
        """Let go of buckets whose series have moved: nothing that comes concerns them."""
        names, resident = self._names(moving), self.lane.store.resident
        self.lane.store.forget([name for name in names if name in resident])
        self._rows.newer.discard(names)
        for name in names:
            self._rows.index.pop(name, None)
        self._rows.moving &= ~moving

    def incomplete(self, source: Lane, moving: np.ndarray) -> list[str]:
        """Return the series of some buckets of which less was found than a lane's states remember.

        They are left out from now on. Where journal and history have everything there are none.
        """
        store, resident = self.lane.store, source.store.resident
        memory, grid = memory_steps(source.bundle), source.bundle.grid
        short = []
        for place in np.flatnonzero(moving[self._census.buckets]).tolist():
            name, first_us = self._census.names[place], self._rows.first_us[place]
            k = self._rows.index.get(name, -1)
            if k >= 0 and self._short[k]:
                short.append(name)
                continue
            if k < 0 or self._goes_on[k] or (first_us < NEVER_US and not self._is_cut):
                continue
            clock_us, position = self._census.clock_us[k], self._census.position[k]
            if (slot := resident.get(name, -1)) >= 0:
                clock_us, position = source.store.mirrors.clock_us[slot], source.store.mirrors.position[slot]
            if first_us > grid.time(clock_us, 1 - min(position, memory)):
                short.append(name)
        if self.damage is not None and short:
            some = ", ".join(short[:_NAMED])
            LOGGER.error(
                "%d series (%s) are rebuilt from what their states remember: %s", len(short), some, self.damage
            )
        store.forget(name for name in short if name in store.resident)
        # Those that began since the census: without a journal nothing else tells of them.
        begun = source.store.begun.of(moving) if source.store.begun is not None else []
        return short + [name for name in begun if name not in store.resident]

    def take_rings(self, source: Lane, names: Sequence[str]) -> None:
        """Take the last values that a lane's states remember of some series, of which journal and history have less.

        Their covariates are not remembered, and what lies further back is forgotten; but a series that could be
        forecast still can.
        """
        self._rows.offset[[self._rows.index[name] for name in names if name in self._rows.index]] = 0
        self._rows.newer.add(name for name in names if name not in self._rows.index)
        at_once, store = min(_AT_ONCE, max(source.store.max_resident // 2, 1)), self.lane.store
        for start in range(0, len(names), at_once):
            some = tuple(names[start : start + at_once])
            columns, observed = ring_rows(source, some)
            self._replay(max(self._sequence, 1), columns)
            slots = store.bring(some)
            if (slots < 0).any():  # a state that has just started afresh remembers nothing, and stands somewhere
                absent = [some[i] for i in np.flatnonzero(slots < 0).tolist()]
                store.create(absent)
                store.stand_at(store.bring(absent), source.store.standing(absent).clock_us)
                slots = store.bring(some)
            needed = np.minimum(observed, self.lane.model.config.min_history or 1)
            few = store.mirrors.observed_count[slots] < needed
            store.count_on(slots[few], store.mirrors.position[slots[few]], needed[few])

    def _names(self, moving: np.ndarray) -> list[str]:
        """Return the series of some buckets, those that are newer than the census too."""
        known = self._census.names[moving[self._census.buckets]].tolist()
        return list(dict.fromkeys((*known, *self._rows.newer.of(moving))))

    def _begin(self) -> None:
        """Begin with the snapshots or the windows, and take in what came before the census."""
        self._begun, self._is_cut = True, self._journal.first_sequence() > 1
        if self._from is not None:
            self._check_reach()
            self._go_on(self._from)
        self._begin_windows(np.flatnonzero((self._rows.offset > 0) & ~self._rows.settled))
        self._take(itertools.takewhile(lambda one: one[0] <= self._census.sequence, self._past()))
        self._sequence = max(self._sequence, self._census.sequence)  # series that are newer may have older times

    def _past(self) -> Iterator[tuple[int, Record]]:
        """Return the records of before the census among which those of the series are that are still to be rebuilt."""
        census, left = self._census, ~self._rows.settled
        if not left.any():
            return iter(())
        clocks = census.clock_us[left]
        before_us = int(clocks.max()) + 1 if clocks.min() > EARLIEST_US else None
        since_us = int(self._rows.behind_us[left].min())
        return self._journal.read(self._sequence, since_us=since_us, before_us=before_us, on_damage=self._leave_out)

    def _check_reach(self) -> None:
        """Raise StorageError if records behind the snapshots are gone."""
        if self._sequence and (first := self._journal.first_sequence()) > self._sequence + 1:
            raise StorageError(f"snapshots hold records up to {self._sequence} and the journal begins with {first}")

    def _go_on(self, snapshots: Snapshots) -> None:
        """Take the states of snapshots; whose one is corrupted, or was let go of, is rebuilt from all that there is."""
        store, lost, names = self.lane.store, set[str](), self._census.names.tolist()
        store.on_lost = lost.update
        for start in range(0, len(names), _AT_ONCE):
            slots = store.bring(names[start : start + _AT_ONCE])
            absent = [names[start + k] for k in np.flatnonzero(slots < 0).tolist()]
            lost.update(snapshot.series_id for snapshot in snapshots.fetch(RETURNED, absent))
        store.retire()
        self._goes_on[:] = [name not in lost for name in names]
        self._rows.behind_us[self._goes_on], self._rows.offset[self._goes_on] = ALWAYS_US, 0
        if lost:
            self._sequence = 0

    def _leave_out(self, error: DamagedHistoryError) -> None:
        """Go on past a damaged part of the history: of series that may have rows in it nothing is folded across it."""
        self._short |= self._rows.behind_us < error.last_us
        self.damage = error if self._short.any() else None

    def _begin_windows(self, places: IntArray) -> None:
        """Let the windows of series with a longer past begin with a missing value."""
        if len(places):
            names, count = tuple(self._census.names[places].tolist()), len(places)
            times = self._rows.behind_us[places]
            oldest = max(self._journal.first_sequence() - 1, 1)  # what was given up to there, no record will tell
            self._replay(oldest, Columns(names, np.arange(count, dtype=np.int32), times, np.full(count, np.nan)))

    def _replay(self, sequence: int, columns: Columns) -> None:
        part = Part()
        part.add(sequence, columns)
        remembered(self.lane, self._journal, part)
        replay(self.lane, part)

    def _take(self, records: Iterator[tuple[int, Record]]) -> None:
        for part in in_parts(self._mine(records)):
            if isinstance(part, Part):
                remembered(self.lane, self._journal, part)
                replay(self.lane, part)
            else:
                self._forget(*part)

    def _forget(self, sequence: int, deletion: Deletion) -> None:
        """Forget a series' state, unless it is of after the deletion; what the census has of it may be of after it."""
        store, name = self.lane.store, deletion.series_id
        if (k := self._rows.index.get(name, -1)) >= 0 and self._rows.settled[k] and sequence <= self._census.sequence:
            return  # who rebuilt it knew
        store.begin_turn()
        slot = int(store.bring([name])[0])
        if slot >= 0 and store.stands(store.bring([name]))[0] < sequence:
            store.forget([name])
        if k >= 0 and sequence > self._census.sequence:
            del self._rows.index[name]
            self._rows.behind_us[k], self._rows.offset[k] = ALWAYS_US, 0
        elif k >= 0:
            self._rows.first_us[k] = NEVER_US
            if self._rows.offset[k] > 0 and name not in store.resident:
                self._begin_windows(np.array([k]))

    def _mine(self, records: Iterator[tuple[int, Record]]) -> Iterator[tuple[int, Record]]:
        """Yield what of the records concerns these series."""
        for sequence, record in records:
            if self._should_stop():
                raise UnavailableError("the server was told to stop while it rebuilt states")
            self._give_way()
            yield from self._rows.deletions.added()
            self._sequence = sequence
            if isinstance(record, Deletion):
                yield from self._rows.deletions.met(sequence, record.series_id)
                continue
            codes = self._rows.codes(record.series_ids, sequence)
            if (codes < -1).any() or (codes >= 0).any():
                mine = self._rows.part(record, codes)
                if len(mine):
                    yield sequence, mine
        yield from self._rows.deletions.added()


def _nothing() -> None:
    """Go on."""
