"""A process that is killed at its first write, then another at its second, and so on, until one lives to its end.

Knows processes; knows nothing of what they write.
"""

import os
import pathlib
import signal
import sys
from collections.abc import Callable


def live_until_one_ends(folder: pathlib.Path, live: Callable[[pathlib.Path, int], None]) -> None:
    """Let `live` be called in a process, a folder and with a number of its own, until one is not killed; then exit."""
    code = killed_at = 0
    while code == 0:
        killed_at += 1
        child = os.fork()  # of a process that has done nothing: importing it all again would take a second each
        if child == 0:
            live(folder / f"{killed_at:04d}", killed_at)
            os._exit(1)  # it was not killed: enough
        status = os.waitpid(child, 0)[1]
        code = 0 if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL else os.WEXITSTATUS(status)
    sys.exit(0 if code == 1 else 2)
