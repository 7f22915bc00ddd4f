"""Folds series with late-arriving or corrected values again, beside the requests: their states then know them.

A thread with a storage of its own folds all that have gathered in one look through journal and history, in the order of
time; the engine's thread takes the states over, a few series between two turns, with what came meanwhile. Until then
the series stand where they stood. Knows nothing of requests.
"""

import asyncio
import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from forecaster.errors import ForecasterError, UnavailableError
from forecaster.serving.engine.batcher import Batcher
from forecaster.serving.engine.courtesy import Courtesy
from forecaster.serving.engine.engine import Engine
from forecaster.serving.lanes.lane import Lane
from forecaster.serving.rebuilding.census import Census
from forecaster.serving.rebuilding.fold import Fold
from forecaster.serving.rebuilding.starts import Source, from_amended
from forecaster.serving.states.amended_series import AmendedSeries
from forecaster.serving.states.buckets import bucket, marked
from forecaster.serving.storage.contract import Storage
from forecaster.serving.storage.records import IntArray
from forecaster.serving.telemetry import LOGGER, log_internal_error
from forecaster.serving.upkeep.folding import FoldingBeside

_AT_ONCE, _TAKEN_AT_ONCE = 1024, 64
_MOST_LOOKS, _FEW_STEPS = 8, 512  # before what came meanwhile is taken in by the engine's thread
_AGAIN_SECONDS = 0.25  # while a version is being replaced
_FAILED_SECONDS = 30.0


class Amending(FoldingBeside):
    """Of one engine; see `FoldingBeside`."""

    def __init__(
        self, engine: Engine, batcher: Batcher, storage: Storage, pool: ThreadPoolExecutor, replay_steps: int
    ) -> None:
        super().__init__(engine, batcher, storage, pool, replay_steps)
        self._at_once, self._tried = _AT_ONCE, list[str]()  # series of a round
        self.folded = 0  # series

    async def run(self) -> None:
        """Fold whoever waits, until cancelled; of those that cannot be folded together ever fewer are tried."""
        loop = asyncio.get_running_loop()
        self._engine.amended.on_noted = lambda: loop.call_soon_threadsafe(self._due.set)
        self._due.set()  # what an earlier process left
        while True:
            await self._due.wait()
            self._due.clear()
            rest: float | None = 0.0
            while rest is not None:
                await asyncio.sleep(rest)
                try:
                    rest = await self.round()
                    self._engine.amended.heard = None
                    self._at_once = min(2 * self._at_once, _AT_ONCE)
                except Exception as error:  # noqa: BLE001 -- the next round tries again
                    rest = await self._failed(error)

    async def _failed(self, error: Exception) -> float:
        """Say why a round failed; return after how many seconds to go on, with fewer series or with others first."""
        if not isinstance(error, ForecasterError):
            log_internal_error(error)
        await self._batcher.upkeep(functools.partial(self._engine.amended.postpone, self._tried))
        if len(self._tried) > 1 and not self._is_stopped:
            self._at_once = max(len(self._tried) // 2, 1)
            return _AGAIN_SECONDS
        LOGGER.warning("late and corrected values wait to be folded (%s): %s", ", ".join(self._tried), error)
        return _FAILED_SECONDS

    async def round(self) -> float | None:
        """Fold those again that have waited for longest; return after how many seconds to go on, None if none waits."""
        begun = await self._batcher.upkeep(self._begin)
        if begun is None:
            return _AGAIN_SECONDS
        lane, changes, census, first_us = begun
        self._tried = census.names.tolist()
        if not len(census):
            return None
        fold: Fold = await self._in_thread(functools.partial(self._fold, lane, census, first_us))
        for _ in range(_MOST_LOOKS):
            give_way = Courtesy(lambda: self._batcher.is_busy).give_way
            if await self._in_thread(functools.partial(fold.advance, give_way=give_way)) <= _FEW_STEPS:
                break
        names = sorted(set(self._tried).difference(fold.damaged()))
        at_once = min(_TAKEN_AT_ONCE, max(lane.store.max_resident // 2, 1))
        for start in range(0, len(names), at_once):
            take = functools.partial(self._take, lane, changes, fold, names[start : start + at_once])
            if not await self._batcher.upkeep(take):
                return _AGAIN_SECONDS
        # Those that were corrected meanwhile, or are damaged, wait behind the others.
        await self._batcher.upkeep(functools.partial(self._engine.amended.postpone, self._tried))
        if fold.damage is not None:
            raise UnavailableError(str(fold.damage))
        return 0.0

    def _fold(self, lane: Lane, census: Census, first_us: IntArray) -> Fold:
        """Return a fold that begins as near as may be; on the pool's thread."""
        cold, names = lane.store.cold, census.names.tolist()
        found = self._storage.snapshots.fetch(lane.bundle.fingerprint, names)
        whole = [one for one in found if one.sequence <= census.sequence and cold.can_unpack(one)]
        source = Source(self._storage.journal, None, lambda: self._is_stopped)
        return from_amended(
            lane.bundle,
            census,
            source,
            replay_steps=self._replay_steps,
            first_us=first_us,
            snapshots=(whole, cold.unpack(whole) if whole else None),
        )

    def _begin(self) -> tuple[Lane, int, Census, IntArray] | None:
        """Return what is to be folded, None if it cannot be now; on the engine's thread."""
        engine = self._engine
        if engine.lanes.next is not None:  # whose states would have to be two
            return None
        engine.settle()
        lane, amended = engine.lanes.active, engine.amended
        there: IntArray = np.zeros(0, dtype=np.int64)
        standing = lane.store.standing([])
        while not len(there) and (waiting := amended.next(self._at_once)):
            standing = lane.store.standing([one_series.series_id for one_series in waiting])
            there = np.flatnonzero(standing.exists)
            absent = [waiting[k].series_id for k in np.flatnonzero(~standing.exists).tolist()]
            idle = {idle_series.series_id for idle_series in engine.idle.among(absent)}
            amended.set_aside(idle)
            amended.dismiss(set(absent) - idle)
        some: Sequence[AmendedSeries] = [waiting[k] for k in there.tolist()]
        names = np.array([one_series.series_id for one_series in some], dtype=object)
        buckets = np.fromiter((bucket(one_series.series_id) for one_series in some), np.int64, len(some))
        through = lane.store.sequence
        amended.heard = deletions = list(engine.storage.journal.deletions())  # it grows with those of meanwhile
        parts = (names, buckets, standing.clock_us[there], standing.position[there], marked(buckets))
        first_us = np.array([one_series.first_us for one_series in some], dtype=np.int64)
        return lane, engine.lanes.changes, Census(through, *parts, deletions), first_us

    def _take(self, lane: Lane, changes: int, fold: Fold, names: Sequence[str]) -> bool:
        """Let some series have their new states, with what came meanwhile; on the engine's thread."""
        engine, store, through = self._engine, lane.store, fold.census.sequence
        if engine.lanes.changes != changes:
            return False
        engine.settle()
        store.begin_turn()
        fold.advance()
        names = [n for n in names if n in engine.amended and not engine.amended.deleted_since(n, through)]
        names = [name for name, slot in zip(names, store.bring(names).tolist(), strict=True) if slot >= 0]
        rebuilt = fold.states(names)
        slots, mirrors = store.bring(rebuilt.names), store.mirrors
        whole = rebuilt.counted(mirrors.position[slots], mirrors.observed_count[slots])
        same = whole.state["time_us"].cpu().numpy() == mirrors.clock_us[slots]
        if not same.all() or len(rebuilt.names) < len(names):
            LOGGER.error("series cannot be folded again, their records are not all there: %s", ", ".join(names))
            engine.amended.dismiss(set(names) - {rebuilt.names[k] for k in np.flatnonzero(same).tolist()})
        kept = np.flatnonzero(same)
        if len(kept):
            state = {name: tensor[kept] for name, tensor in whole.state.items()}
            store.amend(slots[kept], state, through)
            folded = [rebuilt.names[k] for k in kept.tolist()]
            engine.amended.end(dict.fromkeys(folded, through))
            engine.watches.note(folded)
            self.folded += len(folded)
        return True
