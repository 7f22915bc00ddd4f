"""What tests of swaps share: a fleet that knows what each forecast must be, its traffic, and an engine one can stop."""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from forecaster.model.bundle import Bundle
from forecaster.serving.engine.batcher import Batcher
from forecaster.serving.engine.courtesy import Courtesy
from forecaster.serving.engine.engine import Engine
from forecaster.serving.storage.contract import Storage
from forecaster.serving.swap.swap import Swap
from forecaster.serving.work.forecasting import Forecasts, ForecastWork
from forecaster.serving.work.observing import Observed
from tests.unit.serving.folding import GAP, HORIZON, Row, Series, Static, assert_same, make_bundle, walk, work

Hook = Callable[[], Awaitable[None]]

A, B = make_bundle(1), make_bundle(2)
OTHERS: dict[str, Bundle] = {
    "other weights": B,
    "lstm, deeper and wider": make_bundle(2, cell="lstm", hidden_size=9, num_layers=2),
    "more memory": make_bundle(2, season_lengths=(5, 30)),
    "slow layers": make_bundle(2, cell="rnn_tanh", num_layers=2, layer_periods=(2, 5)),
    "attention, recurrent decoder": make_bundle(
        2, attention="dot", attention_steps=7, decoder="recurrent", sample_paths=4
    ),
}


def history(series: int, steps: int, seed: int = 0, covariates: int = 0) -> list[Row]:
    """Return rows hour by hour; some series have gaps, one a gap so long that it starts afresh."""
    rows: list[Row] = []
    for k in range(series):
        hours = [hour for hour in range(steps) if k % 3 or hour % 11 not in (4, 5, 6)]
        if k % 5 == 1:
            hours = [hour + (GAP + 5 if hour > steps // 2 else 0) for hour in hours]
        rows += walk(f"s{k}", hours, seed + k, covariates)
    return sorted(rows, key=lambda row: row[1])


class HookedBatcher(Batcher):
    """A batcher whose owner may do anything before and behind each of the server's own calls."""

    hook: Hook | None = None

    async def upkeep(self, function: Callable[[], Any]) -> Any:
        await _call(self.hook)
        result = await super().upkeep(function)
        await _call(self.hook)
        return result


class HookedSwap(Swap):
    """A swap whose owner may do anything before and behind each piece of work of the rebuilding thread."""

    hook: Hook | None = None

    async def run(self, bundle: Bundle, version: str) -> None:
        self.loop = asyncio.get_running_loop()
        await super().run(bundle, version)

    async def _in_thread(self, function: Callable[..., Any], *values: Any) -> Any:
        await _call(self.hook)
        result = await super()._in_thread(function, *values)
        await _call(self.hook)
        return result


class AmidRecords(Courtesy):
    """Gives way to the hook of a swap whenever its rebuilding thread has read a record."""

    def __init__(self, is_busy: Callable[[], bool]) -> None:
        super().__init__(is_busy)
        swap = is_busy.__self__  # type: ignore[attr-defined]
        assert isinstance(swap, HookedSwap)
        self._swap = swap

    def give_way(self) -> None:
        asyncio.run_coroutine_threadsafe(_call(self._swap.hook), self._swap.loop).result()


async def _call(hook: Hook | None) -> None:
    if hook is not None:
        await hook()


class Fleet:
    """An engine behind its batcher, and what every series of it has got.

    Args:
        storage: of the engine.
        bundles: by version.
        version: the one to begin with.
        limits: of the engine.
    """

    def __init__(self, storage: Storage, bundles: Mapping[str, Bundle], version: str = "1", **limits: Any) -> None:
        self.storage, self.bundles = storage, bundles
        self.series: dict[str, Series] = {}
        self.at_once = int(limits.get("max_resident", 10_000))
        self.seen: set[str] = set()  # versions that made a forecast
        self.engine = Engine(bundles[version], storage, version=version, **limits)
        self.batcher = HookedBatcher(self.engine, max_batch=10_000, max_queued=10_000, on_defect=self._defect)
        self.defects: list[Exception] = []
        self._pool = ThreadPoolExecutor(1)

    def _defect(self, error: Exception) -> None:
        self.defects.append(error)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Fleet"]:
        self.batcher.start()
        self._beside = self.storage.beside()
        try:
            yield self
        finally:
            self.batcher.hook = None
            await self.batcher.drain()
            self._pool.shutdown()
            if self._beside is not self.storage:
                self._beside.close()
            assert not self.defects

    async def observe(self, rows: Sequence[Row], static: Mapping[str, Static] | None = None) -> None:
        """Observe rows, all of which are new."""
        given = dict(static or {})
        names = next(iter(self.bundles.values())).model.covariates.dynamic
        answer: Observed = await self.batcher.observe(work(rows, given, names))
        assert not answer.errors
        assert (answer.outcomes == 1).all()
        for name, covariates in given.items():
            self.series.setdefault(name, Series(names)).static = covariates
        for name, hour, value, beside in rows:
            self.series.setdefault(name, Series(names)).observe(hour, value, beside)

    async def delete(self, name: str) -> None:
        await self.batcher.call(lambda: self.engine.delete(name))
        del self.series[name]

    async def forecast(self, names: Sequence[str]) -> Forecasts:
        levels = next(iter(self.bundles.values())).model.config.quantile_levels
        return await self.batcher.forecast(ForecastWork(tuple(names), HORIZON, levels))

    async def check(self) -> None:
        """Every series is there, once, and its forecast is the offline fold under the weights of its version.

        Those that are idle are not listed, and a forecast says so.
        """
        listed, total, idle = await self.batcher.call(lambda: (*self.engine.page("", 10_000), self.idle()))
        names = [info.series_id for info in listed]
        there = sorted(self.series.keys() - idle)
        assert names == there, (names, there)
        assert total == len(there)
        assert self.engine.lanes.next or len(self.engine.idle) == len(idle)
        if idle:
            told = (await self.forecast(sorted(idle))).failures
            still = idle & await self.batcher.call(self.idle)  # what somebody asked for comes back at any moment
            assert all("idle" in str(told[name]) for name in still), told
        if not there:
            return
        for info in listed:
            series = self.series[info.series_id]
            assert info.length == len(series.steps), (info, len(series.steps))
            assert info.observed_length == sum(math.isfinite(value) for _, value, _, _ in series.steps)
        for start in range(0, len(names), self.at_once):
            some = names[start : start + self.at_once]
            answer = await self.forecast(some)
            assert sorted(answer.failures) == [name for name in some if not self.series[name].has_values]
            for name, found, version in self.each(answer):
                self.seen.add(version)
                assert_same(found, self.series[name].forecast(self.bundles[version]), f"{name}, version {version}")

    def idle(self) -> set[str]:
        """Return the series that are idle; on the engine's thread."""
        found = {one.series_id for one in self.engine.idle.among(sorted(self.series))}
        return {name for name in found if self.engine.lanes.of(name).store.bring([name])[0] < 0}

    @staticmethod
    def each(answer: Forecasts) -> Iterator[tuple[str, np.ndarray, str]]:
        """Yield each series' quantiles and the version that they are stamped with."""
        versions = answer.versions * len(answer.series_ids) if len(answer.versions) == 1 else answer.versions
        yield from zip(answer.series_ids, answer.quantiles, versions, strict=True)

    def swap(self, version: str, *, replay_steps: int = 10_000, hook: Hook | None = None) -> Awaitable[None]:
        """Begin to swap; the hook is called between all of its steps."""
        return self.prepared(replay_steps=replay_steps, hook=hook).run(self.bundles[version], version)

    def prepared(self, *, replay_steps: int = 10_000, hook: Hook | None = None) -> Swap:
        """Return a swap that may begin."""
        swap = HookedSwap(self.engine, self.batcher, self._beside, replay_steps=replay_steps, pool=self._pool)
        swap.hook = self.batcher.hook = hook
        return swap


class Traffic:
    """What clients do meanwhile: new values, new series with an old past, deletions, series that come again."""

    def __init__(self, fleet: Fleet, seed: int = 0) -> None:
        self._fleet, self._rng, self._new, self._turn = fleet, np.random.default_rng(seed), 0, 0

    async def __call__(self) -> None:
        fleet, rng = self._fleet, self._rng
        names = sorted(fleet.series)
        some = rng.choice(names, min(len(names), 3), replace=False).tolist()
        steps = rng.choice([1, 1, 1, 2, GAP + 3], len(some))
        rows = [
            (name, fleet.series[name].steps[-1][0] + int(n), float(rng.normal(10, 3)), ())
            for name, n in zip(some, steps, strict=True)
        ]
        await fleet.observe(rows)
        what = rng.integers(6)
        if what == 0 and len(names) > 4:
            await fleet.delete(some[0])
        elif what == 1:
            self._new += 1
            first = int(rng.integers(-300, 30))
            for hour in range(first, first + 6, 2):  # its past comes in several requests
                await fleet.observe(
                    [(f"n{self._new % 3}-{self._new}", h, float(rng.normal(10, 3)), ()) for h in (hour, hour + 1)]
                )
        elif what == 2 and len(names) > 4:
            await fleet.delete(some[1])
            await fleet.observe(walk(some[1], range(5, 12), self._new))
        self._turn += 1
        if self._turn % 3 == 0:
            await fleet.check()


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(scenario(), 300)

    asyncio.run(bounded())
