"""How much of everything a message's bytes hold, judged before protobuf makes objects of them.

An object costs a hundred bytes and more where its bytes on the wire are two: a message of some megabytes would take
gigabytes, and keep everybody waiting while it is parsed. So the fields are counted first, in time proportional to the
bytes, against a limit for each that a message may repeat. Knows descriptors; knows nothing of what fields mean.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from forecaster.errors import FieldViolation, InvalidArgumentError
from forecaster.model.kernels.compiling import COMPILES
from forecaster.serving.intake import wire_kernel
from forecaster.serving.storage.records import IntArray

_SINGULAR = 16  # how often a field that stands once may be sent beyond that: the last one counts
_CHUNK_BYTES = 65_536
_KINDS = {
    FieldDescriptor.TYPE_DOUBLE: wire_kernel.FIXED64,
    FieldDescriptor.TYPE_FIXED64: wire_kernel.FIXED64,
    FieldDescriptor.TYPE_SFIXED64: wire_kernel.FIXED64,
    FieldDescriptor.TYPE_FLOAT: wire_kernel.FIXED32,
    FieldDescriptor.TYPE_FIXED32: wire_kernel.FIXED32,
    FieldDescriptor.TYPE_SFIXED32: wire_kernel.FIXED32,
    FieldDescriptor.TYPE_STRING: wire_kernel.TEXT,
    FieldDescriptor.TYPE_BYTES: wire_kernel.TEXT,
    FieldDescriptor.TYPE_MESSAGE: wire_kernel.MESSAGE,
}  # all others are varints


@dataclasses.dataclass(frozen=True, slots=True)
class Most:
    """How often a field may be repeated.

    Args:
        each: in one message that holds it.
        total: in the whole message that came; None for the same.
    """

    each: int
    total: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """What a message's bytes hold.

    Args:
        num_bytes: about what it will take in memory.
        splits: ends of some fields of the message itself, ascending; its parts between them may be parsed one by one.
        counts: how often each of the scanner's `paths` is there, a packed number is one; int64 [S + 1].
    """

    num_bytes: int
    splits: tuple[int, ...]
    counts: IntArray


class _Tree:
    """The messages below one kind of message, each in every place where it may be, and their fields in a row."""

    def __init__(self, root: Descriptor) -> None:
        self.fields: list[tuple[str, FieldDescriptor, int]] = []  # path, and the slot of what holds it, -1 for the root
        self.firsts: list[int] = []
        self.rows: list[dict[int, tuple[int, bool, int, int]]] = []  # kind, repeated, slot, child; by number
        self._add(root, "", -1, 1)

    def _add(self, kind: Descriptor, prefix: str, holder: int, depth: int) -> int:
        assert depth <= wire_kernel.DEPTH, f"{kind.full_name} is nested too deep to be counted"
        place, first = len(self.rows), len(self.fields)
        row: dict[int, tuple[int, bool, int, int]] = {}
        self.rows.append(row)
        self.firsts.append(first)
        self.fields += [(prefix + field.name, field, holder) for field in kind.fields]
        for slot, field in enumerate(kind.fields, first):
            below = field.message_type
            child = 0 if below is None else self._add(below, f"{prefix}{field.name}.", slot, depth + 1)
            row[field.number] = (_KINDS.get(field.type, wire_kernel.VARINT), field.is_repeated, slot, child)
        return place


class Scanner:
    """Measures messages of one kind.

    Args:
        kind: of the messages.
        most: how often a repeated field may be there.
        longest: most bytes of a text.
        unknown: most fields that the descriptor does not have.
    """

    def __init__(
        self,
        kind: Descriptor,
        most: Callable[[FieldDescriptor], Most],
        longest: Callable[[FieldDescriptor], int],
        unknown: int,
    ) -> None:
        self._name = kind.name
        tree = _Tree(kind)
        self.paths = (*(path for path, _, _ in tree.fields), "unknown fields")
        each: list[int] = []
        total: list[int] = []
        texts: list[int] = []
        for _, field, holder in tree.fields:
            once = Most(1 + _SINGULAR, (1 if holder < 0 else total[holder]) + _SINGULAR)
            limit = most(field) if field.is_repeated else once
            each.append(limit.each)
            total.append(limit.each if limit.total is None else limit.total)
            texts.append(longest(field))
        self._most, self._each = np.array([*total, unknown], np.int64), np.array([*each, unknown], np.int64)
        self._longest = np.array([*texts, 0], np.int64)
        self._table = _table(tree)
        self.measure(b"")  # compiles, or loads what was compiled

    def measure(self, raw: bytes) -> Measured:
        """Return what a message's bytes hold.

        Raises InvalidArgumentError if it is more than it may be, or if they are no message; what is wrong within a
        text or a number is for protobuf to find.
        """
        counts = np.zeros(len(self._most), np.int64)
        splits = np.empty(len(raw) // _CHUNK_BYTES, np.int64)
        given = np.frombuffer(raw, np.uint8) if COMPILES else raw
        verdict, about, size = wire_kernel.scan(
            given, *self._table, self._most, self._each, self._longest, _CHUNK_BYTES, counts, splits
        )
        if verdict != wire_kernel.FINE:
            raise self._refusal(int(verdict), int(about))
        return Measured(int(size), tuple(splits[:about].tolist()), counts)

    def _refusal(self, verdict: int, slot: int) -> InvalidArgumentError:
        if verdict == wire_kernel.MALFORMED:
            return malformed(self._name)
        path = self.paths[slot]
        if verdict == wire_kernel.TOO_LONG:
            text = f"a text of more than {self._longest[slot]} bytes is not allowed"
        elif verdict == wire_kernel.TOO_MANY_IN_ONE:
            text = f"more than {self._each[slot]} in one place, {self._each[slot]} are allowed"
        else:
            text = f"more than {self._most[slot]} in one request, {self._most[slot]} are allowed: split it"
        return InvalidArgumentError(f"{path}: {text}", [FieldViolation(path, text)])


def malformed(name: str) -> InvalidArgumentError:
    """Return what bytes that are no message are refused with."""
    return InvalidArgumentError(f"the bytes are no {name}: make them with this API's protobuf files")


def _table(tree: _Tree) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, IntArray]:
    """Return kinds, repeated, slots and children, [M, F] each, and firsts, [M]; see `wire_kernel.scan`."""
    width = 1 + max(max(row, default=0) for row in tree.rows)
    shape = (len(tree.rows), width)
    kinds, slots, children = (np.zeros(shape, np.int64) for _ in range(3))
    repeated = np.zeros(shape, np.bool_)
    for place, row in enumerate(tree.rows):
        for number, found in row.items():
            at = place, number
            kinds[at], repeated[at], slots[at], children[at] = found
    return kinds, repeated, slots, children, np.array(tree.firsts, np.int64)
