"""SIGTERM as an exception, so that what is under way is ended and given back; what such an exception lets go of.

Knows nothing of what that is.
"""

import contextlib
import gc
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from types import FrameType

EXIT_ON_SIGTERM = 128 + signal.SIGTERM  # what a shell makes of it


@contextlib.contextmanager
def sigterm_exits() -> Iterator[Callable[[], None]]:
    """While the block runs, let SIGTERM raise SystemExit, unless somebody handles it already or this is no main thread.

    Gives what raises it once more: in the midst of an import, or of what cleans up after an object, it may be lost.
    """
    told = threading.Event()

    def leave(number: int, frame: FrameType | None) -> None:
        told.set()
        raise SystemExit(EXIT_ON_SIGTERM)

    def check() -> None:
        if told.is_set():
            raise SystemExit(EXIT_ON_SIGTERM)

    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield check
        return
    signal.signal(signal.SIGTERM, leave)
    try:
        yield check
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def let_go(error: BaseException) -> None:
    """Let go of what the frames of an exception hold, and of those behind it; before anything is written because of it.

    Amid a query of MLflow that is an open statement or transaction, whose lock keeps SQLite from taking another word.
    """
    behind: BaseException | None = error
    while behind is not None:
        traceback.clear_frames(behind.__traceback__)
        behind = behind.__context__
    gc.collect()
