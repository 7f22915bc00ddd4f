"""Requests' observations as one batch, judged and not yet applied: what is to be journaled, and what is answered.

Knows lanes; changes nothing in them.

Shapes: R rows, S series.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from forecaster.errors import ForecasterError
from forecaster.serving.engine.late_values import sought
from forecaster.serving.engine.recent_deletions import RecentDeletions
from forecaster.serving.lanes.attributes import merged
from forecaster.serving.lanes.lane import Lane, Past
from forecaster.serving.lanes.lanes import Lanes
from forecaster.serving.storage.records import Attributes, Columns, IntArray, Record
from forecaster.serving.work.admission import join
from forecaster.serving.work.observing import Observed, ObserveWork
from forecaster.serving.work.outcome import Verdict
from forecaster.serving.work.sought import NO_REPETITION_US, Sought


@dataclass(frozen=True, slots=True)
class LanePart:
    """One lane's share of a batch.

    Args:
        lane: of the series.
        rows: their positions in the batch.
        columns: the rows.
        verdict: of them.
        slots: of the series, -1 for those that begin, int64 [S].
        attributes: static covariates that change something; None without any.
        sought: rows that only the journal can tell of; None without any.
    """

    lane: Lane
    rows: IntArray
    columns: Columns
    verdict: Verdict
    slots: IntArray
    attributes: Attributes | None
    sought: Sought | None

    def new_series(self) -> int:
        """Return how many series begin."""
        begins = np.zeros(len(self.slots), dtype=bool)
        begins[self.columns.series[self.verdict.accepted]] = True
        return int((begins & (self.slots < 0)).sum())

    def changed(self) -> list[str]:
        """Return the series whose states change, some perhaps twice."""
        rows = np.unique(self.columns.series[self.verdict.accepted]).tolist()
        return [*(self.columns.series_ids[i] for i in rows), *(self.attributes.series_ids if self.attributes else ())]

    def records(self) -> list[Record]:
        """Return what is to be journaled."""
        found: list[Record] = [] if self.attributes is None else [self.attributes]
        return [*found, _accepted(self.columns, self.verdict)] if len(self.verdict.accepted) else found


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """A batch.

    Args:
        rows: R of them.
        slices: the rows of each request.
        parts: by lane.
    """

    rows: int
    slices: list[slice]
    parts: list[LanePart]

    @property
    def applied(self) -> int:
        """How many rows advance their series."""
        return sum(len(part.verdict.accepted) for part in self.parts)

    @property
    def duplicate(self) -> int:
        """How many rows repeat what the states hold."""
        return self.rows - self.applied - len(self.errors()) - sum(len(part.verdict.sought) for part in self.parts)

    def errors(self) -> list[ForecasterError]:
        """Return why rows are refused, as far as the states can tell."""
        return [error for part in self.parts for error in part.verdict.errors.values()]

    def missing_steps(self) -> IntArray:
        """Return how many steps each row's series has to walk before it, int64 [R]."""
        found = np.zeros(self.rows, dtype=np.int64)
        for part in self.parts:
            found[part.rows] = part.verdict.missing_steps()
        return found

    def records(self) -> list[Record]:
        """Return what is to be journaled."""
        return [record for part in self.parts for record in part.records()]

    def answers(self) -> list[Observed]:
        """Return the answer to each request."""
        outcomes = np.zeros(self.rows, dtype=np.uint8)
        for part in self.parts:
            outcomes[part.rows] = part.verdict.outcomes
        answers = [Observed(outcomes[rows], {}) for rows in self.slices]
        starts = np.array([rows.start for rows in self.slices])
        for part in self.parts:
            for row, error in part.verdict.errors.items():
                _tell(answers, starts, int(part.rows[row]), error)
        if any(part.sought is not None for part in self.parts):
            answers = [self._asking(answer, rows) for answer, rows in zip(answers, self.slices, strict=True)]
        return answers

    def _asking(self, answer: Observed, rows: slice) -> Observed:
        """Return an answer with what has to be looked up for it."""
        found = []
        for part in self.parts:
            if part.sought is not None:
                at = part.rows[part.sought.rows]  # ascending
                mine = np.arange(*np.searchsorted(at, [rows.start, rows.stop]))
                found += [part.sought.of(mine, at[mine] - rows.start)] if len(mine) else []
        return dataclasses.replace(answer, sought=Sought.joined(found)) if found else answer


@dataclass(frozen=True, slots=True)
class Limits:
    """Of what may be observed.

    Args:
        room: how many new series fit.
        latest_us: a later time is a mistake.
        late_steps: of a lane, see `late_values.sought`.
    """

    room: int
    latest_us: int
    late_steps: Callable[[Lane], int]


def judged(
    lanes: Lanes,
    requests: Sequence[ObserveWork],
    past: Past,
    deletions: RecentDeletions,
    limits: Limits,
) -> MicroBatch:
    """Judge requests together.

    Args:
        lanes: of the series.
        requests: in order.
        past: see `Lane.new_attributes`.
        deletions: refuses rows of repetitions.
        limits: of what may be observed.
    """
    room, latest_us = limits.room, limits.latest_us
    if not requests:
        return MicroBatch(0, [], [])
    covariates = lanes.covariates.dynamic  # what another version knows of them is journaled too
    columns, slices = join([request.columns.with_covariates(covariates) for request in requests])
    attributes_of = (deletions.attributes(request) for request in requests)
    given = [attributes for attributes in attributes_of if attributes is not None]
    parts = []
    replaces = _replacing(requests, slices, len(columns))
    late = deletions.rows(requests, slices)
    for lane, rows, mine, attributes in lanes.split(columns, merged(given) if given else None):
        if errors := {k: late[row] for k, row in enumerate(rows.tolist()) if row in late} if late else {}:
            kept = np.setdiff1d(np.arange(len(mine)), list(errors), assume_unique=True)
            which = None if replaces is None else replaces[rows[kept]]
            some, slots = lane.judge(mine.rows(kept), room=room, latest_us=latest_us, replaces=which)
            verdict = some.beside(kept, errors, len(mine))
        else:
            which = None if replaces is None else replaces[rows]
            verdict, slots = lane.judge(mine, room=room, latest_us=latest_us, replaces=which)
        new = None if attributes is None else lane.new_attributes(attributes, mine, verdict, past)
        asked = None
        if len(verdict.sought):
            replacing, beside, sent_us = _rights(requests, slices)
            rights = (replacing[rows], beside[rows], sent_us[rows])
            asked = sought(lane, mine, verdict, rights, limits.late_steps(lane))
        parts.append(LanePart(lane, rows, mine, verdict, slots, new, asked))
        room -= parts[-1].new_series() if lanes.next is not None else 0  # it is for all lanes together
    return MicroBatch(len(columns), slices, parts)


def _replacing(requests: Sequence[ObserveWork], slices: Sequence[slice], count: int) -> npt.NDArray[np.bool_] | None:
    """Return which rows of all requests are to replace what was said, bool [R]; None if none are, as a rule."""
    if not any(request.replaces for request in requests):
        return None
    found = np.zeros(count, dtype=bool)
    for request, rows in zip(requests, slices, strict=True):
        found[rows] = request.replaces
    return found


def _rights(
    requests: Sequence[ObserveWork], slices: Sequence[slice]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_], IntArray]:
    """Return which rows of all requests replace, which have covariates, and when each was first sent; see `sought`."""
    count, now = slices[-1].stop, (time.time(), time.monotonic())
    replaces, beside = np.zeros(count, dtype=bool), np.zeros(count, dtype=bool)
    sent_us = np.full(count, NO_REPETITION_US)
    for request, rows in zip(requests, slices, strict=True):
        replaces[rows], beside[rows] = request.replaces, request.columns.covariates is not None
        if request.sent_seconds < math.inf:
            sent_us[rows] = int((now[0] - (now[1] - request.sent_seconds)) * 1e6)
    return replaces, beside, sent_us


def unbegun() -> Observed:
    """Return the answer to a request that may not begin yet."""
    return Observed(np.zeros(0, dtype=np.uint8), {}, is_whole=False)


def ended(answer: Observed, request: ObserveWork, count: int) -> Observed:
    """Return the answer to a request's next `count` rows."""
    return answer if request.start + count == len(request.columns) else dataclasses.replace(answer, is_whole=False)


def _tell(answers: list[Observed], starts: IntArray, row: int, error: ForecasterError) -> None:
    """Put why a row is refused where its request's answer is."""
    which = int(np.searchsorted(starts, row, side="right")) - 1
    answers[which].errors[row - int(starts[which])] = error


def _accepted(columns: Columns, verdict: Verdict) -> Columns:
    """Return the accepted rows as a journal record."""
    rows = verdict.accepted
    if verdict.one_step_each and len(columns) == len(columns.series_ids):
        return columns
    seen = np.zeros(len(columns.series_ids), dtype=bool)
    seen[columns.series] = True
    if len(rows) == len(columns) and seen.all():
        return columns
    used, series = np.unique(columns.series[rows], return_inverse=True)
    names = tuple(columns.series_ids[i] for i in used.tolist())
    return dataclasses.replace(columns.rows(rows), series_ids=names, series=series.astype(np.int32))
