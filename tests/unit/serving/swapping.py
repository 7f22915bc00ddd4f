"""What tests of swaps share: small models, a fleet that knows what each forecast must be, and an engine one can stop.

The offline model is the reference: `Fleet` keeps every series' steps and folds them in one plain pass.
"""

import asyncio
import contextlib
import itertools
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from forecaster.config import ModelConfig
from forecaster.model.bundle import Bundle
from forecaster.model.covariates import CovariateSpec, with_attributes
from forecaster.model.observations import Observations
from forecaster.model.seq2seq import Seq2Seq
from forecaster.serving.batcher import Batcher
from forecaster.serving.engine import Engine
from forecaster.serving.records import Attributes, Columns
from forecaster.serving.storage import Storage
from forecaster.serving.swap import Swap
from forecaster.serving.work import Forecasts, ForecastWork, Observed, ObserveWork

HOUR_US = 3_600_000_000
GAP, HORIZON = 20, 5
Row = tuple[str, int, float, tuple[float, ...]]  # series, hour, value, covariates
Static = tuple[dict[str, float], dict[str, str]]
Hook = Callable[[], Awaitable[None]]


def make_bundle(seed: int, spec: CovariateSpec | None = None, **changes: object) -> Bundle:
    """Return a small model with weights far from the initial zeros."""
    torch.manual_seed(seed)
    fields: dict[str, object] = {"hidden_size": 6, "decoder_size": 6, "season_lengths": (4,), "min_history": 1}
    model = Seq2Seq(ModelConfig(horizon=HORIZON, **(fields | changes)), HOUR_US, spec or CovariateSpec())  # type: ignore[arg-type]
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return Bundle.of(model, frequency="1h", max_gap_steps=GAP)


@dataclass
class Series:
    """One series by the rules: every step of its last run, and the static covariates that held at each."""

    steps: list[tuple[int, float, tuple[float, ...], Static]] = field(default_factory=list)
    static: Static = ({}, {})

    def observe(self, hour: int, value: float, beside: tuple[float, ...]) -> None:
        if self.steps and hour - self.steps[-1][0] > GAP + 1:
            self.steps = []
        missing = (math.nan,) * len(beside)
        while self.steps and self.steps[-1][0] < hour - 1:
            self.steps.append((self.steps[-1][0] + 1, math.nan, missing, self.static))
        self.steps.append((hour, value, beside, self.static))

    @property
    def has_values(self) -> bool:
        return any(math.isfinite(value) for _, value, _, _ in self.steps)

    def forecast(self, bundle: Bundle, *, last: int | None = None, first_is_missing: bool = False) -> np.ndarray:
        """Return the quantiles [D, Q] of one pass over all steps, or over the last ones."""
        model, steps = bundle.model, list(self.steps[-last:] if last else self.steps)
        if first_is_missing:
            hour, _, beside, static = steps[0]
            steps[0] = (hour, math.nan, (math.nan,) * len(beside), static)
        state = model.initial_state(1)
        with torch.inference_mode():
            for static, run_ in itertools.groupby(steps, key=lambda step: step[3]):
                state = _with_static(bundle, state, static)
                hours, values, beside, _ = zip(*run_, strict=True)
                values_ = torch.tensor([values], dtype=torch.float64)
                times = torch.tensor([hours]) * HOUR_US
                covariates = torch.tensor([beside], dtype=torch.float64) if beside[0] else None
                state, _ = model.scan(state, Observations.of(times, values_, covariates))
            return model.decode(_with_static(bundle, state, self.static), HORIZON)[0].numpy()


def _with_static(bundle: Bundle, state: dict[str, torch.Tensor], static: Static) -> dict[str, torch.Tensor]:
    spec = bundle.model.covariates
    numbers = [static[0].get(one.name, math.nan) for one in spec.static]
    codes = spec.codes([static[1].get(one.name, "") for one in spec.categories])
    numbers_, codes_ = torch.tensor([numbers], dtype=torch.float64), torch.tensor([codes], dtype=torch.int64)
    return with_attributes(state, numbers_.reshape(1, -1), codes_.reshape(1, -1))


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

    async def _in_thread(self, function: Callable[..., Any], *values: Any) -> Any:
        await _call(self.hook)
        result = await super()._in_thread(function, *values)
        await _call(self.hook)
        return result


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
        ids = tuple(dict.fromkeys(row[0] for row in rows))
        names = next(iter(self.bundles.values())).model.covariates.dynamic
        columns = Columns(
            ids,
            np.array([ids.index(row[0]) for row in rows], dtype=np.int32),
            np.array([row[1] * HOUR_US for row in rows], dtype=np.int64),
            np.array([row[2] for row in rows], dtype=np.float64),
            names,
            np.array([row[3] for row in rows], dtype=np.float64).reshape(len(rows), len(names)) if names else None,
        )
        parts = (tuple(given), tuple(n for n, _ in given.values()), tuple(c for _, c in given.values()))
        answer: Observed = await self.batcher.observe(ObserveWork(columns, Attributes(*parts) if given else None))
        assert not answer.errors
        assert (answer.outcomes == 1).all()
        for name, covariates in given.items():
            self.series.setdefault(name, Series()).static = covariates
        for name, hour, value, beside in rows:
            self.series.setdefault(name, Series()).observe(hour, value, beside)

    async def delete(self, name: str) -> None:
        await self.batcher.call(lambda: self.engine.delete(name))
        del self.series[name]

    async def forecast(self, names: Sequence[str]) -> Forecasts:
        levels = next(iter(self.bundles.values())).model.config.quantile_levels
        return await self.batcher.forecast(ForecastWork(tuple(names), HORIZON, levels))

    async def check(self) -> None:
        """Every series is there, once, and its forecast is the offline fold under the weights of its version."""
        listed, total = await self.batcher.call(lambda: self.engine.page("", 10_000))
        found = [info.series_id for info in listed]
        assert found == sorted(self.series), (found, sorted(self.series))
        assert total == len(self.series)
        if not self.series:
            return
        for info in listed:
            series = self.series[info.series_id]
            assert info.length == len(series.steps), (info, len(series.steps))
            assert info.observed_length == sum(math.isfinite(value) for _, value, _, _ in series.steps)
        names = sorted(self.series)
        for start in range(0, len(names), self.at_once):
            some = names[start : start + self.at_once]
            answer = await self.forecast(some)
            assert sorted(answer.failures) == [name for name in some if not self.series[name].has_values]
            for name, found, version in self.each(answer):
                self.seen.add(version)
                assert_same(found, self.series[name].forecast(self.bundles[version]), f"{name}, version {version}")

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


def assert_same(found: np.ndarray, expected: np.ndarray, what: str) -> None:
    scale = 1.0 + float(np.abs(expected).max())
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5 * scale, err_msg=what)


def walk(name: str, hours: Sequence[int], seed: int, covariates: int = 0) -> list[Row]:
    """Return rows with missing values at these hours."""
    rng = np.random.default_rng([seed, len(hours)])
    values = rng.normal(10, 3, len(hours))
    values[rng.random(len(hours)) < 0.1] = math.nan
    values[0] = 10.0
    beside = rng.normal(5, 10, (len(hours), covariates))
    beside[rng.random(beside.shape) < 0.2] = math.nan
    return [(name, hour, float(v), tuple(x)) for hour, v, x in zip(hours, values, beside.tolist(), strict=True)]


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(scenario(), 300)

    asyncio.run(bounded())
