"""Lets go of the states of series that were not observed for long; the history keeps what they were folded from.

Only what a completed round of snapshots holds goes, so that no record which would be replayed concerns it. Another
thread finds whom it may concern; the engine's thread decides, a few series between two turns. Knows nothing of how a
series comes back.
"""

import asyncio
import functools
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from forecaster.serving.engine.batcher import Batcher
from forecaster.serving.engine.engine import Engine
from forecaster.serving.lanes.lane import Lane
from forecaster.serving.states.idle_series import IdleSeries
from forecaster.serving.storage.contract import Storage, in_batches
from forecaster.serving.storage.records import Snapshot
from forecaster.serving.telemetry import LOGGER

_AT_ONCE, _READ_AT_ONCE = 64, 2048
_LOOKS = 10  # within the time after which a series is idle


class Idling:
    """Of one engine.

    Args:
        engine: called through the batcher only.
        batcher: the engine's.
        storage: for the thread of the pool.
        pool: one thread.
        seconds: after which a series that was not observed is idle.
        rest_seconds: between two rounds, at least.
    """

    def __init__(
        self,
        engine: Engine,
        batcher: Batcher,
        storage: Storage,
        pool: ThreadPoolExecutor,
        *,
        seconds: float,
        rest_seconds: float = 0.0,
    ) -> None:
        self._engine, self._batcher, self._storage, self._pool = engine, batcher, storage, pool
        self._seconds, self._rest_seconds = seconds, rest_seconds

    async def run(self) -> None:
        """Do one round after the other until cancelled; what fails is logged, and done in the next."""
        while True:
            await asyncio.sleep(max(self._seconds / _LOOKS, self._rest_seconds))
            try:
                await self.round()
            except Exception as error:  # noqa: BLE001 -- the next round tries again
                LOGGER.warning("idle series stay for now: %s", error)

    async def round(self) -> int:
        """Let idle series go, none while a version is being replaced; return how many. Raises StorageError."""
        lanes = self._engine.lanes
        lane, changes = await self._batcher.upkeep(lambda: (lanes.active, lanes.changes))
        before_us = int((time.time() - self._seconds) * 1e6)
        loop = asyncio.get_running_loop()
        complete_through = self._storage.snapshots.complete_through
        through = await loop.run_in_executor(self._pool, complete_through, lane.bundle.fingerprint) or 0
        read, count = in_batches(self._storage.snapshots.read(lane.bundle.fingerprint), _READ_AT_ONCE), 0
        find = functools.partial(self._candidates, lane, read, through, before_us)
        while (found := await loop.run_in_executor(self._pool, find)) is not None:
            for start in range(0, len(found), _AT_ONCE):
                some = found[start : start + _AT_ONCE]
                count += await self._batcher.upkeep(
                    functools.partial(self._let_go, lane, changes, some, through, before_us)
                )
        if count:
            LOGGER.info("%d series were not observed for %g s: their states are let go of", count, self._seconds)
        return count

    def _candidates(
        self, lane: Lane, read: Iterator[Sequence[Snapshot]], through: int, before_us: int
    ) -> list[str] | None:
        """Return those of the next snapshots whose series may be idle, None behind the last one."""
        if (batch := next(read, None)) is None:
            return None
        return [one.series_id for one in idle_among(lane, batch, through, before_us)]

    def _let_go(self, lane: Lane, changes: int, names: Sequence[str], through: int, before_us: int) -> int:
        """Let those of some series go that are idle now; on the engine's thread."""
        if self._engine.lanes.next is not None or self._engine.lanes.changes != changes:
            return 0
        store = lane.store
        kept = [name for name in names if (slot := store.resident.get(name, -1)) < 0 or not store.mirrors.dirty[slot]]
        kept = [name for name in kept if name not in self._engine.amended]  # their states do not know all of their past
        idle = idle_among(lane, store.cold.fetch(kept), through, before_us)
        if idle:
            self._engine.idle.add(idle)
            store.forget([idle_series.series_id for idle_series in idle])
        return len(idle)


def idle_among(lane: Lane, snapshots: Sequence[Snapshot], through: int, before_us: int) -> list[IdleSeries]:
    """Return what is to be kept of the series among some snapshots that are idle.

    Args:
        lane: whose snapshots they are.
        snapshots: of it.
        through: the record up to which all snapshots were complete.
        before_us: whoever was observed later is not idle.
    """
    whole = [
        snapshot for snapshot in snapshots if snapshot.sequence <= through and lane.store.cold.can_unpack(snapshot)
    ]
    if not whole:
        return []
    packed = lane.store.cold.unpack(whole)
    numbers = (
        packed.state["time_us"].tolist(),
        packed.state["position"].tolist(),
        packed.state["observed_count"].tolist(),
        packed.touched_us.tolist(),
    )
    found = [IdleSeries(one.series_id, one.sequence, *row) for one, *row in zip(whole, *numbers, strict=True)]
    return [one for one in found if one.touched_us < before_us]
