"""From a call's bytes to its message: measured, charged to a budget, and parsed in parts, so that others go on.

Knows wire formats; knows nothing of series, models or gRPC.
"""

from typing import Any, Generic, TypeVar

from google.protobuf.message import DecodeError, Message

from forecaster.errors import FieldViolation, InvalidArgumentError, LimitReachedError
from forecaster.serving.intake.message_limits import MessageLimits
from forecaster.serving.intake.one_by_one import OneByOne
from forecaster.serving.intake.wire import Scanner, malformed

M = TypeVar("M", bound=Message)
FREE_BYTES = 65_536  # of each call: so that small ones go on whatever the large ones take
_PLAIN_BYTES = 1000  # so few cannot hold too much of anything
LARGE_BYTES = 8192  # some tenths of a millisecond: such pieces of work go one by one
_RETRY_SECONDS = 0.25
_WHOLE: tuple[int, ...] = ()


class Budget:
    """The memory that all calls together may take for what they were sent and what they answer.

    Args:
        most_bytes: refuse what would go beyond that.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes, self.used_bytes = most_bytes, 0


class Account:
    """What one call takes of a budget, from its message until its answer has been read.

    Args:
        budget: of all calls.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget, self._held, self._charged = budget, 0, 0

    @property
    def charged_bytes(self) -> int:
        """What counts of it: nothing as long as it is little."""
        return self._charged

    def take(self, num_bytes: int) -> None:
        """Take some more; the only one always may. Raises LimitReachedError, and takes nothing then."""
        charged = self._charge(self._held + num_bytes)
        others = self._budget.used_bytes - self._charged
        if charged > self._charged and others and others + charged > self._budget.most_bytes:
            raise LimitReachedError(
                f"the requests under way take {others} bytes of memory, with this one {others + charged}, and "
                f"{self._budget.most_bytes} are allowed: send less at once, or try again shortly",
                retry_after_seconds=_RETRY_SECONDS,
            )
        self._set(self._held + num_bytes)

    def give_back(self, num_bytes: int) -> None:
        """Give some of it back."""
        self._set(max(self._held - num_bytes, 0))

    def close(self) -> None:
        """Give all of it back."""
        self._set(0)

    def _set(self, held: int) -> None:
        charged = self._charge(held)
        self._budget.used_bytes += charged - self._charged
        self._held, self._charged = held, charged

    @staticmethod
    def _charge(held: int) -> int:
        return held if held > FREE_BYTES else 0


class Decoder(Generic[M]):
    """Makes messages of one kind.

    Args:
        kind: of the messages.
        scanner: what they may hold.
        most_bytes: the largest.
        pieces: where large messages of all kinds wait for each other.
    """

    def __init__(self, kind: type[M], scanner: Scanner, most_bytes: int, pieces: OneByOne) -> None:
        self._kind, self._scanner, self._most_bytes, self._pieces = kind, scanner, most_bytes, pieces
        self._name = kind.DESCRIPTOR.name

    async def decode(self, raw: bytes, account: Account) -> tuple[M, int]:
        """Return the message, and about how many bytes of memory it takes, which the account was charged with.

        Raises InvalidArgumentError if it holds too much or the bytes are no message, and LimitReachedError.
        """
        if len(raw) > self._most_bytes:
            text = f"{len(raw)} bytes in one message, {self._most_bytes} are allowed: split it"
            raise InvalidArgumentError(text, [FieldViolation("", text)])
        if len(raw) > LARGE_BYTES:
            await self._pieces.turn()
        size, splits = len(raw), _WHOLE
        if len(raw) > _PLAIN_BYTES:
            measured = self._scanner.measure(raw)
            size, splits = len(raw) + measured.num_bytes, measured.splits
        account.take(size)
        try:
            return await self._parsed(raw, splits), size
        except DecodeError:
            raise malformed(self._name) from None

    async def _parsed(self, raw: bytes, splits: tuple[int, ...]) -> M:
        if not splits:
            return self._kind.FromString(raw)
        message, start, view = self._kind(), 0, memoryview(raw)
        for end in (*splits, len(raw)):  # parts of a message, one after the other, are the message
            message.MergeFromString(view[start:end])  # type: ignore[arg-type]
            start = end
            await self._pieces.turn()
        return message


class Intake:
    """What all of a server's calls come in by.

    Args:
        rows: that one request may have.
        most_bytes: of memory for all calls together.
    """

    def __init__(self, rows: int, most_bytes: int) -> None:
        self.limits, self.budget, self.pieces = MessageLimits(rows), Budget(most_bytes), OneByOne()
        self._decoders: dict[str, Decoder[Any]] = {}

    def decoder(self, kind: type[M]) -> Decoder[M]:
        """Return what makes messages of a kind."""
        descriptor: Any = kind.DESCRIPTOR
        name = descriptor.full_name
        if name not in self._decoders:
            limits = self.limits.scanner(descriptor), self.limits.most_bytes(descriptor)
            self._decoders[name] = Decoder(kind, *limits, self.pieces)
        return self._decoders[name]

    def account(self) -> Account:
        """Return the account of one more call."""
        return Account(self.budget)
