"""Whom a failure reaches: of a micro-batch of observations, the requests that it is due to and those of their chains.

Knows nothing of states or journals.
"""

from collections import deque
from collections.abc import Callable, Sequence
from itertools import groupby

from forecaster.errors import (
    FencedError,
    ForecasterError,
    LimitReachedError,
    ReturningError,
    StateLostError,
    StorageError,
)
from forecaster.serving.attributes import in_parts
from forecaster.serving.work import Observed, ObserveWork

_Parts = deque[tuple[Sequence[ObserveWork], ForecasterError | None]]  # and why one is refused, if that is known


class UnwrittenError(Exception):
    """The journal took nothing of a part; `error` says why."""

    def __init__(self, error: StorageError) -> None:
        super().__init__(str(error))
        self.error = error


def observe_in_parts(
    requests: Sequence[ObserveWork],
    observe: Callable[[Sequence[ObserveWork]], list[Observed]],
    at_hand: Callable[[ObserveWork], bool],
) -> list[Observed]:
    """Observe requests in order, as many together as may be.

    Args:
        requests: of one turn.
        observe: observes some of them together; raises UnwrittenError, or StorageError, LimitReachedError or
            ReturningError if a state cannot be had; nothing of them is applied then.
        at_hand: whether all states that a request needs are in memory.

    Raises StorageError if nothing was written, FencedError, and what refuses an only request.
    """
    answers: list[Observed] = []
    parts: _Parts = deque((part, None) for part in in_parts(requests))
    while parts:
        part, error = parts.popleft()
        if error is None:
            try:
                answers += observe(part)
                continue
            except UnwrittenError as unwritten:
                error = unwritten.error
                parts = deque((one, error) for one, _ in parts)
                if not answers:
                    raise error from None
            except (StorageError, LimitReachedError, ReturningError) as found:
                if len(requests) == 1 or isinstance(found, FencedError):
                    raise
                if len(smaller := _apart(part, found, at_hand)) > 1:
                    parts.extendleft(reversed(smaller))
                    continue
                error = found
        answers += [refused(request, error) for request in part]
    return answers


def _apart(requests: Sequence[ObserveWork], error: ForecasterError, at_hand: Callable[[ObserveWork], bool]) -> _Parts:
    """Cut requests of which some states cannot be had: those with all states at hand go together, in order.

    The others are tried one by one if they were too many at once; what storage refused one, it would refuse each.
    """
    parts: _Parts = deque()
    for together, group in groupby(requests, at_hand):
        if together:
            parts.append((list(group), None))
        else:
            is_due_to_all = isinstance(error, StorageError) and not isinstance(error, StateLostError)
            parts += (([one], error if is_due_to_all else None) for one in group)
    return parts


def refusals(
    requests: Sequence[ObserveWork], why: Callable[[ObserveWork], ForecasterError | None]
) -> list[Exception | None]:
    """Return for each request why nothing of it may be applied: its own reason, or that of one before in its chain.

    No chain is told: what is asked here may have to be asked again, for fewer requests.
    """
    found: list[Exception | None] = []
    ended: dict[int, Exception] = {}  # by chain
    for request in requests:
        chain = request.chain
        error = None if chain is None else chain.failed or ended.get(id(chain))
        if error is None and request.attributes is not None and (error := why(request)) is not None:
            ended[id(chain)] = error
        found.append(error)
    return found


def refused(request: ObserveWork, error: Exception) -> Observed:
    """Return the answer to a request of which nothing is applied, and let its chain end with it."""
    if request.chain is not None:
        request.chain.fail(error)
    return Observed.nothing(error)
