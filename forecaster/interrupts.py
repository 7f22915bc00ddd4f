"""SIGTERM and Ctrl-C as exceptions, so that what is under way is ended and given back; but never amid a statement.

An exception that comes out of nowhere amid a query or an insert leaves a transaction open, in frames that its traceback
keeps; SQLite then takes no last word of the run. So the signal waits until the statement is through.

Knows nothing of what is under way.
"""

import _thread
import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

EXIT_ON_SIGTERM = 128 + signal.SIGTERM  # what a shell makes of it
_AGAIN_SECONDS = 0.01
_SAME_SECONDS = 1.0  # what comes so soon behind a signal is the same, told twice: what it ends goes on to its end
_LONGEST_STATEMENT_SECONDS = 25.0  # MLflow's SQLite waits 20 s for a lock; what hangs for longer is interrupted


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[], None]]:
    """While the block runs, let SIGTERM raise SystemExit and Ctrl-C KeyboardInterrupt, but never amid a statement.

    A signal that somebody handles already is left to him; and in another thread than the main one, both are.

    Gives what raises SystemExit once more: in the midst of an import, or of what cleans up after an object, it may be
    lost.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    sigterm = _Interrupt(lambda: SystemExit(EXIT_ON_SIGTERM))
    interrupts = {signal.SIGTERM: sigterm, signal.SIGINT: _Interrupt(KeyboardInterrupt)}
    unhandled = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    taken = {number: handler for number, handler in unhandled.items() if signal.getsignal(number) is handler}
    for number in taken:
        signal.signal(number, interrupts[number].handle)
    try:
        yield sigterm.check
    finally:
        for number, handler in taken.items():
            signal.signal(number, handler)
            interrupts[number].close()
    for number in taken:
        interrupts[number].check()


class _Interrupt:
    """A signal that becomes an exception as soon as no statement of a database is under way."""

    def __init__(self, exception: Callable[[], BaseException]) -> None:
        self._exception = exception
        self._first_at: float | None = None
        self._raised_at: float | None = None
        self._comes_again, self._is_closed = False, False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Raise the exception, or see to it that the signal comes again soon; in the main thread."""
        now = time.monotonic()
        if self._raised_at is not None and now - self._raised_at < _SAME_SECONDS:
            return
        first_at = self._first_at = self._first_at or now
        if _amid_a_statement(frame) and now - first_at < _LONGEST_STATEMENT_SECONDS:
            if not self._comes_again:
                self._comes_again = True
                _thread.start_new_thread(self._come_again, (number,))  # no lock of threading's, which a frame may hold
            return
        self._raise()

    def check(self) -> None:
        """Raise the exception if the signal has come."""
        if self._first_at is not None:
            self._raise()

    def close(self) -> None:
        """Let no signal come again."""
        self._is_closed = True

    def _raise(self) -> None:
        self._raised_at = time.monotonic()
        raise self._exception()

    def _come_again(self, number: int) -> None:
        time.sleep(_AGAIN_SECONDS)
        self._comes_again = False
        if not self._is_closed and self._raised_at is None:
            signal.pthread_kill(threading.main_thread().ident or 0, number)


def _amid_a_statement(frame: FrameType | None) -> bool:
    """Return whether a frame, or one that waits for it, is SQLAlchemy's, or of MLflow's store on top of it."""
    while frame is not None:
        if "sqlalchemy" in frame.f_globals.get("__name__", ""):
            return True
        frame = frame.f_back
    return False
