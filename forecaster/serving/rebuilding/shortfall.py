"""What a fold lacks where journal and history do not have everything any more, and what the serving states have of it.

Knows lanes and folds; knows nothing of journals.

Shapes: N series of the census.
"""

from collections.abc import Sequence

import numpy as np

from forecaster.serving.lanes.lane import Lane
from forecaster.serving.rebuilding.census import memory_steps, ring_rows
from forecaster.serving.rebuilding.fold import Fold
from forecaster.serving.rebuilding.row_filter import NEVER_US
from forecaster.serving.telemetry import LOGGER

_AT_ONCE = 1024
_NAMED = 10  # series in the log


def forget_incomplete(fold: Fold, source: Lane, moving: np.ndarray) -> list[str]:
    """Return the series of some buckets of which less was found than a lane's states remember; their states go.

    Where journal and history have everything there are none.
    """
    store, census, rows = fold.lane.store, fold.census, fold.rows
    memory, damaged = memory_steps(source.bundle), set(fold.damaged())
    short = []
    for k in np.flatnonzero(moving[census.buckets]).tolist():
        name = census.names[k]
        if name not in rows.index:  # deleted since
            continue
        if name in damaged:
            short.append(name)
        elif not rows.goes_on[k] and (fold.is_cut or rows.first_us[k] == NEVER_US):
            stands_us, position = census.clock_us[k], census.position[k]
            if (slot := source.store.resident.get(name, -1)) >= 0:
                stands_us, position = source.store.mirrors.clock_us[slot], source.store.mirrors.position[slot]
            if rows.first_us[k] > source.bundle.grid.time(stands_us, 1 - min(position, memory)):
                short.append(name)
    if fold.damage is not None and short:
        some = ", ".join(short[:_NAMED])
        LOGGER.error("%d series (%s) are rebuilt from what their states remember: %s", len(short), some, fold.damage)
    store.forget(name for name in short if name in store.resident)
    # Those that began since the census: without a journal nothing else tells of them.
    begun = source.store.begun.of(moving) if source.store.begun is not None else []
    return short + [name for name in begun if name not in store.resident]


def take_rings(fold: Fold, source: Lane, names: Sequence[str]) -> None:
    """Take the last values that a lane's states remember of some series, of which journal and history have less.

    Their covariates are not remembered, and what lies further back is forgotten; but a series that could be
    forecast still can.
    """
    store, rows = fold.lane.store, fold.rows
    rows.offset[[rows.index[name] for name in names if name in rows.index]] = 0
    rows.newer.add(name for name in names if name not in rows.index)
    at_once = min(_AT_ONCE, max(source.store.max_resident // 2, 1))
    for start in range(0, len(names), at_once):
        some = tuple(names[start : start + at_once])
        columns, observed = ring_rows(source, some)
        fold.replay(columns)
        slots = store.bring(some)
        if (slots < 0).any():  # a state that has just started afresh remembers nothing, and stands somewhere
            absent = [some[i] for i in np.flatnonzero(slots < 0).tolist()]
            store.create(absent)
            store.stand_at(store.bring(absent), source.store.standing(absent).clock_us)
            slots = store.bring(some)
        needed = np.minimum(observed, fold.lane.model.config.min_history or 1)
        few = store.mirrors.observed_count[slots] < needed
        store.count_on(slots[few], store.mirrors.position[slots[few]], needed[few])
