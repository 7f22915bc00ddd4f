"""What goes on beside the requests: snapshots of what has changed, and the journal's pruning and erasing.

Snapshots are written by the engine's thread, a few states between two turns; syncing, pruning and erasing are another
thread's, with its own connections. Knows nothing of models or gRPC.
"""

import asyncio
import contextlib
import functools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from forecaster.config import ServingConfig
from forecaster.errors import FencedError
from forecaster.serving.calibration.live_scores import LiveReport
from forecaster.serving.engine.batcher import Batcher
from forecaster.serving.engine.engine import Engine
from forecaster.serving.storage.contract import Storage
from forecaster.serving.telemetry import LOGGER
from forecaster.serving.upkeep.saving import save
from forecaster.serving.work.series import LiveScores

_SCORED_AT_ONCE, _AMENDED_AT_ONCE = 2048, 512
_SYNC_SECONDS = 1.0
_ERASE_SECONDS = 0.5  # deletions that come one after another are erased together
_REST_SHARE = 3.0  # pruning and erasing rest so many times as long as they work, while there are requests
_LEAST_REST_SECONDS, _MOST_REST_SECONDS = 0.001, 0.25
_GUARD_SECONDS = 0.5


class Maintenance:
    """The upkeep of one engine's storage.

    Args:
        engine: called through the batcher only.
        batcher: the engine's.
        storage: for the other thread.
        pool: that thread, one.
        config: how often, and what is kept.
    """

    def __init__(
        self, engine: Engine, batcher: Batcher, storage: Storage, pool: ThreadPoolExecutor, config: ServingConfig
    ) -> None:
        self._engine, self._batcher, self._storage = engine, batcher, storage
        self._pool, self._config = pool, config
        self._due, self._stopped = asyncio.Event(), threading.Event()
        self.round_ended = time.time()  # the last one that succeeded; before the first, the start
        self.live: tuple[str, tuple[LiveScores, ...]] | None = None  # see `score`

    def hasten(self) -> None:
        """Let what a deleted series left be erased soon."""
        self._due.set()

    def stop(self) -> None:
        """Let pruning and erasing end soon; what is left, a later start does."""
        self._stopped.set()

    async def run(self) -> None:
        """Do one round after the other until cancelled; what fails is logged and tried again in the next.

        Deleted series are erased between two rounds too, those that were deleted within a short while together.
        """
        next_round = time.monotonic() + self._config.snapshot_seconds
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._due.wait(), max(next_round - time.monotonic(), 0.0))
            try:
                if self._due.is_set():
                    self._due.clear()
                    await asyncio.get_running_loop().run_in_executor(self._pool, self._erase)
                    await asyncio.sleep(_ERASE_SECONDS)
                if time.monotonic() >= next_round:
                    next_round = time.monotonic() + self._config.snapshot_seconds
                    await self.round()
            except Exception as error:  # noqa: BLE001 -- the next round tries again
                LOGGER.warning("snapshots, pruning or erasing did not succeed, and will be tried again: %s", error)

    async def sync(self) -> None:
        """With durability `interval`, sync the journal once a second until cancelled."""
        while self._config.durability == "interval":
            await asyncio.sleep(_SYNC_SECONDS)
            try:
                await self._batcher.upkeep(self._engine.sync)
            except Exception as error:  # noqa: BLE001 -- the next second tries again
                LOGGER.warning("the journal could not be synced: %s", error)

    async def guard(self) -> None:
        """Let an idle server too find out soon that another has taken over; the batcher says so to whom it concerns."""
        while True:
            await asyncio.sleep(_GUARD_SECONDS)
            try:
                await self._batcher.upkeep(self._storage.check)
            except FencedError:
                return

    async def watch_scores(self) -> None:
        """If somebody may ask for metrics, take the mean live scores every `snapshot_seconds` until cancelled."""
        while self._config.metrics_port is not None:
            try:
                await self.score()
            except Exception as error:  # noqa: BLE001 -- the next time tries again
                LOGGER.warning("the live scores could not be taken: %s", error)
            await asyncio.sleep(self._config.snapshot_seconds)

    async def score(self) -> None:
        """Keep the served version and the mean live scores of its resident series in `live`, None without any.

        The engine's thread reads some series between two turns; the mean is another thread's.
        """
        lane = self._engine.lanes.active
        if lane.scoring is None:
            self.live = None
            return
        parts: list[LiveReport] = []
        for start in range(0, max(lane.store.slab.capacity, 1), _SCORED_AT_ONCE):
            read = functools.partial(lane.scoring.report, start, start + _SCORED_AT_ONCE)
            parts.append(await self._batcher.upkeep(read))
        mean = await asyncio.get_running_loop().run_in_executor(self._pool, lambda: LiveReport.joined(parts).mean())
        self.live = lane.version, mean

    async def round(self) -> None:
        """Write snapshots of all states that have changed, then prune and erase what may go.

        While a version is being replaced there is only erasing, and `round_ended` stands still.
        """
        saved = await self._save()
        await asyncio.get_running_loop().run_in_executor(self._pool, self._tidy)
        if saved:
            self.round_ended = time.time()

    async def _save(self) -> bool:
        """Write the snapshots and return True; do nothing if a swap is under way, which writes its own."""
        lanes = self._engine.lanes
        if lanes.next is not None:
            return False
        lane, changes = lanes.active, lanes.changes
        dirty, sequence = await self._batcher.upkeep(lambda: (lane.store.dirty(), lane.store.sequence))
        if len(dirty) and self._config.durability == "interval":  # no snapshot may know more than the journal
            await self._batcher.upkeep(self._engine.sync)
        await save(self._batcher, lane.store, dirty, self._sync_snapshots)
        while await self._batcher.upkeep(lambda: self._engine.amended.save(_AMENDED_AT_ONCE)):
            pass
        await self._batcher.upkeep(lambda: self._complete(sequence, changes))
        return True

    async def _sync_snapshots(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._pool, self._storage.snapshots.sync)

    def _complete(self, sequence: int, changes: int) -> None:
        """Note what the snapshots hold, unless a swap began since: series that it moved to and fro were not saved."""
        if self._engine.lanes.changes == changes:
            self._engine.complete(sequence)

    def _tidy(self) -> None:
        """Make the snapshots last, then let go of what they make unnecessary and of what deleted series left."""
        journal, snapshots = self._storage.journal, self._storage.snapshots
        journal.sync()
        snapshots.sync()
        self._erase()
        through = snapshots.complete_through(self._engine.lanes.active.bundle.fingerprint) or 0
        before_us = int((time.time() - self._config.journal_seconds) * 1e6)
        keep = self._config.keeps_history
        prune = functools.partial(journal.prune, through, committed_before_us=before_us, keep_history=keep)
        self._until_none_is_left(lambda: self._engine.lanes.prune(prune))

    def _erase(self) -> None:
        self._until_none_is_left(self._storage.journal.erase)

    def _until_none_is_left(self, work: Callable[[], int]) -> None:
        """Do a work part by part; while there are requests, with a share of the time: it keeps the engine waiting."""
        turns = self._batcher.turns
        while not self._stopped.is_set():
            began = time.perf_counter()
            if not work():
                return
            worked = time.perf_counter() - began
            is_busy, turns = self._batcher.turns != turns or self._batcher.is_busy, self._batcher.turns
            rest = _REST_SHARE * worked if is_busy else 0.0
            time.sleep(min(max(rest, _LEAST_REST_SECONDS), _MOST_REST_SECONDS))
