"""One stream: order, the window, errors in their place, what is dropped; and one turn of the batcher for it."""

import asyncio
from collections.abc import AsyncIterator, Coroutine

import pytest

from forecaster.errors import InvalidArgumentError, UnavailableError
from forecaster.serving.api.streams import FlowWindow, Stream, before_end


async def sent(*messages: int, endless: bool = False) -> AsyncIterator[int]:
    for message in messages:
        yield message
    if endless:
        await asyncio.Event().wait()


class Talk:
    """A stream whose answers are the messages times ten; a message of 13 is wrong, one of 99 fails when it is begun."""

    def __init__(self, messages: AsyncIterator[int], window: int = 4, share: float = 0.0) -> None:
        self.prepared, self.begun, self.written = [], [], []
        self.go, self.taken = asyncio.Event(), asyncio.Event()
        self.taken.set()
        self.share = share
        self.stream = Stream(messages, self.prepare, self.begin, self.write, FlowWindow(window))

    async def prepare(self, message: int) -> tuple[float, int]:
        if message == 13:
            raise InvalidArgumentError("13 is wrong")
        self.prepared.append(message)
        return self.share, message

    def begin(self, message: int) -> asyncio.Future[int]:
        return asyncio.ensure_future(self.answer(message))

    async def answer(self, message: int) -> int:
        self.begun.append(message)
        await self.go.wait()
        if message == 99:
            raise UnavailableError("99 failed")
        await asyncio.sleep(0.001 * (5 - message % 5))  # later ones are ready sooner
        return 10 * message

    async def write(self, message: int, answer: int) -> None:
        assert answer == 10 * message
        await self.taken.wait()
        self.written.append(answer)


async def settle() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


def run(work: Coroutine[object, object, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 10))


def test_answers_come_in_order() -> None:
    async def talk() -> None:
        one = Talk(sent(*range(10)))
        one.go.set()
        await one.stream.run(asyncio.Event())
        assert one.written == [10 * k for k in range(10)]

    run(talk())


def test_messages_begin_in_order_however_long_their_checks_take() -> None:
    async def talk() -> None:
        one = Talk(sent(*range(5)))
        prepare = one.stream._prepare

        async def slowly(message: int) -> tuple[float, int]:
            await asyncio.sleep(0.001 * (5 - message))
            return await prepare(message)

        one.stream._prepare = slowly
        one.go.set()
        await one.stream.run(asyncio.Event())
        assert one.begun == list(range(5))

    run(talk())


@pytest.mark.parametrize(("share", "most"), [(0.0, 4), (0.4, 2), (2.0, 1)])
def test_what_is_unanswered_is_bounded(share: float, most: int) -> None:
    """A full window stops the reading, while answers are made and while the client does not take them."""

    async def talk() -> None:
        one = Talk(sent(*range(9)), share=share)
        one.taken.clear()
        running = asyncio.create_task(one.stream.run(asyncio.Event()))
        await settle()
        assert (one.begun, len(one.prepared)) == (list(range(most)), most + 1)
        one.go.set()
        await asyncio.sleep(0.05)
        assert (one.begun, one.written) == (list(range(most)), [])
        one.taken.set()
        await running
        assert one.written == [10 * k for k in range(9)]

    run(talk())


@pytest.mark.parametrize(("wrong", "kind"), [(13, InvalidArgumentError), (99, UnavailableError)])
def test_an_error_comes_behind_the_answers_before_it(wrong: int, kind: type[Exception]) -> None:
    async def talk() -> None:
        one = Talk(sent(1, 2, wrong, 3))
        one.go.set()
        with pytest.raises(kind):
            await one.stream.run(asyncio.Event())
        assert one.written == [10, 20]
        await settle()
        assert len(asyncio.all_tasks()) == 2  # this one and the one that limits its time

    run(talk())


def test_the_end_comes_behind_the_answers_before_it() -> None:
    async def talk() -> None:
        one, end = Talk(sent(1, 2, endless=True)), asyncio.Event()
        running = asyncio.create_task(one.stream.run(end))
        await settle()
        end.set()
        await settle()
        assert not running.done()
        one.go.set()
        with pytest.raises(UnavailableError, match="shutting down"):
            await running
        assert one.written == [10, 20]

    run(talk())


def test_a_client_that_goes_away_leaves_nothing_behind() -> None:
    async def talk() -> None:
        one = Talk(sent(1, 2, 3, endless=True))
        running = asyncio.create_task(one.stream.run(asyncio.Event()))
        await settle()
        assert one.begun == [1, 2, 3]
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await settle()
        assert len(asyncio.all_tasks()) == 2  # this one and the one that limits its time
        assert one.written == []

    run(talk())


@pytest.mark.parametrize("which", ["it comes", "the end comes", "nobody waits any more"])
def test_what_is_waited_for_until_the_end_leaves_no_task_behind(which: str) -> None:
    async def play() -> None:
        came, end = asyncio.Event(), asyncio.Event()

        async def awaited() -> str:
            await came.wait()
            return "it came"

        waiting = asyncio.create_task(before_end(awaited(), end))
        await asyncio.sleep(0)
        if which == "nobody waits any more":
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        else:
            (came if which == "it comes" else end).set()
            assert await waiting == ("it came" if which == "it comes" else None)
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(play())
