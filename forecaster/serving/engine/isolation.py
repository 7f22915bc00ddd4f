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
from forecaster.serving.lanes.attributes import in_parts
from forecaster.serving.work.observing import Observed, ObserveWork

_Parts = deque[tuple[Sequence[int], ForecasterError | None]]  # positions, and why they are refused, if that is known


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
    """Observe requests, as many together as may be; those of one series or chain in order.

    Args:
        requests: of one turn.
        observe: observes some of them together; raises UnwrittenError, or StorageError, LimitReachedError or
            ReturningError if a state cannot be had; nothing of them is applied then.
        at_hand: whether all states that a request needs are in memory.

    Raises StorageError if nothing was written, FencedError, and what refuses an only request.
    """
    answers: dict[int, Observed] = {}
    parts, begun = _Parts(), 0
    for part in in_parts(requests):
        parts.append((range(begun, begun + len(part)), None))
        begun += len(part)
    while parts:
        positions, error = parts.popleft()
        if error is None:
            try:
                answers |= zip(positions, observe([requests[at] for at in positions]), strict=True)
                continue
            except UnwrittenError as unwritten:
                error = unwritten.error
                parts = deque((rest, error) for rest, _ in parts)
                if not answers:
                    raise error from None
            except (StorageError, LimitReachedError, ReturningError) as found:
                if len(requests) == 1 or isinstance(found, FencedError):
                    raise
                if len(smaller := _apart(requests, positions, found, at_hand)) > 1:
                    parts.extendleft(reversed(smaller))
                    continue
                error = found
        for at in positions:
            answers[at] = refused(requests[at], _own(error, requests[at]))
    return [answers[at] for at in range(len(requests))]


def _apart(
    requests: Sequence[ObserveWork],
    positions: Sequence[int],
    error: ForecasterError,
    at_hand: Callable[[ObserveWork], bool],
) -> _Parts:
    """Cut requests of which some states cannot be had.

    Where it is known which, those that need them are refused, and those behind them in their chains; the others go
    together. Else those with all states at hand go together, in order, and the others are tried one by one if they were
    too many at once; what storage refused one, it would refuse each.
    """
    parts = _Parts()
    if isinstance(error, StateLostError | ReturningError):
        rest, due = _concerned(requests, positions, set(error.series_ids))
        if due:
            parts += [(rest, None)] if rest else []
            parts.append((due, error))
            return parts
    for together, group in groupby(positions, lambda at: at_hand(requests[at])):
        if together:
            parts.append((list(group), None))
        else:
            is_due_to_all = isinstance(error, StorageError) and not isinstance(error, StateLostError)
            parts += (([at], error if is_due_to_all else None) for at in group)
    return parts


def _concerned(
    requests: Sequence[ObserveWork], positions: Sequence[int], series_ids: set[str]
) -> tuple[list[int], list[int]]:
    """Return which requests do not need some series, and which do or stand behind such a one in their chain."""
    rest: list[int] = []
    due: list[int] = []
    ended: set[int] = set()  # chains
    for at in positions:
        chain = None if requests[at].chain is None else id(requests[at].chain)
        if chain in ended or not series_ids.isdisjoint(requests[at].series_ids()):
            due.append(at)
            if chain is not None:
                ended.add(chain)
        else:
            rest.append(at)
    return rest, due


def _own(error: ForecasterError, request: ObserveWork) -> Exception:
    """Return an error as a request is told it: of its own series, or what the one before in its chain was told."""
    if request.chain is not None and request.chain.failed is not None:
        return request.chain.failed
    if isinstance(error, ReturningError):
        mine = set(request.series_ids())
        return ReturningError([name for name in error.series_ids if name in mine])
    return error


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
