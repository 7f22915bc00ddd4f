"""How a thread that computes in Python beside the requests gives way to them.

Whoever wants the interpreter's lock from a thread that computes gets it after a switch interval; a request wants it a
dozen times. So such a thread rests while requests wait, but no longer than it has worked, and never for long: it always
gets on.
Knows nothing of what is computed.
"""

import time
from collections.abc import Callable

_WORK_SECONDS = 0.002  # before the first look
_REST_SECONDS, _MOST_SECONDS = 0.0005, 0.02


class Courtesy:
    """One piece of work's; it begins where this is made.

    Args:
        is_busy: whether requests wait or are being worked on; asked from that thread.
    """

    def __init__(self, is_busy: Callable[[], bool]) -> None:
        self._is_busy = is_busy
        self._resumed = time.perf_counter()

    def give_way(self) -> None:
        """Rest while there are requests: for 20 ms at most, and no longer than was worked since the last rest."""
        now = time.perf_counter()
        worked = now - self._resumed
        if worked < _WORK_SECONDS:
            return
        until = now + min(worked, _MOST_SECONDS)
        while self._is_busy() and time.perf_counter() < until:
            time.sleep(_REST_SECONDS)
        self._resumed = time.perf_counter()
