"""Calls to other programs, which may answer late or never: on threads that nobody has to wait for.

The event loop's own executor is joined at its end, and the interpreter joins those of `concurrent.futures`: a registry
that does not answer would keep a server from ending. Knows nothing of what is called.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Aside:
    """Makes calls.

    Args:
        most: at once; further ones wait for their turn.
        name: of the threads.
    """

    def __init__(self, most: int, name: str) -> None:
        self._turns, self._name = asyncio.Semaphore(most), name
        self._running = 0

    @property
    def running(self) -> int:
        """The calls that have not come back, whether somebody still waits for them or not."""
        return self._running

    async def call(self, function: Callable[..., T], *values: object) -> T:
        """Return what a function returns, or raise what it raises; cancelled, it goes on and is forgotten."""
        await self._turns.acquire()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def end(result: T | None, error: BaseException | None) -> None:
            self._running -= 1
            self._turns.release()
            if future.done():
                return
            if error is None:
                future.set_result(result)  # type: ignore[arg-type]
            else:
                future.set_exception(error)

        def run() -> None:
            result, error = None, None
            try:
                result = function(*values)
            except Exception as found:  # noqa: BLE001 -- raised where it is waited for
                error = found
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(end, result, error)

        self._running += 1
        threading.Thread(target=run, name=self._name, daemon=True).start()
        return await future


def within(seconds: float, work: Callable[[], object]) -> bool:
    """Do some work on a thread of its own; return whether it was done in time. What it raises is raised."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 -- raised below
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    return not thread.is_alive()
