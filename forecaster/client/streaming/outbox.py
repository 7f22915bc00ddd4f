"""What a stream has sent and has no answer to yet: to be sent again when the connection breaks.

Does no I/O: the blocking and the asyncio stream share it.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from forecaster.client.results import StreamReply
from forecaster.client.transport.retry import say_age
from forecaster.errors import ForecasterError, InternalError, InvalidArgumentError, LimitReachedError, UnavailableError

MOST = 1024  # frames without an answer: what is kept for another try
FAREWELL_SECONDS = 1.0  # how long the end of a call is waited for


@dataclass(slots=True)
class OutgoingFrame:
    """One message.

    Args:
        request: the message.
        parse: how its answer is read.
        began: when it was first handed to a connection, by `time.monotonic`; None if it never was.
    """

    request: Any
    parse: Callable[[Any], StreamReply]
    began: float | None = None

    def sent(self) -> Any:
        """Return the message as it is about to leave; a repetition says how long ago it first did."""
        if self.began is None:
            self.began = time.monotonic()
        else:
            say_age(self.request, self.began)
        return self.request


class Outbox:
    """Messages by their order of sending, each with how its answer is read."""

    def __init__(self) -> None:
        self._waiting: deque[OutgoingFrame] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def check_room(self) -> None:
        """Raise LimitReachedError if too many messages have no answer."""
        if len(self._waiting) >= MOST:
            raise LimitReachedError(f"{MOST} frames have no answer yet: receive some before sending more")

    def check_empty(self) -> None:
        """Raise InvalidArgumentError if a message has no answer yet."""
        if self._waiting:
            raise InvalidArgumentError(f"{len(self._waiting)} frames were sent before: receive their answers first")

    def check_any(self) -> None:
        """Raise InvalidArgumentError if no answer is to come."""
        if not self._waiting:
            raise InvalidArgumentError("every frame has its answer: send one before receiving")

    def add(self, request: Any, parse: Callable[[Any], StreamReply]) -> None:
        """Note a message that is being sent."""
        self._waiting.append(OutgoingFrame(request, parse))

    def again(self) -> "Iterator[OutgoingFrame]":
        """Yield the messages without an answer, the oldest first, for a new connection."""
        return iter(self._waiting)

    @property
    def newest(self) -> "OutgoingFrame":
        """The message that was added last."""
        return self._waiting[-1]

    def answered(self, answer: Any) -> StreamReply:
        """Return what the answer to the oldest message says, and forget the message."""
        request, parse = self._waiting[0].request, self._waiting[0].parse
        if answer.sequence != request.sequence:
            raise InternalError(f"message {request.sequence} was answered by {answer.sequence}")
        self._waiting.popleft()
        return parse(answer)

    def failed(self, error: ForecasterError) -> None:
        """Forget the oldest message if it is what the error is about; else it stays, for another try."""
        again = isinstance(error, UnavailableError)
        if not again and not (isinstance(error, LimitReachedError) and error.retry_after_seconds is not None):
            self._waiting.popleft()

    def clear(self) -> None:
        """Forget all messages."""
        self._waiting.clear()
