"""States that are made again from the journal because their snapshots turned out to be corrupted, or said to be lost.

Knows lanes and journals; knows nothing of the engine.
"""

from collections.abc import Sequence

import numpy as np

from forecaster.errors import DamagedHistoryError, StateLostError
from forecaster.model.bundle import Bundle
from forecaster.serving.calibration.calibration import Calibration
from forecaster.serving.lanes.lane import Lane
from forecaster.serving.rebuilding.census import EARLIEST_US, Census
from forecaster.serving.rebuilding.rebuilt import Rebuilt
from forecaster.serving.rebuilding.starts import Source, from_everything
from forecaster.serving.states.buckets import bucket, marked
from forecaster.serving.storage.contract import Journal

_NAMED = 10  # series in an error


def refold(lane: Lane, series_ids: Sequence[str], journal: Journal, *, through: int) -> Rebuilt:
    """Return the states of some series as of a record; raises StateLostError where a part of them is gone."""
    names = ", ".join(map(repr, series_ids[:_NAMED]))
    lost = f"the states of {len(series_ids)} series ({names}) are damaged and cannot be folded again:"
    if dropped := journal.dropped():
        gone = f"records up to {dropped} were not kept (serving.history=false); restore the state from a copy"
        raise StateLostError(f"{lost} {gone}, or delete them to begin anew", series_ids)
    repair = "the history is damaged; restore it from a copy, or delete them to begin anew"  # the log has which file
    if journal.damage():  # files that have not changed are not read for it again
        raise StateLostError(f"{lost} {repair}", series_ids)
    try:
        return refolded(lane.bundle, series_ids, journal, lane.store.calibration, through=through)
    except DamagedHistoryError as error:
        raise StateLostError(f"{lost} {repair}", series_ids) from error


def take_refolded(lane: Lane, series_ids: Sequence[str], journal: Journal) -> None:
    """Make series resident whose snapshots turned out to be corrupted: they then stand where the others do."""
    found = refold(lane, series_ids, journal, through=lane.store.sequence)
    if found.names:  # while everything is replayed nothing is there yet: it creates them anew
        lane.store.save(lane.store.take(found.names, found.state, found.static_digest, found.touched_us))


def refolded(
    bundle: Bundle, names: Sequence[str], journal: Journal, calibration: Calibration | None = None, *, through: int
) -> Rebuilt:
    """Return the states of some series as the fold of what journal and history have of them up to a record.

    Raises DamagedHistoryError if a part of the history cannot be read that may hold something of them.
    """
    every = np.array(names, dtype=object)
    buckets, zeros = np.fromiter(map(bucket, names), np.int64, len(names)), np.zeros(len(names), dtype=np.int64)
    clocks = np.full(len(names), EARLIEST_US)
    deletions = [deletion for deletion in journal.deletions() if deletion[0] <= through]  # they may be erased meanwhile
    census = Census(through, every, buckets, clocks, zeros, marked(buckets), deletions)
    fold = from_everything(bundle, census, Source(journal, calibration))
    fold.advance(through)
    if fold.damage is not None:
        raise fold.damage
    return fold.rebuilt(census.within)
