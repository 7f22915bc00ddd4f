"""The states of some series under a version as of a record, folded from journal and history beside the serving ones.

`starts` says where each series begins. Knows lanes and storage; knows nothing of the engine, of threads or of gRPC.

Shapes: N series of the census.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from forecaster.errors import BundleError, DamagedHistoryError, UnavailableError
from forecaster.serving.lanes.lane import Lane
from forecaster.serving.lanes.replaying import replay
from forecaster.serving.rebuilding.census import EARLIEST_US, Census
from forecaster.serving.rebuilding.in_order_of_time import Gathering, in_groups
from forecaster.serving.rebuilding.rebuilt import Rebuilt
from forecaster.serving.rebuilding.recovery import remembered
from forecaster.serving.rebuilding.row_filter import ALWAYS_US, NEVER_US, RowFilter
from forecaster.serving.storage.contract import Journal
from forecaster.serving.storage.records import Columns, Deletion, IntArray, Record
from forecaster.serving.storage.replay import Part, in_parts

_AT_ONCE = 1024


class Fold:
    """One fold, which is taken further whenever the journal has gone on.

    Args:
        lane: of the version, with the states that series go on from, if any.
        rows: which rows are folded.
        journal: for this thread.
        since: the record behind which the lane's states go on.
        should_stop: asked at every record; `advance` raises UnavailableError soon after it says so.
        is_amended: whether the records of all series of the census have to be sorted.

    Attributes:
        damage: of the history, where it may hold rows of these series.
        is_cut: whether journal and history had less than everything when this began.
    """

    def __init__(
        self,
        lane: Lane,
        rows: RowFilter,
        journal: Journal,
        *,
        since: int = 0,
        should_stop: Callable[[], bool] = lambda: False,
        is_amended: bool = False,
    ) -> None:
        self.lane, self.rows = lane, rows
        self.damage: DamagedHistoryError | None = None
        self._journal, self._should_stop, self._give_way = journal, should_stop, _nothing
        self._sequence, self._is_past_taken = since, False
        # Series of the census with late or corrected values, by place.
        self._amended: dict[int, None] = dict.fromkeys(range(len(self.census))) if is_amended else {}
        self._is_amended = is_amended
        self._first_sequence = journal.first_sequence()
        self._damaged = np.zeros(len(self.census), dtype=bool)  # what may hold rows of theirs is
        self.begin_windows(np.flatnonzero((rows.offset > 0) & ~rows.settled))

    @property
    def census(self) -> Census:
        """The series, as of the record before which only their windows count."""
        return self.rows.census

    @property
    def is_cut(self) -> bool:
        """Whether journal and history had less than everything when this began."""
        return self._first_sequence > 1

    def advance(self, through: int = 2**62, give_way: Callable[[], None] | None = None) -> int:
        """Take in what the journal holds up to a record behind what was taken in before; return how many steps it was.

        `give_way` is called at every record, and may rest.
        """
        self._give_way = give_way or _nothing
        before = self.lane.steps
        if not self._is_past_taken:
            # Those that are sorted have nothing yet that a deletion of before the census could take away.
            self._take(iter(()) if self._is_amended else self._past())
            self._take_in_order_of_time(np.array(list(self._amended), dtype=np.int64))
            # Behind the census there are series that are newer, which may have older times.
            self._sequence, self._is_past_taken = max(self._sequence, self.census.sequence), True
        records = self._journal.read(self._sequence, on_damage=self._leave_out)
        self._take(itertools.takewhile(lambda item: item[0] <= through, records))
        return self.lane.steps - before

    def damaged(self) -> list[str]:
        """Return the series that a damaged part of the history may have rows of: their states are not whole."""
        return self.census.names[self._damaged].tolist()  # type: ignore[no-any-return]

    def rebuilt(self, moving: np.ndarray) -> Rebuilt:
        """Return the states of some of the buckets; those that are not finite start afresh, where they stand."""
        return self.states(self.names(moving))

    def states(self, series_ids: Sequence[str]) -> Rebuilt:
        """Return the states of those of some series that have one."""
        store, rows = self.lane.store, self.rows
        names = [name for name in series_ids if name in store.resident]
        slots = np.array([store.resident[name] for name in names], dtype=np.int64)
        if len(broken := store.broken(slots)):
            self.lane.restart(broken)
        state = store.gather_whole(slots)
        offset = np.array([rows.offset[k] if (k := rows.index.get(name, -1)) >= 0 else 0 for name in names])
        return Rebuilt(
            names, state, store.mirrors.static_digest[slots], store.mirrors.touched_us[slots], offset.astype(np.int64)
        )

    def names(self, moving: np.ndarray) -> list[str]:
        """Return the series of some buckets, those that are newer than the census too."""
        known = self.census.names[moving[self.census.buckets]].tolist()
        return list(dict.fromkeys((*known, *self.rows.newer.of(moving))))

    def check(self) -> None:
        """Raise BundleError if most of the states are not finite: then the version is to blame, not the series."""
        store = self.lane.store
        slots = store.used_slots(0, store.slab.capacity)
        count = sum(len(store.broken(slots[low : low + _AT_ONCE])) for low in range(0, len(slots), _AT_ONCE))
        if 2 * count > len(slots):
            raise BundleError(f"its states of {count} of {len(slots)} series are not finite numbers")

    def release(self, moving: np.ndarray) -> None:
        """Let go of buckets whose series have moved: nothing that comes concerns them."""
        names, resident = self.names(moving), self.lane.store.resident
        self.lane.store.forget([name for name in names if name in resident])
        self.rows.release(names, moving)

    def replay(self, columns: Columns, sequence: int = 0) -> None:
        """Take in rows that no record has, as of a record; left out, of the last one that was taken in."""
        part = Part()
        part.add(max(sequence or self._sequence, 1), columns)
        self._replay(part)

    def begin_windows(self, places: IntArray) -> None:
        """Let the windows of series with a longer past begin with a missing value; `places` are in the census."""
        if len(places):
            names, count = tuple(self.census.names[places].tolist()), len(places)
            columns = Columns(
                names, np.arange(count, dtype=np.int32), self.rows.behind_us[places], np.full(count, np.nan)
            )
            # What was said before the first record that is left, no record will tell.
            self.replay(columns, max(self._first_sequence - 1, 1))

    def _past(self) -> Iterator[tuple[int, Record]]:
        """Return the records of before the census among which those of the series are that are still to be rebuilt."""
        census, left = self.census, ~self.rows.settled
        if not left.any():
            return iter(())
        clocks = census.clock_us[left]
        before_us = int(clocks.max()) + 1 if clocks.min() > EARLIEST_US else None
        since_us = int(self.rows.behind_us[left].min())
        records = self._journal.read(self._sequence, since_us=since_us, before_us=before_us, on_damage=self._leave_out)
        return itertools.takewhile(lambda item: item[0] <= census.sequence, records)

    def _take_in_order_of_time(self, places: IntArray) -> None:
        """Fold series of the census whose records are not in the order of time: anew, or on from their states."""
        rows, census = self.rows, self.census
        goes_on = rows.goes_on[places]
        rows.begin_anew(places[~goes_on])
        groups = [in_groups(some, census, rows.offset) for some in (places[~goes_on], places[goes_on]) if len(some)]
        for group in itertools.chain.from_iterable(groups):
            only = rows.only(group)
            gathering = Gathering(only, self.lane.covariates)
            gathering.read(
                self._journal, on_damage=self._leave_out, give_way=self._give_way, check_going=self._check_going
            )
            rows.first_us[group] = only.first_us
            names = census.names[group].tolist()
            self.lane.store.begin_turn()
            if not rows.goes_on[group[0]]:
                self.lane.store.forget(self._there(names))
                self.begin_windows(group[rows.offset[group] > 0])
            part = Part()
            attributes = self._journal.attributes(names, census.sequence)
            if len(attributes):
                part.add(census.sequence, attributes)
            if len(columns := gathering.columns()):
                part.add(census.sequence, columns)
            for issued in gathering.issued():
                part.add(census.sequence, issued)
            if part.series_ids:
                self._replay(part)

    def _there(self, names: Sequence[str]) -> list[str]:
        """Return those of some series that have a state by now."""
        slots = self.lane.store.bring(names)
        return [name for name, slot in zip(names, slots.tolist(), strict=True) if slot >= 0]

    def _check_going(self) -> None:
        if self._should_stop():
            raise UnavailableError("the server was told to stop while it rebuilt states")

    def _leave_out(self, error: DamagedHistoryError) -> None:
        """Go on past a damaged part of the history: of series that may have rows in it nothing is folded across it."""
        self._damaged |= self.rows.behind_us < error.last_us
        self.damage = error if self._damaged.any() else None

    def _take(self, records: Iterator[tuple[int, Record]]) -> None:
        for part in in_parts(self._concerned(records)):
            if isinstance(part, Part):
                self._replay(part)
            else:
                self._forget(*part)

    def _replay(self, part: Part) -> None:
        remembered(self.lane, self._journal, part)
        replay(self.lane, part)

    def _forget(self, sequence: int, deletion: Deletion) -> None:
        """Forget a series' state, unless it is of after the deletion; what the census has of it may be of after it."""
        store, rows, name = self.lane.store, self.rows, deletion.series_id
        k, is_past = rows.index.get(name, -1), sequence <= self.census.sequence
        if k >= 0 and rows.settled[k] and is_past:
            return  # who rebuilt it knew
        store.begin_turn()
        slot = int(store.bring([name])[0])
        if slot >= 0 and store.stands(store.bring([name]))[0] < sequence:
            store.forget([name])
        if k >= 0 and not is_past:
            del rows.index[name]
            rows.behind_us[k], rows.offset[k] = ALWAYS_US, 0
        elif k >= 0:
            rows.first_us[k] = NEVER_US
            if rows.offset[k] > 0 and name not in store.resident:
                self.begin_windows(np.array([k]))

    def _concerned(self, records: Iterator[tuple[int, Record]]) -> Iterator[tuple[int, Record]]:
        """Yield what of the records concerns these series."""
        for sequence, record in records:
            self._check_going()
            self._give_way()
            yield from self.rows.deletions.added()
            self._sequence = sequence
            if isinstance(record, Deletion):
                yield from self.rows.deletions.met(sequence, record.series_id)
                continue
            if isinstance(record, Columns) and record.amends:
                self._note_amended(record, sequence)
                continue
            codes = self.rows.codes(record.series_ids, sequence)
            if (codes < -1).any() or (codes >= 0).any():
                rest = self.rows.part(record, codes)
                if len(rest):
                    yield sequence, rest
        yield from self.rows.deletions.added()

    def _note_amended(self, record: Columns, sequence: int) -> None:
        """Note series whose rows have to be sorted.

        What a snapshot does not know of them, or comes behind the census, is folded by whoever has the states then: it
        waits there (`states.amended_series`).
        """
        if sequence <= self.census.sequence:
            codes = self.rows.codes(record.series_ids, sequence)
            self._amended |= dict.fromkeys(k for k in codes[codes >= 0].tolist() if not self.rows.goes_on[k])


def _nothing() -> None:
    """Go on."""
