"""Series that were rebuilt become another lane's, all or none of a few buckets; on the engine's thread.

Knows lanes and folds; knows nothing of how a version is replaced.
"""

import numpy as np

from forecaster.errors import StorageError
from forecaster.serving.engine.engine import Engine
from forecaster.serving.lanes.lane import Lane
from forecaster.serving.rebuilding.fold import Fold
from forecaster.serving.rebuilding.rebuilt import Rebuilt
from forecaster.serving.rebuilding.shortfall import forget_incomplete, take_rings
from forecaster.serving.states.mirrors import Standing


def move(engine: Engine, fold: Fold, moving: np.ndarray, source: Lane, target: Lane, into_next: bool) -> None:
    """Take the last records into rebuilt states, and let their series belong to the target; on the engine's thread."""
    for lane in engine.lanes:
        lane.store.begin_turn()
    fold.advance()
    short = forget_incomplete(fold, source, moving)
    there = source.store.standing(short).exists
    take_rings(fold, source, [name for name, known in zip(short, there.tolist(), strict=True) if known])
    rebuilt = fold.rebuilt(moving)
    standing = source.store.standing(rebuilt.names)
    _check(rebuilt, standing)
    lost = source.store.cold.lost([name for name, known in zip(short, there.tolist(), strict=True) if not known])
    target.store.sequence = source.store.sequence  # who has to leave for others is saved as of it
    target.store.lose(lost)  # what may fail comes before what would have to be undone
    try:
        _take(target, rebuilt, standing)
    except BaseException:
        target.store.forget(lost)
        raise
    source.store.forget([*rebuilt.names, *lost])
    engine.lanes.moved[moving] = into_next


def _take(target: Lane, rebuilt: Rebuilt, standing: Standing) -> None:
    """Add rebuilt series to a lane, all or none."""
    at_once, taken = max(target.store.max_resident // 2, 1), 0
    try:
        for start in range(0, len(rebuilt.names), at_once):
            target.store.begin_turn()  # those before may leave again
            rows = slice(start, start + at_once)
            stood = standing.of(rows)
            part = rebuilt.of(rows).counted(stood.position, stood.observed_count)
            touched_us = np.where(stood.exists, stood.touched_us, part.touched_us)
            slots = target.store.take(part.names, part.state, part.static_digest, touched_us)
            taken += len(slots)
    except BaseException:  # who had to leave for them could not be saved, as a rule
        target.store.forget(rebuilt.names[:taken])
        raise


def _check(rebuilt: Rebuilt, standing: Standing) -> None:
    """Raise StorageError unless the rebuilt states stand where the serving ones do."""
    clocks = rebuilt.state["time_us"].cpu().numpy()
    wrong = np.flatnonzero(standing.exists & (clocks != standing.clock_us))
    if len(wrong):
        name = rebuilt.names[wrong[0]]
        what = f"the rebuilt state of series {name!r} does not stand where the serving one does"
        raise StorageError(what).told_as(what)
