"""The queue before one engine: chains of requests, callers who go away, and defects, on a real engine."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import numpy as np
import pytest

from forecaster.errors import InvalidArgumentError, UnavailableError
from forecaster.serving.batcher import Batcher
from forecaster.serving.engine import Engine
from forecaster.serving.records import Attributes, Columns
from forecaster.serving.streams import Stream, Window
from forecaster.serving.volatile_storage import VolatileStorage
from forecaster.serving.work import Chain, Observed, ObserveWork
from tests.unit.serving.swapping import HOUR_US, make_bundle


class Queue:
    """A batcher whose engine knows series "a" from hour 0 on, and whose turns can be held."""

    def __init__(self) -> None:
        self.engine = Engine(make_bundle(1), VolatileStorage())
        self.defects: list[Exception] = []
        self.batcher = Batcher(self.engine, max_batch=100, max_queued=100, on_defect=self.defects.append)
        self.go = threading.Event()

    async def hold(self) -> None:
        """Let a turn begin that lasts until `go`, so that what is asked for gathers."""
        self.held = asyncio.ensure_future(self.batcher.call(self.go.wait))
        await asyncio.sleep(0.02)

    def observe(
        self, hour: int, chain: Chain | None = None, attributes: Attributes | None = None
    ) -> Awaitable[Observed]:
        return self.batcher.observe(one(hour, chain, attributes))

    @property
    def seen(self) -> tuple[int, int]:
        """The last hour, and how many hours had a value."""
        info = self.engine.describe("a")
        return info.clock_us // HOUR_US, info.observed_length


def one(hour: int, chain: Chain | None = None, attributes: Attributes | None = None) -> ObserveWork:
    columns = Columns(("a",), np.zeros(1, np.int32), np.array([hour * HOUR_US]), np.array([1.0 * hour]))
    return ObserveWork(columns, attributes, chain=chain)


def run(scenario: Callable[[Queue], Awaitable[None]]) -> None:
    async def whole() -> None:
        queue = Queue()
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


def test_a_stream_that_is_cancelled_between_two_turns_leaves_no_gap() -> None:
    """Its messages are dropped in one pass of the loop, so that no turn finds the first gone and the others there."""

    async def requests() -> AsyncIterator[int]:
        for hour in (1, 2, 3):
            yield hour
        await asyncio.Event().wait()

    async def write(answer: Observed) -> None:
        raise AssertionError("nobody takes answers")

    async def scenario(queue: Queue) -> None:
        await queue.hold()
        prepare = lambda hour: (0.1, lambda: queue.observe(hour))  # noqa: E731 -- without a chain to help it
        stream = asyncio.ensure_future(Stream(requests(), prepare, write, Window(64)).run(asyncio.Event()))
        await asyncio.sleep(0.02)
        queue.go.set()
        time.sleep(0.05)  # the turn has ended and the loop is about to hear of it
        asyncio.get_running_loop().call_soon(stream.cancel)
        with pytest.raises(asyncio.CancelledError):
            await stream
        await asyncio.sleep(0.05)
        hour, values = queue.seen
        assert values == hour + 1

    run(scenario)


def test_nothing_of_a_chain_is_applied_behind_a_request_that_is_refused_in_the_same_turn() -> None:
    nobodys = Attributes(("nobody",), ({},), ({},))

    async def scenario(queue: Queue) -> None:
        await queue.hold()
        chain, other = Chain(), Chain()
        asked = [queue.observe(1, chain, nobodys), queue.observe(2, chain), queue.observe(1, other)]
        answers = asyncio.gather(*asked, return_exceptions=True)
        await asyncio.sleep(0)
        queue.go.set()
        wrong, behind, apart = await answers
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
