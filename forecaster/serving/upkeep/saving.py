"""Snapshots of many states, written by the engine's thread a few between two turns.

Knows the batcher and a store; knows nothing of when snapshots are due.
"""

import functools
from collections.abc import Awaitable, Callable

from forecaster.serving.engine.batcher import Batcher
from forecaster.serving.states.store import SeriesStore
from forecaster.serving.storage.records import IntArray

_SAVED_AT_ONCE, _SYNCED_AT_ONCE = 64, 256  # states; in the log each of them may take a page of its own


async def save(batcher: Batcher, store: SeriesStore, slots: IntArray, sync: Callable[[], Awaitable[None]]) -> None:
    """Write snapshots of `slots`.

    Args:
        batcher: of the engine's thread.
        store: whose states they are.
        slots: those that are not in use or have not changed are left out, int64 [N].
        sync: writes storage's log back from another thread; called often enough that the engine's seldom has to.
    """
    unsynced = 0
    for start in range(0, len(slots), _SAVED_AT_ONCE):
        part = slots[start : start + _SAVED_AT_ONCE]
        await batcher.upkeep(functools.partial(store.save, part))
        unsynced += len(part)
        if unsynced >= _SYNCED_AT_ONCE:
            await sync()
            unsynced = 0
