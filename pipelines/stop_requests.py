"""SIGTERM and SIGINT as something that a loop can wait for.

Knows nothing of what ends.
"""

import contextlib
import queue
import signal
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def on_stop(call: Callable[[], None]) -> Iterator[None]:
    """While the block runs, in the main thread, let SIGTERM and SIGINT call something.

    It is called between any two instructions of the main thread: of what threads share only `queue.SimpleQueue.put` is
    safe there.
    """

    def asked(number: int, frame: FrameType | None) -> None:
        call()

    before = {number: signal.signal(number, asked) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stopped_within(stops: "queue.SimpleQueue[None]", seconds: float) -> bool:
    """Wait, and return whether it was asked to stop meanwhile."""
    with contextlib.suppress(queue.Empty):
        stops.get(timeout=seconds)
        return True
    return False
