"""Late and corrected values: each has the one outcome that its place in the journal says, and once nobody waits any
more every forecast is the offline fold of the corrected past."""

import asyncio
import contextlib
import dataclasses
import math
import pathlib
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import Phase, given, settings

from forecaster.config import ServingConfig
from forecaster.errors import ReturningError
from forecaster.serving.rebuilding.census import memory_steps
from forecaster.serving.storage.contract import AMENDED, Storage
from forecaster.serving.storage.opening import open_storage
from forecaster.serving.storage.postgres.storage import open_postgres
from forecaster.serving.upkeep.amending import Amending
from forecaster.serving.upkeep.idling import Idling
from forecaster.serving.upkeep.maintenance import Maintenance
from forecaster.serving.upkeep.returning import Returning
from forecaster.serving.work.outcome import Outcome
from tests.postgres import Cluster
from tests.unit.model.family import SPEC
from tests.unit.serving.folding import GAP, HORIZON, Row, assert_same, folded, make_bundle, walk, work
from tests.unit.serving.storages import Opener
from tests.unit.serving.swapping import Fleet, run

BUNDLES = {
    "1": make_bundle(1, SPEC),
    "2": make_bundle(2, SPEC, cell="lstm", hidden_size=9, season_lengths=(5, 30)),
}
NAMES = BUNDLES["1"].model.covariates.dynamic
LATE = 9  # steps
APPLIED, DUPLICATE, REJECTED, CORRECTED, FILLED = map(int, Outcome)
KINDS = (
    "observe observe observe late late correct correct correct past retry retry round idle delete swap restart settle"
)
Op = tuple[str, str, int, float]
ops = st.lists(
    st.tuples(
        st.sampled_from(KINDS.split()),
        st.sampled_from(["a", "b", "c"]),
        st.integers(1, GAP + 4),
        st.sampled_from([1.0, 2.0, math.nan, -7.5]),
    ),
    min_size=10,
    max_size=50,
)


@dataclass
class Past:
    """The plain reference of one series: all that was said of each hour, in order."""

    words: dict[int, list[tuple[float, tuple[float, ...]]]] = field(default_factory=dict)

    def say(self, hour: int, value: float, beside: tuple[float, ...], *, replaces: bool) -> int:
        """Return the outcome of a row that is said for the first time, and take it."""
        said, last = self.words.get(hour, []), max(self.words, default=None)
        outcome = APPLIED
        if last is not None and hour <= last:
            known = said[-1][0] if said else math.nan
            row = repr((value, beside)) if replaces else repr(value)  # a word alone tells of its covariates
            every = [repr(word) if replaces else repr(word[0]) for word in said]
            is_soon = last - hour <= LATE
            if (every and row == every[-1]) or (not replaces and row in every):
                return DUPLICATE
            if not said and math.isnan(value) and not replaces:  # it is missing already
                return DUPLICATE
            if math.isnan(known) and not math.isnan(value) and (replaces or is_soon):
                outcome = FILLED
            elif replaces:
                outcome = CORRECTED
            else:
                return REJECTED
        self.words.setdefault(hour, []).append((value, beside))
        return outcome

    def rows(self, name: str) -> list[Row]:
        return [(name, hour, *self.words[hour][-1]) for hour in sorted(self.words)]

    def steps(self) -> list[tuple[int, float]]:
        return [step[:2] for step in folded(self.rows("")).steps]


class Strict(Amending):
    """Remembers what it could not do: a later round would make up for it, and hide it."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.errors: list[Exception] = []

    async def _failed(self, error: Exception) -> float:
        if not self._is_stopped:
            self.errors.append(error)
        return await super()._failed(error)


class World:
    """A fleet with its upkeep, what clients have sent, and what every series must be by now."""

    def __init__(self, storage: Storage, max_resident: int, replay_steps: int) -> None:
        self.storage, self._max_resident, self._replay_steps = storage, max_resident, replay_steps
        self.past: dict[str, Past] = {}
        self._sent: list[tuple[list[Row], bool, float]] = []
        self.version, self.folded = "1", 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["World"]:
        """Serve, as from a start on."""
        limits = {"max_resident": self._max_resident, "late_steps": LATE}
        self.fleet = fleet = Fleet(self.storage, BUNDLES, self.version, **limits)
        self._pool, self._folder = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._keeping, self._folding = self.storage.beside(), self.storage.beside()
        config = ServingConfig(journal_seconds=0.0, max_resident_series=100_000)
        self._upkeep = Maintenance(fleet.engine, fleet.batcher, self._keeping, self._pool, config)
        self._idling = Idling(fleet.engine, fleet.batcher, self._keeping, self._pool, seconds=1e-6)
        beside = (fleet.engine, fleet.batcher, self._folding, self._folder, self._replay_steps)
        returning, amending = Returning(*beside), Strict(*beside)
        async with fleet.running():
            await fleet.batcher.upkeep(fleet.engine.recover)
            tasks = [asyncio.create_task(one.run()) for one in (returning, amending)]
            await asyncio.sleep(0)
            try:
                yield self
            finally:
                returning.stop()
                amending.stop()
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                for pool, storage in ((self._pool, self._keeping), (self._folder, self._folding)):
                    pool.shutdown()
                    storage.close()
                assert not amending.errors
                self.version, self.folded = fleet.engine.lanes.active.version, self.folded + amending.folded

    async def play(self, drawn: Sequence[Op]) -> None:
        """Do some things; a restart is as from a kill: nothing is saved."""
        left = list(drawn)
        while left:
            async with self.running():
                while left and (op := left.pop(0))[0] != "restart":
                    await self.do(op)
        async with self.running():
            await self.settle()

    async def do(self, op: Op) -> None:
        what, name, step, value = op
        past, fleet = self.past.get(name), self.fleet
        last = max(past.words) if past else -step
        beside = (value, math.nan, 1.0 * step)
        if what == "observe":
            await self.say([(name, last + step, value, beside)])
        elif what in ("late", "correct") and past:
            await self.say([(name, last - step, value, beside)], replaces=what == "correct")
        elif what == "past" and past:  # of a time before all others, or of one that has been long ago; and a new one
            hour = min(past.words) + (step - GAP // 2)
            await self.say([(name, hour, value, beside), (name, last + 1, 3.5, beside)], replaces=True)
        elif what == "retry" and self._sent:
            rows, replaces, sent = self._sent[step % len(self._sent)]
            assert await self.outcomes(rows, replaces, sent) == [DUPLICATE] * len(rows)
        elif what == "round":
            await self._upkeep.round()
        elif what == "idle":
            await self._upkeep.round()
            await self._idling.round()
        elif what == "delete" and past:
            await fleet.batcher.call(lambda: fleet.engine.delete(name))
            del self.past[name]
            self._sent = [one for one in self._sent if all(row[0] != name for row in one[0])]
        elif what == "swap":
            await fleet.swap("2" if fleet.engine.lanes.active.version == "1" else "1")
        elif what == "settle":
            await self.settle()

    async def say(self, rows: list[Row], *, replaces: bool = False) -> None:
        sent = time.monotonic()
        told = await self.outcomes(rows, replaces, math.inf)
        past = [self.past.setdefault(row[0], Past()) for row in rows]
        expected = [one.say(*row[1:], replaces=replaces) for one, row in zip(past, rows, strict=True)]
        assert told == expected, (rows, replaces, past[0].words)
        if REJECTED not in told:
            self._sent.append((rows, replaces, sent))

    async def outcomes(self, rows: list[Row], replaces: bool, sent_seconds: float) -> list[int]:
        asked = dataclasses.replace(work(rows, None, NAMES), replaces=replaces, sent_seconds=sent_seconds)
        while True:
            with contextlib.suppress(ReturningError):
                return [int(outcome) for outcome in (await self.fleet.batcher.observe(asked)).outcomes]
            await asyncio.sleep(0.002)

    async def folded_again(self) -> None:
        """Wait until nobody waits to be folded."""
        while await self.fleet.batcher.call(lambda: len(self.fleet.engine.amended)):
            await asyncio.sleep(0.002)

    async def settle(self) -> None:
        """Wait until nobody waits to be folded, and look at every forecast."""
        fleet = self.fleet
        await self.folded_again()
        fleet.series = {name: folded(past.rows(name), names=NAMES) for name, past in self.past.items()}
        await fleet.check()


@settings(max_examples=12, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(ops, st.sampled_from([2, 100]))
def test_any_interleaving_is_the_plain_reference(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[Op], max_resident: int
) -> None:
    with closing(open_storage(str(tmp_path_factory.mktemp("state")), "interval", "a model")) as storage:
        run(lambda: World(storage, max_resident, 10_000).play(drawn))


@settings(max_examples=3, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(ops, st.sampled_from([2, 100]))
def test_any_interleaving_in_postgres(postgres: Cluster, drawn: list[Op], max_resident: int) -> None:
    url = postgres.url(postgres.create_database())
    with closing(open_postgres(url, "interval", "a model", lease_wait_seconds=0)) as storage:
        run(lambda: World(storage, max_resident, 10_000).play(drawn))


def test_a_gateway_comes_back_with_what_it_has_kept(opener: Opener) -> None:
    """The newest value first, then all that was missing, in one request each."""

    async def scenario(world: World) -> None:
        async with world.running():
            await world.say(walk("a", [*range(10), 19], 1, 3))
            await world.say(walk("a", range(10, 19), 2, 3))
            await world.say([("a", 5, 100.0, (0.0,) * 3)], replaces=True)
            await world.settle()
            assert [hour for hour, _ in world.past["a"].steps()] == list(range(20))
        assert world.folded >= 1

    with closing(opener()) as storage:
        run(lambda: scenario(World(storage, 100, 10_000)))


@pytest.mark.parametrize("back", [1, 70])
@pytest.mark.parametrize("from_a_snapshot", [True, False])
def test_a_long_series_is_folded_from_near_before(tmp_path: pathlib.Path, *, back: int, from_a_snapshot: bool) -> None:
    """From its last steps, and from its memory before the correction; or from a snapshot, to the bit of its state."""
    replay_steps, hours = 20, 300

    async def scenario(world: World) -> None:
        async with world.running():
            fleet, rows = world.fleet, [("a", hour, float(hour % 7), (0.0,) * 3) for hour in range(hours)]
            await world.say(rows[: hours - 100])
            if from_a_snapshot:
                await world._upkeep.round()
            await world.say(rows[hours - 100 :])
            await world.say([("a", hours - 1 - back, 50.0, (1.0,) * 3)], replaces=True)
            await world.folded_again()
            assert_kept(world)
            series = folded(world.past["a"].rows("a"), names=NAMES)
            memory = memory_steps(BUNDLES["1"])
            steps = max(replay_steps, back + 1 + memory)
            last = hours - (hours - steps) // memory * memory
            how = {} if from_a_snapshot else {"last": last, "first_is_missing": True}
            (found,) = (await fleet.forecast(["a"])).quantiles
            assert_same(found, series.forecast(BUNDLES["1"], **how), "a")  # type: ignore[arg-type]
            (info,), _ = await fleet.batcher.call(lambda: fleet.engine.page("", 10))
            assert (info.length, info.observed_length) == (hours, hours)

    def assert_kept(world: World) -> None:
        (snapshot,) = world.storage.snapshots.fetch(BUNDLES["1"].fingerprint, ["a"])
        assert snapshot.sequence == world.storage.journal.last_sequence()
        assert not list(world.storage.snapshots.read(AMENDED))

    with closing(open_storage(str(tmp_path / "state"), "interval", "a model")) as storage:
        run(lambda: scenario(World(storage, 100, replay_steps)))


@pytest.mark.parametrize("joins_the_runs", [True, False])
def test_what_was_scored_stays_and_what_waits_is_scored_when_its_time_comes(
    opener: Opener, *, joins_the_runs: bool
) -> None:
    """As of a series without corrections; also where late values fill a gap behind which the series began anew."""

    async def scored(world: World) -> list[list[int]]:
        infos, _ = await world.fleet.batcher.call(lambda: world.fleet.engine.page("", 10))
        return [[score.scored for score in info.live] for info in infos]

    async def go_on(world: World, hours: Iterable[int], *, forecasting: bool) -> None:
        for hour in hours:
            if forecasting:
                await world.fleet.forecast(["a", "b"])
            await world.say([(name, hour, 1.0 * hour, (0.0,) * 3) for name in "ab"])
            corrected, control = await scored(world)
            assert corrected == control, hour

    async def scenario(world: World) -> None:
        begin = 10 + GAP + 3
        async with world.running():
            hours = [*range(10), *range(begin, begin + 6)]
            await world.say([(name, hour, 1.0 * hour, (0.0,) * 3) for name in "ab" for hour in hours])
            await go_on(world, range(begin + 6, begin + 16), forecasting=True)
            await world.fleet.forecast(["a", "b"])
            before = await scored(world)
            assert before[0][0] > 1
            first = 10 if joins_the_runs else begin
            await world.say([("a", hour, 50.0, (0.0,) * 3) for hour in range(first, begin + 2)], replaces=True)
            await world.folded_again()
            assert await scored(world) == before
            await go_on(world, range(begin + 16, begin + 16 + HORIZON), forecasting=False)
            assert sum((await scored(world))[0]) > sum(before[0]) + 1
            await world.settle()

    with closing(opener()) as storage:
        run(lambda: scenario(World(storage, 100, 10_000)))


def test_a_version_that_comes_back_knows_what_was_corrected_meanwhile(opener: Opener) -> None:
    """Its snapshot of before is gone: it would go on from what is not true any more."""

    async def scenario(world: World) -> None:
        async with world.running():
            await world.say(walk("a", range(30), 1, 3))
            await world._upkeep.round()
            await world.do(("swap", "a", 1, 0.0))
            await world.say([("a", 20, 99.0, (1.0,) * 3)], replaces=True)
            await world.settle()
            await world.do(("swap", "a", 1, 0.0))
            await world.settle()
            assert world.fleet.seen == {"1", "2"}

    with closing(opener()) as storage:
        run(lambda: scenario(World(storage, 100, 10_000)))
