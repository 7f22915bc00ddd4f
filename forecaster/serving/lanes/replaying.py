"""Records that were acknowledged before, applied to a lane whose states do not hold all of them yet."""

from collections.abc import Callable

import numpy as np

from forecaster.errors import StorageError
from forecaster.serving.lanes.attributes import merged
from forecaster.serving.lanes.lane import Lane
from forecaster.serving.lanes.lane_rows import behind, behind_issued, rows_behind
from forecaster.serving.storage.records import Columns, IntArray
from forecaster.serving.storage.replay import Part
from forecaster.serving.work.admission import join

_NO_ROWS = Columns((), np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0))


def replay(lane: Lane, part: Part, stands: Callable[[IntArray], IntArray] | None = None) -> int:
    """Apply records that were acknowledged before and that the states do not hold yet; return how many rows.

    Args:
        part: the records.
        stands: by slot, the record up to which a state holds everything; left out, what the store says.

    Raises StorageError if they do not fit.
    """
    lane.store.begin_turn()
    names = list(part.series_ids)
    slots = lane.store.bring(names)
    reached = np.where(slots >= 0, (stands or lane.store.stands)(slots), 0) if (slots >= 0).any() else slots * 0
    stand = dict(zip(names, reached.tolist(), strict=True))
    attributes = merged(behind(one, s, stand) for s, one in part.attributes) if part.attributes else None
    kept = [rows_behind(one, s, stand) for s, one in part.columns]
    columns, _ = join([one.with_covariates(lane.covariates) for one in kept if len(one)] or [_NO_ROWS])
    judged = lane.judge(columns, room=len(columns.series_ids))  # its room was acknowledged
    verdict = judged[0]
    if len(verdict.accepted) != len(columns):
        refused = next(iter(verdict.errors.values()), "a row stands twice")
        what = f"the journal does not fit this model or was changed: {refused}"
        raise StorageError(what).told_as(what).for_good()
    given = [behind_issued(one, s, stand) for s, one in part.issued]
    lane.apply(columns, judged, attributes, None if lane.scoring is None else lane.scoring.own(given))
    if part.more:  # others do not stand there yet: what leaves for them must not be taken for older than it is
        lane.store.save(lane.store.bring(names), sequence=part.sequence)
    else:
        lane.store.sequence = max(lane.store.sequence, part.sequence)
    return len(columns)
