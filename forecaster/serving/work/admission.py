"""Decides of each observation whether it advances its series, repeats what is known, or is refused.

Rows of one series are judged in their order against the series' clock. The usual cases, rows that advance the
series after rows that repeat what it holds, are vectorised; series with anything else are walked row by row. A row up
to the clock with another value than the series holds there is late, a correction, or a mistake: the journal tells
(`work.sought`).

Knows clocks and remembered values; knows nothing of models, journals or gRPC.

Shapes: R rows, S series.
"""

import datetime as dt
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from forecaster.data.grid import Grid
from forecaster.errors import ConflictError, ForecasterError, InvalidArgumentError, LimitReachedError, OutOfOrderError
from forecaster.serving.storage.records import Columns, IntArray
from forecaster.serving.work.outcome import Outcome, Verdict

_FEW = 256  # rows
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_APPLIED, _SOUGHT = np.uint8(Outcome.APPLIED), np.uint8(0)


def to_datetime(time_us: int) -> dt.datetime:
    """Return microseconds since the Unix epoch as a UTC datetime."""
    return _EPOCH + dt.timedelta(microseconds=time_us)


@dataclass(frozen=True, slots=True)
class Known:
    """What admission may ask about the series that exist.

    Args:
        clock_us: for each series its last time, int64 [S]; anything where it does not exist.
        exists: bool [S].
        held: (series [N], times up to their clocks [N]) -> whether the series holds the step [N], and its value
            there, NaN where missing [N].
        room: how many new series fit.
        latest_us: a later time is a mistake.
    """

    clock_us: IntArray
    exists: npt.NDArray[np.bool_]
    held: Callable[[IntArray, IntArray], tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]]
    room: int
    latest_us: int = 2**63 - 1


def admit(
    columns: Columns,
    known: Known,
    *,
    grid: Grid,
    max_gap_steps: int,
    replaces: npt.NDArray[np.bool_] | None = None,
) -> Verdict:
    """Judge all rows of `columns`; `replaces`, bool [R], says which may contradict one before them, None: none."""
    if len(columns) <= _FEW and _one_step_each(columns, known, grid):
        n = len(columns)
        steps = np.ones(n, dtype=np.int64)
        return Verdict(steps.astype(np.uint8) * _APPLIED, {}, np.arange(n), steps, one_step_each=True)
    in_order = bool((columns.series[1:] >= columns.series[:-1]).all())
    if in_order:  # as a rule
        order = np.arange(len(columns))
        series, time_us, values = columns.series.astype(np.int64), columns.time_us, columns.values
    else:
        order = np.argsort(columns.series, kind="stable")
        series, time_us, values = columns.series[order].astype(np.int64), columns.time_us[order], columns.values[order]
    clock_us, exists = known.clock_us[series], known.exists[series]
    first = np.ones(len(order), dtype=bool)
    first[1:] = series[1:] != series[:-1]
    before = np.empty_like(time_us)
    before[1:] = time_us[:-1]
    before[first] = clock_us[first]
    before = np.where(exists, np.maximum(before, clock_us), before)  # a repeated row leaves the clock where it is
    fresh = first & ~exists
    steps, on_grid = grid.index(before, time_us), grid.has(before, time_us)
    held = _Held.of(known, series, time_us, exists, grid)
    repeated = held.found & ((held.values == values) | (np.isnan(held.values) & np.isnan(values)))
    if replaces is not None:
        repeated &= ~replaces[order]
    repeated[1:] &= first[1:] | repeated[:-1]  # behind a row that advances, the walk has to tell
    usual = fresh | repeated | ((steps > 0) & on_grid & (steps <= max_gap_steps + 1))
    outcomes = np.where(repeated, np.uint8(Outcome.DUPLICATE), np.uint8(Outcome.APPLIED))
    advance = np.where(fresh, 0, steps)
    errors: dict[int, ForecasterError] = {}
    odd = np.unique(series[~usual | (time_us > known.latest_us)])
    new = series[fresh]
    if len(new) > known.room:
        odd = np.union1d(odd, new[known.room :])
    for one in odd.tolist():
        low, high = np.searchsorted(series, [one, one + 1])
        full = not known.exists[one] and int(np.searchsorted(new, one)) >= known.room
        walk = _Walk(columns, one, known, grid, max_gap_steps, full)
        for at in range(low, high):
            row = int(order[at])
            try:
                may_differ = replaces is not None and bool(replaces[row])
                outcomes[at], advance[at] = walk.judge(row, held.at(at), may_differ=may_differ)
            except ForecasterError as error:
                outcomes[at], errors[row] = Outcome.REJECTED, error
    accepted = outcomes == Outcome.APPLIED
    by_row = np.empty_like(outcomes)
    by_row[order] = outcomes
    one_step_each = in_order and bool(first.all() and accepted.all() and (advance == 1).all())
    sought = np.sort(order[outcomes == _SOUGHT])
    return Verdict(by_row, errors, order[accepted], advance[accepted], one_step_each, sought)


def _one_step_each(columns: Columns, known: Known, grid: Grid) -> bool:
    """Whether all of few rows are the usual ones: a value of the next step for each of different series that exist.

    NumPy's fixed cost for a handful of rows is a hundred times that of looking at them.
    """
    clocks, exists, before = known.clock_us.tolist(), known.exists.tolist(), -1
    for series, time_us in zip(columns.series.tolist(), columns.time_us.tolist(), strict=True):
        if series <= before or not exists[series] or time_us != grid.next(clocks[series]) or time_us > known.latest_us:
            return False
        before = series
    return True


@dataclass(frozen=True, slots=True)
class _Held:
    """What the series held at the time of each row before any of them: whether, and the value (NaN: missing)."""

    found: npt.NDArray[np.bool_]
    values: npt.NDArray[np.float64]

    @classmethod
    def of(
        cls, known: Known, series: IntArray, time_us: IntArray, exists: npt.NDArray[np.bool_], grid: Grid
    ) -> "_Held":
        """Ask for all rows that are not after their series' clock at once."""
        found, values = np.zeros(len(series), dtype=bool), np.full(len(series), np.nan)
        clock_us = known.clock_us[series]
        old = np.flatnonzero(exists & (time_us <= clock_us) & grid.has(time_us, clock_us))
        if len(old):
            found[old], values[old] = known.held(series[old], time_us[old])
        return cls(found, values)

    def at(self, row: int) -> float | None:
        """Return the value held at a row's time, None if there is none."""
        return float(self.values[row]) if self.found[row] else None


class _Walk:
    """One series' rows, judged in order."""

    def __init__(self, columns: Columns, series: int, known: Known, grid: Grid, max_gap_steps: int, full: bool) -> None:
        self._columns, self._series, self._known = columns, series, known
        self._grid, self._max_gap_steps, self._full = grid, max_gap_steps, full
        self._name = columns.series_ids[series]
        self._clock = int(known.clock_us[series]) if known.exists[series] else None
        # The runs of this batch: steps behind a start, up to its end, that have no row are missing ones.
        self._starts = [] if self._clock is None else [self._clock]
        self._ends = list(self._starts)
        self._pending: dict[int, float] = {}  # what this batch has applied, by time
        self._sought: set[int] = set()  # times of which the states do not tell any more

    def judge(self, row: int, held: float | None, *, may_differ: bool) -> tuple[int, int]:
        """Return the outcome of a row, 0 if it is sought, and the steps that it advances; raises why it is refused.

        Args:
            row: of the request.
            held: what the series held at its time before this request, None if nothing.
            may_differ: whether it may say something else than a row before it.
        """
        time_us, value = int(self._columns.time_us[row]), float(self._columns.values[row])
        if self._full:
            raise LimitReachedError(f"series {self._name!r} is new and the server holds as many as it may")
        if self._clock is None:
            self._check_not_ahead(time_us)
            return self._apply(time_us, value, 0)
        steps = self._grid.index(self._clock, time_us)
        if not self._grid.has(self._clock, time_us):
            raise InvalidArgumentError(
                f"{to_datetime(time_us).isoformat()} is off the grid of series {self._name!r}, "
                f"which expects {self._expected().isoformat()} (step {dt.timedelta(microseconds=self._grid.step_us)})"
            )
        if steps > 0:
            self._check_not_ahead(time_us)
            return self._apply(time_us, value, steps if steps <= self._max_gap_steps + 1 else 0)
        stored = self._lookup(time_us, held)
        is_same = stored is not None and (stored == value or (math.isnan(stored) and math.isnan(value)))
        if time_us in self._sought:
            return int(_SOUGHT), 0
        if is_same and not may_differ:
            return Outcome.DUPLICATE, 0
        if stored is not None and not math.isnan(stored) and time_us in self._pending and not may_differ:
            expected_us = self._grid.next(self._clock)
            raise differing((self._name, time_us, value), stored, expected_us, is_last=time_us == self._clock)
        self._sought.add(time_us)
        return int(_SOUGHT), 0

    def _check_not_ahead(self, time_us: int) -> None:
        if time_us > self._known.latest_us:
            raise InvalidArgumentError(
                f"{to_datetime(time_us).isoformat()} of series {self._name!r} is too far in the future: correct the"
                " time, or allow it with --serving.max_ahead_seconds"
            )

    def _apply(self, time_us: int, value: float, advance: int) -> tuple[Outcome, int]:
        if advance == 0:
            self._starts.append(time_us)
            self._ends.append(time_us)
        self._ends[-1] = time_us
        self._clock = time_us
        self._pending[time_us] = value
        return Outcome.APPLIED, advance

    def _lookup(self, time_us: int, held: float | None) -> float | None:
        """Return the value held at a time up to the clock (NaN if missing), None if there is none."""
        if time_us in self._pending:
            return self._pending[time_us]
        skipped = any(start < time_us <= end for start, end in zip(self._starts, self._ends, strict=True))
        return math.nan if skipped else held

    def _expected(self) -> dt.datetime:
        assert self._clock is not None
        return to_datetime(self._grid.next(self._clock))


def differing(row: tuple[str, int, float], stored: float | None, expected_us: int, *, is_last: bool) -> ForecasterError:
    """Return why a row (series, time, value) is refused that is not after its series' last.

    Args:
        row: its series, time and value.
        stored: what the series holds there, NaN if missing, None if nothing.
        expected_us: the time that the series expects.
        is_last: whether it is of the series' last time.
    """
    name, time_us, value = row
    at, expected = to_datetime(time_us).isoformat(), to_datetime(expected_us)
    if stored is None or (math.isnan(stored) and not is_last):
        why = "and has no row of that time" if stored is None else "and has counted that step as missing"
        message = (
            f"{at} is behind series {name!r}, which expects {expected.isoformat()} {why}; if it is a correction, say so"
            " (replace)"
        )
        return OutOfOrderError(message, expected)
    shown = "a missing value" if math.isnan(stored) else f"{stored:g}"
    message = f"series {name!r} holds {shown} at {at}, not {value:g}; if it is a correction, say so (replace)"
    return ConflictError(message, None if math.isnan(stored) else stored)


def join(parts: Sequence[Columns]) -> tuple[Columns, list[slice]]:
    """Return several requests' columns, which have the same covariates or none, as one, and the rows of each in it."""
    if len(parts) == 1:
        return parts[0], [slice(0, len(parts[0]))]
    index: dict[str, int] = {}
    if all(len(part) == 1 == len(part.series_ids) for part in parts):  # as those of a stream are
        series = np.array([index.setdefault(part.series_ids[0], len(index)) for part in parts], dtype=np.int32)
    else:
        local = [[index.setdefault(name, len(index)) for name in part.series_ids] for part in parts]
        series = np.concatenate([np.array(mine, np.int32)[p.series] for mine, p in zip(local, parts, strict=True)])
    ends = list(itertools.accumulate(map(len, parts)))
    slices = [slice(end - len(part), end) for end, part in zip(ends, parts, strict=True)]
    joined = Columns(
        tuple(index),
        series,
        np.concatenate([part.time_us for part in parts]),
        np.concatenate([part.values for part in parts]),
        *_join_covariates(parts),
    )
    return joined, slices


def _join_covariates(parts: Sequence[Columns]) -> tuple[tuple[str, ...], npt.NDArray[np.float64] | None]:
    given = {part.covariate_names for part in parts if part.covariates is not None}
    if not given:
        return (), None
    (names,) = given
    missing = [
        np.full((len(part), len(names)), np.nan) if part.covariates is None else part.covariates for part in parts
    ]
    return names, np.concatenate(missing)
