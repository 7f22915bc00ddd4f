"""Failures of work as those who wait for it get them."""

from forecaster.serving.work.observing import ObserveWork
from forecaster.serving.work.work import Work


def for_future(error: BaseException) -> Exception:
    """Return what a future takes and what does not end the event loop, as a thread's SystemExit would."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    wrapped = RuntimeError(f"the engine's thread was ended by {error!r}")
    wrapped.__cause__ = error
    return wrapped


def fail(work: Work, error: BaseException) -> None:
    """Note that a request failed: none behind it in its chain, if it has one, is applied."""
    if isinstance(work, ObserveWork) and work.chain is not None:
        work.chain.fail(error)
