"""Late-arriving and corrected values (upserts): judged by what the journal has of their times, and written behind it.

Whoever looks rows up need not be the engine's thread; only that writes. What changed since the look is looked up again.
Knows lanes and journals; knows nothing of how states are folded again.

Shapes: R rows, Q of them sought.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from forecaster.errors import ForecasterError, LimitReachedError, SeriesNotFoundError
from forecaster.serving.counters import WorkDone
from forecaster.serving.lanes.lane import Lane
from forecaster.serving.lanes.lanes import Lanes
from forecaster.serving.states.amended_series import AmendedRegister
from forecaster.serving.states.idle_series import IdleRegister
from forecaster.serving.storage.contract import Journal
from forecaster.serving.storage.records import Columns, IntArray, Record, nothing
from forecaster.serving.storage.words import Bools, Words
from forecaster.serving.work.observing import Observed
from forecaster.serving.work.outcome import Outcome, Verdict
from forecaster.serving.work.sought import May, Sought

Written = tuple[Bools, dict[int, ForecasterError]]  # which rows need no other look; refusals
Settled = tuple[npt.NDArray[np.uint8], dict[int, ForecasterError]]
_MOST_WAITING, _MOST_AT_ONCE = 262_144, 512  # series
_NONE_US = -(2**63)


class LateValues:
    """Writes them; only the engine's thread calls it.

    Args:
        lanes: of the series.
        idle: series that have no state.
        register: of series that wait to be folded again.
        journal: where rows are looked up, if nobody else does.
        append: journals a record and returns its sequence.
        done: counts what became of rows.
    """

    def __init__(
        self,
        lanes: Lanes,
        idle: IdleRegister,
        register: AmendedRegister,
        journal: Journal,
        append: Callable[[Record], int],
        done: WorkDone,
    ) -> None:
        self._lanes, self._idle, self._register, self._journal = lanes, idle, register, journal
        self._append, self._done = append, done

    def looked_up(self, answer: Observed) -> Observed:
        """Return an answer with what the journal tells of rows of which the states cannot."""
        if answer.sought is None:
            return answer
        (settled,) = settle([answer.sought], self._journal, self.write)
        count(self._done, settled)
        return answer.settled(*settled)

    def write(self, columns: Columns, as_of: int) -> Written:
        """Journal rows whose past was looked up as of a record; of one time the last one counts.

        Of those whose past has changed since nothing is written, and those are refused whose series is gone, or would
        be one too many to wait to be folded again. Raises StorageError; nothing is written then.
        """
        names = columns.series_ids
        changed = np.array(self._register.changed_since(names, as_of), dtype=bool)
        clock_us = self._clocks(names)[columns.series]
        is_done: Bools = ~changed[columns.series]
        fits = (clock_us > _NONE_US) & (columns.time_us <= clock_us)
        fits &= self._lanes.active.bundle.grid.has(columns.time_us, clock_us)
        errors: dict[int, ForecasterError] = {}
        for row in np.flatnonzero(is_done & ~fits).tolist():
            name = names[columns.series[row]]
            errors[row] = SeriesNotFoundError(f"series {name!r} was deleted meanwhile", [name])
        is_full = len(self._register) + len(names) > _MOST_WAITING
        waits = np.array([not is_full or name in self._register for name in names], dtype=bool)
        for row in np.flatnonzero(is_done & fits & ~waits[columns.series]).tolist():
            errors[row] = LimitReachedError("too many series wait to be folded again after corrections: try later", 1.0)
        rows = np.flatnonzero(is_done & fits & waits[columns.series])
        if len(rows):
            record = dataclasses.replace(columns.rows(rows).used(), amends=True)
            self._register.note(record, self._append(record))
        return is_done, errors

    def _clocks(self, names: Sequence[str]) -> IntArray:
        """Return the last time of each series, idle ones too, int64 [S]; far in the past where there is no such one."""
        found = np.full(len(names), _NONE_US)
        for lane in self._lanes:
            mine = np.array([k for k, name in enumerate(names) if self._lanes.of(name) is lane], dtype=np.int64)
            standing = lane.store.standing([names[k] for k in mine.tolist()])
            found[mine[standing.exists]] = standing.clock_us[standing.exists]
        absent = {names[k]: k for k in np.flatnonzero(found == _NONE_US).tolist()}
        for idle_series in self._idle.among(list(absent)):
            found[absent[idle_series.series_id]] = idle_series.clock_us
        return found


def late_steps(lane: Lane, wanted: int | None) -> int:
    """Return how many steps late a missing value may come: so many, or the model's memory, two seasons at least."""
    if wanted is not None:
        return wanted
    seasons = lane.model.config.season_lengths or (0,)
    return max(lane.store.memory, 2 * max(seasons))


def sought(lane: Lane, columns: Columns, verdict: Verdict, rights: tuple[Bools, Bools, IntArray], late: int) -> Sought:
    """Return what a verdict says has to be looked up; before anything is applied.

    Args:
        lane: of the series.
        columns: the rows.
        verdict: on them.
        rights: which of them are to replace what was said, bool [R], which have covariates, bool [R], and when each was
            first sent, int64 [R].
        late: a missing value comes so many steps late at most; -1 if none may, nor be corrected, for no journal tells.
    """
    replaces, beside = rights[0][verdict.sought], rights[1][verdict.sought]
    sent_us = rights[2][verdict.sought]
    wanted, grid, store = columns.rows(verdict.sought), lane.bundle.grid, lane.store
    slots = store.bring(columns.series_ids)[wanted.series]
    there = np.flatnonzero(slots >= 0)  # a series that begins in the same batch has no slot yet
    stands_us = np.full(len(wanted), _NONE_US)
    stands_us[there] = store.mirrors.clock_us[slots[there]]
    clock_us = np.maximum(stands_us, _reached(columns, verdict))
    back = grid.index(wanted.time_us, clock_us)
    remembered, held = np.zeros(len(wanted), dtype=bool), np.full(len(wanted), np.nan)
    if late < 0:  # else the journal tells all of it: what the states know of the past may still have to be folded
        old = there[wanted.time_us[there] <= stands_us[there]]
        remembered[old], held[old] = store.held(slots[old], grid.index(wanted.time_us[old], stands_us[old]))
    may = np.where(replaces, np.uint8(May.REPLACE), np.where(back <= late, np.uint8(May.FILL), np.uint8(May.NOTHING)))
    may = may if late >= 0 else np.zeros_like(may)
    whole = replaces & beside
    return Sought(verdict.sought, wanted, grid, late >= 0, clock_us, held, remembered, may, whole, sent_us)


def _reached(columns: Columns, verdict: Verdict) -> IntArray:
    """Return the time to which the rows before each sought one advance its series, if any does, int64 [Q]."""
    accepted, sought_rows, count = verdict.accepted, verdict.sought, len(columns)
    found = np.full(len(sought_rows), _NONE_US)
    if len(accepted):
        keys = columns.series[accepted].astype(np.int64) * count + accepted  # ascending
        before = np.searchsorted(keys, columns.series[sought_rows].astype(np.int64) * count + sought_rows) - 1
        mine = np.flatnonzero((before >= 0) & (columns.series[accepted[before]] == columns.series[sought_rows]))
        found[mine] = columns.time_us[accepted[before[mine]]]
    return found


def count(done: WorkDone, settled: Settled) -> None:
    """Count what became of rows that were looked up."""
    outcomes, errors = settled
    done.reject(errors.values())
    done.duplicate += int((outcomes == Outcome.DUPLICATE).sum())
    done.corrected += int((outcomes == Outcome.CORRECTED).sum())
    done.filled += int((outcomes == Outcome.FILLED).sum())


def settle(
    sought: Sequence[Sought],
    journal: Journal,
    write: Callable[[Columns, int], Written],
    give_way: Callable[[], None] = nothing,
) -> list[Settled]:
    """Return what becomes of the rows of several requests, with what is late or corrected written.

    Args:
        sought: of each request.
        journal: where they are looked up.
        write: see `LateValues.write`.
        give_way: called at every record that is looked at.
    """
    every = Sought.joined(sought)
    outcomes, errors = np.zeros(len(every.rows), dtype=np.uint8), dict[int, ForecasterError]()
    left: IntArray = np.arange(len(outcomes))
    while len(left):
        as_of, some = journal.last_sequence(), every.of(left, left)
        outcomes[left], why = some.judged(_words(some, journal, give_way))
        errors = {row: error for row, error in errors.items() if outcomes[row] == Outcome.REJECTED}
        errors |= {int(left[k]): error for k, error in why.items()}
        changed = [left[:0]]
        for amending in _in_groups(every.wanted, left[np.isin(outcomes[left], (Outcome.CORRECTED, Outcome.FILLED))]):
            is_done, refused = write(every.wanted.rows(amending).used(), as_of)
            outcomes[amending[list(refused)]] = Outcome.REJECTED
            errors |= {int(amending[k]): error for k, error in refused.items()}
            changed.append(amending[~is_done])
        series = every.wanted.series
        left = left[np.isin(series[left], series[np.concatenate(changed)])]
    ends = np.cumsum([len(one.rows) for one in sought])
    return [
        _between(outcomes, errors, int(end) - len(one.rows), int(end)) for one, end in zip(sought, ends, strict=True)
    ]


def _in_groups(wanted: Columns, rows: IntArray) -> list[IntArray]:
    """Return rows in groups of few series each: what is written at once keeps the engine from others meanwhile."""
    rank = np.unique(wanted.series[rows], return_inverse=True)[1] // _MOST_AT_ONCE
    return [rows[rank == group] for group in range(int(rank.max(initial=-1)) + 1)]


def _words(sought: Sought, journal: Journal, give_way: Callable[[], None]) -> Words:
    wanted, whole = sought.wanted, sought.whole
    if whole.any():
        return journal.find(wanted, give_way, whole)
    return journal.find(dataclasses.replace(wanted, covariate_names=(), covariates=None), give_way)


def _between(outcomes: npt.NDArray[np.uint8], errors: dict[int, ForecasterError], first: int, behind: int) -> Settled:
    return outcomes[first:behind], {row - first: error for row, error in errors.items() if first <= row < behind}
