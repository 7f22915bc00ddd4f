"""The queue before one engine: chains of requests, callers who go away, and defects, on a real engine."""

import asyncio
import dataclasses
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from forecaster.errors import (
    InternalError,
    InvalidArgumentError,
    LimitReachedError,
    StorageError,
    UnavailableError,
    UnsupportedError,
)
from forecaster.serving.api.streams import FlowWindow, Stream
from forecaster.serving.engine.batcher import Batcher
from forecaster.serving.engine.engine import Engine
from forecaster.serving.storage.records import Attributes, Columns
from forecaster.serving.storage.volatile import VolatileSnapshots, VolatileStorage
from forecaster.serving.telemetry import told
from forecaster.serving.work.forecasting import ForecastWork, Sampling
from forecaster.serving.work.observing import Chain, Observed, ObserveWork
from tests.unit.serving.folding import HORIZON, HOUR_US, make_bundle


class Queue:
    """A batcher whose engine knows series "a" from hour 0 on, and whose turns can be held.

    Args:
        max_resident: most series in memory.
    """

    def __init__(self, max_resident: int = 2**62) -> None:
        self.engine = Engine(make_bundle(1), VolatileStorage(), max_resident=max_resident)
        self.defects: list[Exception] = []
        self.batcher = Batcher(self.engine, max_batch=100, max_queued=100, on_defect=self.defects.append)
        self.go = threading.Event()

    async def hold(self) -> None:
        """Let a turn begin that lasts until `go`, so that what is asked for gathers."""
        self.held = asyncio.ensure_future(self.batcher.call(self.go.wait))
        await asyncio.sleep(0.02)

    def observe(self, hour: int, chain: Chain | None = None, **more: Any) -> Awaitable[Observed]:
        return self.batcher.observe(one(hour, chain, **more))

    async def in_one_turn(self, *asked: Awaitable[Any]) -> list[Any]:
        """Return what becomes of requests that wait for the same turn, exceptions too."""
        self.go.clear()
        await self.hold()
        answers = asyncio.gather(*asked, return_exceptions=True)
        await asyncio.sleep(0.02)
        self.go.set()
        return await answers

    @property
    def seen(self) -> tuple[int, int]:
        """The last hour, and how many hours had a value."""
        info = self.engine.describe("a")
        return info.clock_us // HOUR_US, info.observed_length


def one(
    hour: int,
    chain: Chain | None = None,
    *,
    name: str = "a",
    attributes: Attributes | None = None,
    then: ForecastWork | None = None,
) -> ObserveWork:
    columns = Columns((name,), np.zeros(1, np.int32), np.array([hour * HOUR_US]), np.array([1.0 * hour]))
    return ObserveWork(columns, attributes, then, chain)


def ask(*names: str) -> ForecastWork:
    return ForecastWork(names, HORIZON, (0.1, 0.5, 0.9))


def run(scenario: Callable[[Queue], Awaitable[None]], **options: int) -> None:
    async def whole() -> None:
        queue = Queue(**options)
        queue.batcher.start()
        await queue.observe(0)
        await scenario(queue)
        queue.go.set()
        await queue.batcher.drain()

    asyncio.run(asyncio.wait_for(whole(), 20))


def test_nothing_of_a_chain_is_applied_behind_a_dropped_request() -> None:
    async def scenario(queue: Queue) -> None:
        await queue.hold()
        chain = Chain()
        first, *rest = [asyncio.ensure_future(queue.observe(hour, chain)) for hour in (1, 2, 3)]
        await asyncio.sleep(0)
        first.cancel()
        queue.go.set()
        answers = await asyncio.gather(*rest, return_exceptions=True)
        assert [type(answer) for answer in answers] == [UnavailableError] * 2
        assert queue.seen == (0, 1)
        assert (await queue.observe(1)).outcomes.tolist() == [1]

    run(scenario)


@pytest.mark.parametrize("pause", [0.0, 0.0002, 0.05])
def test_a_stream_that_is_cancelled_between_two_turns_leaves_no_gap(pause: float) -> None:
    """The engine's thread may take its next turn while they are being cancelled, one after another."""

    async def requests() -> AsyncIterator[int]:
        for hour in range(1, 60):
            yield hour
        await asyncio.Event().wait()

    async def prepare(hour: int) -> tuple[float, int]:
        return 0.0, hour

    async def write(hour: int, answer: Observed) -> None:
        raise AssertionError("nobody takes answers")

    async def scenario(queue: Queue) -> None:
        chain = Chain()
        await queue.hold()
        begin = lambda hour: queue.batcher.begin(one(hour, chain))  # noqa: E731
        stream = asyncio.ensure_future(Stream(requests(), prepare, begin, write, FlowWindow(64)).run(asyncio.Event()))
        await asyncio.sleep(0.02)
        queue.go.set()
        time.sleep(pause)  # the turn has ended and the loop is about to hear of it
        asyncio.get_running_loop().call_soon(stream.cancel)
        with pytest.raises(asyncio.CancelledError):
            await stream
        await asyncio.sleep(0.1)
        hour, values = queue.seen
        assert values == hour + 1

    run(scenario)


def test_nothing_of_a_chain_is_applied_behind_a_request_that_is_refused_in_the_same_turn() -> None:
    nobodys = Attributes(("nobody",), ({},), ({},))

    async def scenario(queue: Queue) -> None:
        chain, other = Chain(), Chain()
        first, behind = queue.observe(1, chain, attributes=nobodys), queue.observe(2, chain)
        wrong, behind, apart = await queue.in_one_turn(first, behind, queue.observe(1, other))
        assert isinstance(wrong, InvalidArgumentError)
        assert behind is wrong
        assert apart.outcomes.tolist() == [1]
        assert queue.seen == (1, 2)

    run(scenario)


@pytest.mark.parametrize("error", [IndexError("a turn's defect"), StopIteration(), SystemExit(3)])
def test_a_turn_that_raises_fails_its_requests_and_the_next_one_is_done(
    monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def broken(works: object) -> list[object]:
        monkeypatch.undo()
        raise error

    async def scenario(queue: Queue) -> None:
        monkeypatch.setattr(queue.batcher, "_turn", broken)
        chain = Chain()
        found = await asyncio.gather(queue.observe(1, chain), queue.observe(1), return_exceptions=True)
        shown = error if isinstance(error, IndexError) else found[0].__cause__
        assert shown is error
        assert found == [found[0]] * 2
        assert queue.defects == [found[0]]
        assert chain.failed is found[0]
        assert (await queue.observe(1)).outcomes.tolist() == [1]
        assert queue.batcher.queued == 0

    run(scenario)


COLD, RESIDENT = ("a", "b", "c"), ("d", "e", "f")


async def with_cold_series(queue: Queue) -> None:
    """Let six series be there, of which the last three are in memory."""
    for name in (*COLD[1:], *RESIDENT):
        await queue.observe(0, name=name)
    assert set(queue.engine.lanes.active.store.resident) == set(RESIDENT)


def fill_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing leave memory any more: nothing takes snapshots."""

    def full(self: object, *snapshots: object) -> None:
        raise StorageError("/var/lib/forecaster/snapshots.sqlite is full")

    monkeypatch.setattr(VolatileSnapshots, "save", full)


def test_a_full_disk_concerns_those_who_need_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those in memory are observed and forecast in the same turn, and in the same request."""

    async def scenario(queue: Queue) -> None:
        await with_cold_series(queue)
        fill_disk(monkeypatch)
        chain = Chain()
        f, a, behind, e = await queue.in_one_turn(
            queue.observe(1, chain, name="f"),
            queue.observe(1, chain, name="a"),
            queue.observe(2, chain, name="f"),
            queue.observe(1, name="e"),
        )
        assert [one.outcomes.tolist() for one in (f, e)] == [[1], [1]]
        assert isinstance(a, StorageError)
        assert behind is a
        mixed, cold, resident = await queue.in_one_turn(
            *(queue.batcher.forecast(ask(*names)) for names in ("da", "b", "e"))
        )
        assert [one.series_ids for one in (mixed, cold, resident)] == [("d",), (), ("e",)]
        assert [set(one.failures) for one in (mixed, cold, resident)] == [{"a"}, {"b"}, set()]
        assert mixed.median.shape == (1, HORIZON)
        assert isinstance(mixed.failures["a"], StorageError)
        assert "/var" not in str(mixed.failures["a"])
        monkeypatch.undo()
        assert (await queue.observe(1, name="a")).outcomes.tolist() == [1]

    run(scenario, max_resident=3)


def test_requests_that_are_too_many_at_once_are_done_as_far_as_there_is_room() -> None:
    async def scenario(queue: Queue) -> None:
        await with_cold_series(queue)
        asked = (queue.observe(1, name=name) for name in "abcdef")
        assert [one.outcomes.tolist() for one in await queue.in_one_turn(*asked)] == [[1]] * 6
        answers = await queue.in_one_turn(*(queue.batcher.forecast(ask(*names)) for names in ("ab", "cd", "ef")))
        done = sum(len(one.series_ids) for one in answers)
        assert 0 < done < 6
        failures = [error for one in answers for error in one.failures.values()]
        assert [type(error) for error in failures] == [LimitReachedError] * (6 - done)

    run(scenario, max_resident=3)


def test_what_was_applied_is_answered_whatever_becomes_of_its_forecasts(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(queue: Queue) -> None:
        await with_cold_series(queue)
        fill_disk(monkeypatch)
        answer = await queue.observe(1, name="e", then=ask("e", "a"))
        assert (answer.outcomes.tolist(), answer.forecasts.series_ids) == ([1], ("e",))
        assert isinstance(answer.forecasts.failures["a"], StorageError)
        monkeypatch.setattr(queue.engine, "forecast", lambda works: 1 / 0)
        chain = Chain()
        answer = await queue.observe(2, chain, name="e", then=ask("e", "f"))
        assert (answer.outcomes.tolist(), answer.forecasts.series_ids) == ([1], ())
        assert answer.forecasts.median.shape == (0, HORIZON)
        assert [type(error) for error in answer.forecasts.failures.values()] == [InternalError] * 2
        assert chain.failed is None

    run(scenario, max_resident=3)


def test_what_storage_refused_is_not_said_to_have_changed_nothing() -> None:
    shown = told(StorageError("/var/lib/forecaster/journal.sqlite: input/output error"))
    assert isinstance(shown, StorageError)
    assert "nothing" not in str(shown)
    assert "answered as a duplicate" in str(shown)
    assert "/var" not in str(shown)


def test_corrected_quantiles_are_refused_where_there_are_none() -> None:
    """On another device than the CPU; `meta` is one that every machine has."""
    engine = Engine(make_bundle(1), VolatileStorage(), device="meta")
    wanted = dataclasses.replace(ask("a"), calibrated=True)
    with pytest.raises(UnsupportedError, match=r"options\.calibrated: states on meta are not calibrated"):
        engine.check(wanted)
    for plain in (ask("a"), None):
        engine.check(plain)
    for request in (wanted, dataclasses.replace(wanted, drawing=Sampling(2, 0))):
        assert isinstance(engine.forecast([request])[0].failures["a"], UnsupportedError)
    Engine(make_bundle(1), VolatileStorage(), device="cpu:0").check(wanted)
