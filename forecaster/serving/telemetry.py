"""What the server says of itself: log lines and ids that join a client's error to its traceback.

Knows nothing of series, models or gRPC.
"""

import logging
import secrets
import sys

LOGGER = logging.getLogger("forecaster.serving")


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
