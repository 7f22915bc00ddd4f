"""One bidirectional stream: messages are read ahead and begun in their order, and answered in it.

What is unanswered is bounded by messages and by size. Past that nothing more is read: backpressure, by HTTP/2's flow
control, holds the client back; a client that does not take its answers comes to the same.

A message has no task of its own: it is begun by the reader and answered by the writer. Knows nothing of what a message
says.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, Generic, TypeVar

from forecaster.errors import UnavailableError
from forecaster.serving.backend import Phase

Request = TypeVar("Request")
Message = TypeVar("Message")
Answer = TypeVar("Answer")
T = TypeVar("T")


class FlowWindow:
    """How much of one stream may be unanswered.

    Args:
        messages: most of them.
    """

    def __init__(self, messages: int) -> None:
        self._messages = messages
        self._taken, self._share = 0, 0.0
        self._room = asyncio.Event()

    async def take(self, share: float) -> None:
        """Wait until one more message has room; `share` is its part of all that may be unanswered.

        The only one always has room, however large.
        """
        while self._taken >= self._messages or (self._taken and self._share + share > 1):
            self._room.clear()
            await self._room.wait()
        self._taken += 1
        self._share += share

    def give_back(self, share: float) -> None:
        """Make room again."""
        self._taken -= 1
        self._share = self._share - share if self._taken else 0.0
        self._room.set()


class Stream(Generic[Request, Message, Answer]):
    """Answers one stream.

    Args:
        requests: what comes.
        prepare: checks a request; returns its share of the window, and what the others take. One by one, in order.
        begin: lets a message wait for its answer; must not raise. In order.
        write: sends the answer to a message, and waits while the client does not take it. In order.
        window: how much may be unanswered.
    """

    def __init__(
        self,
        requests: AsyncIterator[Request],
        prepare: Callable[[Request], Awaitable[tuple[float, Message]]],
        begin: "Callable[[Message], asyncio.Future[Answer]]",
        write: Callable[[Message, Answer], Awaitable[None]],
        window: FlowWindow,
    ) -> None:
        self._requests, self._prepare, self._begin, self._write = requests, prepare, begin, write
        self._window = window
        self._begun: asyncio.Queue[tuple[float, Message, asyncio.Future[Answer]] | None] = asyncio.Queue()

    async def run(self, end: asyncio.Event) -> None:
        """Answer all messages; raises what the first failing one raises, after the answers to those before.

        At the `end` it reads no more and raises UnavailableError behind the answers, so that an idle stream does not
        hold a shutdown up. Whichever way it stops, what has not begun is dropped.
        """
        reader = asyncio.create_task(self._read())
        ending = asyncio.create_task(end.wait())
        ending.add_done_callback(lambda _: reader.cancel())
        reader.add_done_callback(lambda _: self._begun.put_nowait(None))
        answer: asyncio.Future[Answer] | None = None
        try:
            while (one := await self._begun.get()) is not None:
                share, message, answer = one
                await self._write(message, await answer)
                self._window.give_back(share)
            if reader.cancelled():
                raise UnavailableError(f"the server is {Phase.DRAINING.value}: try again shortly")
            reader.result()  # raises what was wrong with a message
        finally:
            ending.cancel()
            reader.cancel()
            self._drop(answer)

    async def _read(self) -> None:
        async for request in self._requests:
            share, message = await self._prepare(request)
            await self._window.take(share)
            self._begun.put_nowait((share, message, self._begin(message)))

    def _drop(self, waited_for: "asyncio.Future[Answer] | None") -> None:
        """Cancel the answer that is waited for and all behind it."""
        dropped = [] if waited_for is None else [waited_for]
        while not self._begun.empty():
            one = self._begun.get_nowait()
            if one is not None:
                dropped.append(one[2])
        for answer in dropped:
            answer.add_done_callback(lambda done: done.cancelled() or done.exception())
            answer.cancel()


async def before_end(awaited: Coroutine[Any, Any, T], end: asyncio.Event) -> T | None:
    """Return what a coroutine returns, or None if the end comes before; whoever stops waiting leaves no task behind."""
    ending, task = asyncio.create_task(end.wait()), asyncio.create_task(awaited)
    try:
        await asyncio.wait({ending, task}, return_when=asyncio.FIRST_COMPLETED)
        return None if ending.done() else task.result()
    finally:
        ending.cancel()
        task.cancel()
