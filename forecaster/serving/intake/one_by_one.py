"""Pieces of work on the event loop of which many may come at once: one of them in each of the loop's passes.

A pass runs all that is ready before it looks whether anything new has come: sixty messages of a millisecond each would
keep a small one waiting as long as all of them take, several times. Knows nothing of what is done.
"""

import asyncio
from collections import deque


class OneByOne:
    """Whoever is about to do a larger piece waits here for a pass of the loop, in the order of coming."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def turn(self) -> None:
        """Return in a pass of the loop that no other piece has."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._waiting.append(future)
        if len(self._waiting) == 1:
            loop.call_soon(self._next)
        await future

    def _next(self) -> None:
        if self._waiting:  # one that was cancelled has its pass too
            future = self._waiting[0]
            if not future.done():
                future.set_result(None)
            self._waiting.popleft()
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._next)
