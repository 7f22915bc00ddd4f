"""Brings idle series back: folds their states again from the journal and the history, beside the requests.

Whoever wants one is told to come again shortly. A thread with a storage of its own folds all that have gathered in one
look through the history, as a replacement of versions does; the engine's thread takes the states over, a few series
between two turns. Knows nothing of requests.
"""

import asyncio
import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from forecaster.errors import DamagedHistoryError, ForecasterError
from forecaster.serving.engine.batcher import Batcher
from forecaster.serving.engine.courtesy import Courtesy
from forecaster.serving.engine.engine import Engine
from forecaster.serving.lanes.lane import Lane
from forecaster.serving.rebuilding.census import EARLIEST_US, Census
from forecaster.serving.rebuilding.rebuilt import Rebuilt
from forecaster.serving.rebuilding.starts import Source, from_windows
from forecaster.serving.states.buckets import bucket, marked
from forecaster.serving.states.idle_series import IdleSeries
from forecaster.serving.states.snapshot_bytes import Packed
from forecaster.serving.storage.contract import Journal, Storage
from forecaster.serving.telemetry import LOGGER, log_internal_error
from forecaster.serving.upkeep.folding import FoldingBeside

_AT_ONCE, _SOUGHT_AT_ONCE, _TAKEN_AT_ONCE = 4096, 512, 64
_MOST_WANTED = 262_144
_AGAIN_SECONDS = 0.25  # while a version is being replaced


class Returning(FoldingBeside):
    """Of one engine; see `FoldingBeside`."""

    def __init__(
        self, engine: Engine, batcher: Batcher, storage: Storage, pool: ThreadPoolExecutor, replay_steps: int
    ) -> None:
        super().__init__(engine, batcher, storage, pool, replay_steps)
        self._wanted: dict[str, None] = {}

    async def run(self) -> None:
        """Bring back whoever is wanted, until cancelled."""
        loop = asyncio.get_running_loop()
        self._engine.idle.on_asked = lambda names: loop.call_soon_threadsafe(self._ask, names)
        while True:
            await self._due.wait()
            self._due.clear()
            while self._wanted:
                names = list(self._wanted)[:_AT_ONCE]
                try:
                    if not await self._bring(names):
                        await asyncio.sleep(_AGAIN_SECONDS)
                        continue
                except ForecasterError as error:
                    LOGGER.warning("%d idle series could not come back: %s", len(names), error)
                except Exception as error:  # noqa: BLE001 -- whoever wants them begins it again
                    log_internal_error(error)
                for name in names:
                    self._wanted.pop(name, None)

    def _ask(self, names: Sequence[str]) -> None:
        if len(self._wanted) < _MOST_WANTED:  # others are asked for again
            self._wanted |= dict.fromkeys(names)
            self._due.set()

    async def _bring(self, names: Sequence[str]) -> bool:
        """Bring some series back; return whether that could be done now."""
        engine, idle = self._engine, list[IdleSeries]()
        for start in range(0, len(names), _SOUGHT_AT_ONCE):
            idle += await self._batcher.upkeep(
                functools.partial(engine.idle.among, names[start : start + _SOUGHT_AT_ONCE])
            )
        if not idle:
            return True

        def begin() -> tuple[Lane, int, int, list[tuple[int, str]]] | None:
            if engine.lanes.next is not None:  # whose states would have to be two
                return None
            engine.settle()
            lane = engine.lanes.active
            return lane, engine.lanes.changes, lane.store.sequence, engine.storage.journal.deletions()

        begun = await self._batcher.upkeep(begin)
        if begun is None:
            return False
        lane, changes, through, deletions = begun
        rebuilt, damage = await self._in_thread(self._fold, lane, _census(through, idle, deletions))
        if damage is not None:
            names = sorted({idle_series.series_id for idle_series in idle}.difference(rebuilt.names))
            LOGGER.warning("%d idle series cannot come back: %s", len(names), damage)
            await self._batcher.upkeep(functools.partial(engine.idle.fail, names, damage))
        packed = _packed(rebuilt, idle)
        for start in range(0, len(rebuilt.names), _TAKEN_AT_ONCE):
            rows = slice(start, start + _TAKEN_AT_ONCE)
            take = functools.partial(self._take, changes, lane, through, idle, rebuilt.names[rows], _part(packed, rows))
            if not await self._batcher.upkeep(take):
                return False
        await self._in_thread(self._storage.snapshots.sync)
        return True

    def _fold(self, lane: Lane, census: Census) -> tuple[Rebuilt, DamagedHistoryError | None]:
        """Return the states as of the census, and what is damaged; then without those that it may concern."""
        source = Source(self._storage.journal, lane.store.calibration, lambda: self._is_stopped)
        fold = from_windows(lane.bundle, census, source, replay_steps=self._replay_steps)
        fold.advance(census.sequence, Courtesy(lambda: self._batcher.is_busy).give_way)
        store, damaged = fold.lane.store, set(fold.damaged())
        store.forget(name for name in damaged if name in store.resident)
        _begin_afresh(fold.lane, census, damaged, self._storage.journal)
        return fold.rebuilt(census.within), fold.damage

    def _take(
        self,
        changes: int,
        lane: Lane,
        through: int,
        idle: Sequence[IdleSeries],
        names: Sequence[str],
        packed: Packed,
    ) -> bool:
        """Write the snapshots of those that are idle still, and let them be the store's; on the engine's thread."""
        if self._engine.lanes.changes != changes:
            return False
        known = {idle_series.series_id: idle_series for idle_series in idle}
        there = {
            idle_series.series_id
            for idle_series in self._engine.idle.among(names)
            if idle_series == known[idle_series.series_id]
        }
        rows = np.array([k for k, name in enumerate(names) if name in there], dtype=np.int64)
        if len(rows):
            kept = [names[k] for k in rows.tolist()]
            lane.store.end_idle(kept, through, _part(packed, rows))
            self._engine.idle.end(kept)
            self._engine.amended.back(kept)  # late and corrected values of meanwhile
        return True


def _begin_afresh(lane: Lane, census: Census, damaged: set[str], journal: Journal) -> None:
    """Let series of which nothing is left to be folded (there once was no history) stand where they stood."""
    there = lane.store.resident.keys() | damaged
    absent = [k for k, name in enumerate(census.names.tolist()) if name not in there]
    if absent:
        names = census.names[absent].tolist()
        lane.store.stand_at(lane.store.create(names), census.clock_us[absent])
        lane.set_attributes(journal.attributes(names, census.sequence))


def _census(through: int, idle: Sequence[IdleSeries], deletions: Sequence[tuple[int, str]]) -> Census:
    names = np.array([idle_series.series_id for idle_series in idle], dtype=object)
    buckets = np.fromiter((bucket(idle_series.series_id) for idle_series in idle), np.int64, len(idle))
    # Of one whose numbers are damaged everything counts.
    clock_us = np.array(
        [idle_series.clock_us if idle_series.position else EARLIEST_US for idle_series in idle], dtype=np.int64
    )
    position = np.array([idle_series.position for idle_series in idle], dtype=np.int64)
    waiting = [deletion for deletion in deletions if deletion[0] <= through]
    return Census(through, names, buckets, clock_us, position, marked(buckets), waiting)


def _packed(rebuilt: Rebuilt, idle: Sequence[IdleSeries]) -> Packed:
    """Return rebuilt states as they are kept, with the steps before their windows counted too."""
    known = {idle_series.series_id: idle_series for idle_series in idle}
    stood = [known[name] for name in rebuilt.names]
    position = np.array([idle_series.position for idle_series in stood], dtype=np.int64)
    observed_count = np.array([idle_series.observed_count for idle_series in stood], dtype=np.int64)
    whole = rebuilt.counted(position, observed_count)
    return Packed(whole.state, whole.static_digest, whole.touched_us)


def _part(packed: Packed, rows: "slice | np.ndarray") -> Packed:
    at = rows if isinstance(rows, slice) else torch.from_numpy(rows)
    state = {name: tensor[at] for name, tensor in packed.state.items()}
    return Packed(state, packed.static_digest[rows], packed.touched_us[rows])
