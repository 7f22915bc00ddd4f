"""What the server says of itself: log lines and ids that join a client's error to its traceback.

Knows nothing of series, models or gRPC.
"""

import logging
import math
import secrets
import sys
import time
from collections.abc import Callable, Hashable

from forecaster.errors import ForecasterError, InternalError, StateLostError, StorageError

LOGGER = logging.getLogger("forecaster.serving")
_MOST_KINDS = 1000  # of sampled lines
# Whether a commit that failed has left anything is not always known.
_STORAGE = (
    "the server cannot use its storage now: try again, which is safe; what was applied is then answered as a duplicate"
)


def configure_logging(level: int = logging.INFO) -> None:
    """Send the project's log to standard error, one line an event, with UTC-independent local time."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger("forecaster")
    root.handlers[:] = [handler]
    root.setLevel(level)
    root.propagate = False


def log_internal_error(error: BaseException) -> str:
    """Log a defect with its traceback and return the id that the client is told instead."""
    error_id = secrets.token_hex(6)
    LOGGER.error("internal error %s", error_id, exc_info=error)
    return error_id


class Sampled:
    """Says one line of each kind in a while, and how many there were: whoever can cause one can cause a million.

    Args:
        seconds: between two lines of a kind.
        clock: tells the seconds.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        self._kinds: dict[Hashable, tuple[float, int]] = {}  # when the last line was, and how many came since

    def say(self, kind: Hashable, text: Callable[[], str], level: int = logging.INFO) -> None:
        """Log a line, unless there was one of its kind; any thread may call."""
        now = self._clock()
        if len(self._kinds) > _MOST_KINDS:
            self._kinds.clear()
        last, unsaid = self._kinds.get(kind, (-math.inf, 0))
        if now - last < self._seconds:
            self._kinds[kind] = last, unsaid + 1
            return
        self._kinds[kind] = now, 0
        more = f" (and {unsaid} more like it before)" if unsaid else ""
        LOGGER.log(level, "%s%s", text(), more)


REFUSALS = Sampled(10.0)
_STORAGE_FAILURES = Sampled(1.0)


def told(error: BaseException) -> ForecasterError:
    """Return what a client is told of an error: of a defect only an id that the log has, and of places no name."""
    if not isinstance(error, ForecasterError) or (isinstance(error, InternalError) and not error.error_id):
        error_id = log_internal_error(error)
        return InternalError(f"an internal error; the server's log has it as {error_id}", error_id)
    if isinstance(error, StorageError) and not isinstance(error, StateLostError) and str(error) != _STORAGE:
        shown = str(error)
        _STORAGE_FAILURES.say(shown[:100], lambda: shown, logging.ERROR)
        return StorageError(_STORAGE)
    if error.told != str(error):
        LOGGER.warning("%s", error)
    return error.for_clients()


def reason(error: ForecasterError) -> str:
    """Return why something failed, as clients are told: without names of files."""
    if isinstance(error, StorageError) and error.clients_line is None:
        return "the server cannot use its storage now, see its log"
    return error.told
