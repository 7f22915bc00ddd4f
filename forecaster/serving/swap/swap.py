"""Replaces the model version of an engine while it serves: rebuild beside, move bucket by bucket, or take all back.

The engine's thread only takes the census, moves rebuilt states in, and writes snapshots in small parts; rebuilding is
another thread's. A failure takes the buckets that have moved back to the version before, whose snapshots and journal
are still there. Knows nothing of registries or gRPC.
"""

import asyncio
import functools
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from forecaster.errors import UnavailableError
from forecaster.model.bundle import Bundle
from forecaster.serving.engine.batcher import Batcher
from forecaster.serving.engine.courtesy import Courtesy
from forecaster.serving.engine.engine import Engine
from forecaster.serving.lanes.lane import Lane
from forecaster.serving.rebuilding.census import Census, take_census, windows
from forecaster.serving.rebuilding.ended_series import groups, stragglers
from forecaster.serving.rebuilding.fold import Fold
from forecaster.serving.rebuilding.starts import Source, from_snapshots, from_windows
from forecaster.serving.states.buckets import BUCKETS, marked
from forecaster.serving.storage.contract import Activation, Storage
from forecaster.serving.storage.records import IntArray
from forecaster.serving.swap.kept_bundle import keep
from forecaster.serving.swap.moving import move
from forecaster.serving.telemetry import LOGGER
from forecaster.serving.upkeep.saving import save

_SERIES_AT_ONCE = 2048  # of a part, at least
_MOST_PARTS = 64  # each of them reads the journal once
_FEW_STEPS = 512  # may be left to be folded in while the engine waits, missing ones too
_MOVED_AT_FIRST, _MOST_MOVED = 64, 4096  # series; how many take a good while is found out
_MOVE_SECONDS = 0.008
_MOST_ROUNDS, _POLITE_ROUNDS = 20, 10  # of folding in what came meanwhile; then nobody is given way to
Progress = Callable[[float], None]


class _Pace:
    """How many series move while the engine waits."""

    def __init__(self) -> None:
        self.series = _MOVED_AT_FIRST

    def note(self, seconds: float) -> None:
        """Take in how long the last ones took."""
        if seconds > _MOVE_SECONDS:
            self.series = max(self.series // 2, 1)
        elif seconds < _MOVE_SECONDS / 3:
            self.series = min(self.series * 2, _MOST_MOVED)


class Swap:
    """One replacement.

    Args:
        engine: called through the batcher only.
        batcher: the engine's.
        storage: for the rebuilding thread.
        replay_steps: of a series at least.
        pool: one thread.
        progress: told the share that has moved, 0 to 1.
    """

    def __init__(
        self,
        engine: Engine,
        batcher: Batcher,
        storage: Storage,
        *,
        replay_steps: int,
        pool: ThreadPoolExecutor,
        progress: Progress = lambda share: None,
    ) -> None:
        self._engine, self._batcher, self._storage = engine, batcher, storage
        self._replay_steps, self._pool, self._progress = replay_steps, pool, progress
        self._pace, self._stopped = _Pace(), threading.Event()
        self._lane: Lane | None = None
        self.left: Exception | None = None  # why the new version still has series, after `run` has failed

    async def run(self, bundle: Bundle, version: str) -> None:
        """Replace the active version; afterwards the old one's snapshots are kept for a reversal.

        Raises ForecasterError if that cannot be done, with the old version serving as before, unless `left` says why
        series could not be given back to it.
        """
        lanes = self._engine.lanes
        kept = {bundle.fingerprint, lanes.active.bundle.fingerprint}
        lane = await self._in_thread(functools.partial(self._engine.make_lane, bundle, version, empty=True))
        await self._in_thread(lane.warm_up)
        self._lane = lane
        try:
            await self._batcher.upkeep(lambda: lanes.begin(lane, self._engine.storage.journal.deletions()))
            goes_on = await self._in_thread(self._goes_on, bundle.fingerprint)
            await self._move_all(lanes.active, lane, goes_on=goes_on, into_next=True)
            sequence = await self._save_all(lane)
            await self._in_thread(keep, self._storage.snapshots, bundle)
            await self._batcher.upkeep(lambda: self._finish(bundle, version, sequence))
        except BaseException:
            if not self._stopped.is_set():
                await asyncio.shield(self.take_back())
            raise
        try:
            await self._in_thread(self._clean_up, kept, bundle.fingerprint)
        except Exception as error:  # noqa: BLE001 -- the new version serves all the same
            LOGGER.warning("snapshots of former versions stay until the next replacement", exc_info=error)

    def stop(self) -> None:
        """Let what is under way fail soon and nothing be taken back: the process is about to end.

        The next start goes on from the active version's snapshots, as after a crash.
        """
        self._stopped.set()

    async def _move_all(self, source: Lane, target: Lane, *, goes_on: bool, into_next: bool) -> None:
        """Move every bucket that has not moved (or moved back)."""

        def begin() -> tuple[np.ndarray, tuple[dict[str, int], IntArray, IntArray], int, Sequence[tuple[int, str]]]:
            lanes, store = self._engine.lanes, source.store
            return lanes.moved != into_next, store.inventory(), store.sequence, lanes.deletions

        waiting, *residents = await self._batcher.upkeep(begin)
        census = await self._in_thread(take_census, source, self._storage.snapshots, self._check_going, *residents)
        count = int(np.clip(len(census) // _SERIES_AT_ONCE, 1, _MOST_PARTS))
        parts = np.array_split(np.flatnonzero(waiting), count)
        late, done = np.zeros(len(census), dtype=bool), 0
        if not goes_on:
            late = await self._in_thread(self._stragglers, census, target, parts)
        for group in groups(census, late, parts):
            start: Callable[..., Fold] = from_windows
            before = census.at(np.flatnonzero(late)).of(marked(np.concatenate(group)))
            if goes_on:
                start = functools.partial(from_snapshots, snapshots=self._storage.snapshots)
            elif len(before):
                start = functools.partial(from_windows, settled=await self._fold(target, before, from_windows))
            for buckets in group:
                fold = await self._fold(target, census.of(marked(buckets)), start)
                if into_next:
                    await self._in_thread(fold.check)
                await self._move_part(fold, census, buckets, (source, target, into_next))
                done += 1
                self._progress(done / count)

    def _stragglers(self, census: Census, target: Lane, parts: Sequence[IntArray]) -> np.ndarray:
        mine = census.of(marked(np.concatenate(parts)))
        late = stragglers(mine, windows(mine, target.bundle, self._replay_steps)[0], len(parts))
        return np.isin(census.names, mine.names[late]) if late.any() else np.zeros(len(census), dtype=bool)

    async def _fold(self, target: Lane, census: Census, start: Callable[..., Fold]) -> Fold:
        """Return series under the target's version, as of the census."""
        source = Source(self._storage.journal, target.store.calibration, self._stopped.is_set)
        begin = functools.partial(start, target.bundle, census, source, replay_steps=self._replay_steps)
        fold: Fold = await self._in_thread(begin)
        give_way = Courtesy(self._is_busy).give_way
        await self._in_thread(functools.partial(fold.advance, through=census.sequence, give_way=give_way))
        return fold

    async def _move_part(self, fold: Fold, census: Census, buckets: IntArray, how: tuple[Lane, Lane, bool]) -> None:
        """Move the buckets of a part, some at a time."""
        left, series = buckets, np.bincount(census.buckets, minlength=BUCKETS)[buckets]
        while len(left):
            few = max(int(np.searchsorted(np.cumsum(series), self._pace.series, side="right")), 1)
            await self._move_some(fold, marked(left[:few]), *how)
            left, series = left[few:], series[few:]

    async def _move_some(self, fold: Fold, moving: np.ndarray, source: Lane, target: Lane, into_next: bool) -> None:
        """Move some of the buckets that are being rebuilt, as many as keep the engine's thread for a short while."""
        for attempt in range(_MOST_ROUNDS):
            give_way = Courtesy(self._is_busy).give_way if attempt < _POLITE_ROUNDS else None
            if await self._in_thread(functools.partial(fold.advance, give_way=give_way)) <= _FEW_STEPS:
                break

        def timed() -> float:
            began = time.perf_counter()
            move(self._engine, fold, moving, source, target, into_next)
            return time.perf_counter() - began

        self._pace.note(await self._batcher.upkeep(timed))
        await self._in_thread(fold.release, moving)

    async def _save_all(self, lane: Lane) -> int:
        """Write the new lane's snapshots, a few at a time; return the record up to which they hold everything."""
        dirty, sequence = await self._batcher.upkeep(lambda: (lane.store.dirty(), lane.store.sequence))
        sync = functools.partial(self._in_thread, self._storage.snapshots.sync)
        await save(self._batcher, lane.store, dirty, sync)
        await sync()  # which version is served will outlive a power cut
        return int(sequence)

    def _finish(self, bundle: Bundle, version: str, sequence: int) -> None:
        """Make the new version the active one, durably; on the engine's thread."""
        snapshots = self._engine.storage.snapshots
        self._engine.amended.save()
        snapshots.complete(bundle.fingerprint, sequence)
        snapshots.activate(Activation(version, bundle.fingerprint))
        self._engine.lanes.finish().store.retire()
        self._engine.watches.note_all()

    def _clean_up(self, keep: set[str], active: str) -> None:
        """Remove the snapshots of all versions but some."""
        for fingerprint in self._storage.snapshots.fingerprints():
            if fingerprint not in keep:
                self._storage.snapshots.drop(fingerprint)
        self._storage.snapshots.settle_returned(active)  # the active version and the one before have all others

    async def take_back(self) -> None:
        """Give all buckets back to the active version; what failed is in `left`, and may be tried again."""
        lanes, lane = self._engine.lanes, self._lane
        assert lane is not None
        try:
            # What the engine's thread was told before this is done by then, whoever stopped waiting for it.
            active, is_there, any_moved = await self._batcher.upkeep(
                lambda: (lanes.active, lanes.next is lane, bool(lanes.moved.any()))
            )
            if not is_there:
                return
            if any_moved:
                LOGGER.warning("version %s is taken back", lane.version)
                goes_on = await self._in_thread(self._reaches, active.bundle.fingerprint)
                await self._move_all(lane, active, goes_on=goes_on, into_next=False)
            await self._batcher.upkeep(lanes.abandon)
            self._engine.watches.note_all()
            lane.store.retire()
            self.left = None
        except Exception as error:  # noqa: BLE001 -- each series stays where it is, with its state
            self.left = error
            if self._stopped.is_set():
                return
            LOGGER.error(
                "version %s cannot be taken back yet; until it is, no snapshots are written and nothing is pruned",
                lane.version,
                exc_info=error,
            )

    def _goes_on(self, fingerprint: str) -> bool:
        """Return whether a version's snapshots are whole and the journal has all behind them, or drop them.

        From here on it keeps what it has, as long as there are two lanes.
        """
        self._engine.lanes.await_pruning()
        if self._storage.snapshots.complete_through(fingerprint) is not None and self._reaches(fingerprint):
            return True
        self._storage.snapshots.drop(fingerprint)
        return False

    def _reaches(self, fingerprint: str) -> bool:
        """Return whether the journal still has all that a version's snapshots do not hold."""
        through = self._storage.snapshots.complete_through(fingerprint) or 0
        return self._storage.journal.first_sequence() <= through + 1

    def _check_going(self) -> None:
        if self._stopped.is_set():
            raise UnavailableError("the server was told to stop while it replaced a version")

    def _is_busy(self) -> bool:
        return self._batcher.is_busy

    async def _in_thread(self, function: Callable[..., Any], *values: Any) -> Any:
        self._check_going()
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *values)
