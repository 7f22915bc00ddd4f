"""What a lane's states tell of rows that only the journal can judge: see `work.sought`.

Shapes: R rows, Q of them sought.
"""

import numpy as np
import numpy.typing as npt

from forecaster.serving.lanes.lane import Lane
from forecaster.serving.storage.records import Columns, IntArray
from forecaster.serving.work.outcome import Verdict
from forecaster.serving.work.sought import May, Sought

_NONE_US = -(2**63)


def late_steps(lane: Lane, wanted: int | None) -> int:
    """Return how many steps late a missing value may come: so many, or the model's memory, two seasons at least."""
    if wanted is not None:
        return wanted
    seasons = lane.model.config.season_lengths or (0,)
    return max(lane.store.memory, 2 * max(seasons))


def sought(
    lane: Lane, columns: Columns, verdict: Verdict, rights: tuple[npt.NDArray[np.bool_], IntArray], late: int
) -> Sought:
    """Return what a verdict says has to be looked up; before anything is applied.

    Args:
        lane: of the series.
        columns: the rows.
        verdict: on them.
        rights: which of them are to replace what was said, bool [R], and when each was first sent, int64 [R].
        late: a missing value comes so many steps late at most; -1 if none may, nor be corrected, for no journal tells.
    """
    replaces, sent_us = rights[0][verdict.sought], rights[1][verdict.sought]
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
    return Sought(verdict.sought, wanted, grid, late >= 0, clock_us, held, remembered, may, sent_us)


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
