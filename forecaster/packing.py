"""Arrays as packed fields of messages, without a Python object for each number.

A packed field is its tag, its length and its numbers: those of fixed width are the bytes of a little-endian array, so
that protobuf copies them as one block. The way back is `numpy.array(message.field)`.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf.message import Message

_LENGTH_DELIMITED = 2
_BITS = 7  # of a number in one byte of a varint


def fill(message: Message, **fields: npt.NDArray[Any]) -> None:
    """Append arrays to repeated fields, by name; any shape, row-major.

    Fields of `double` take float64, of `sfixed64` int64; of `uint32`, `int64` and of enumerations, what `varints` made.
    """
    for name, array in fields.items():
        head = field_head(type(message), name, array.nbytes)
        message.MergeFromString(head + array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())


def field_head(kind: type[Message], name: str, size: int) -> bytes:
    """Return what stands before the `size` bytes of a packed field, or of a message in a field, on the wire."""
    return _varint(kind.DESCRIPTOR.fields_by_name[name].number << 3 | _LENGTH_DELIMITED) + _varint(size)


def varints(numbers: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Return integers as the bytes of protobuf's varints, one after the other."""
    rest = numbers.astype(np.int64, copy=False).view(np.uint64)
    most, least = (0, 0) if len(rest) == 0 else (_varint_bytes(int(rest.max())), _varint_bytes(int(rest.min())))
    parts = np.empty((len(rest), most), dtype=np.uint8)
    for k in range(most):
        parts[:, k] = (rest >> np.uint64(_BITS * k)) & np.uint64(0x7F)
    if most == least:  # times of one century are of one length
        parts[:, :-1] |= 0x80
        return parts.ravel()
    limits = np.uint64(1) << (np.arange(1, most) * _BITS).astype(np.uint64)
    lengths = np.searchsorted(limits, rest, side="right") + 1
    at = np.arange(most)
    parts[at < lengths[:, None] - 1] |= 0x80
    return parts[at < lengths[:, None]]


def _varint_bytes(number: int) -> int:
    return max(-(-number.bit_length() // _BITS), 1)


def _varint(number: int) -> bytes:
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= _BITS
    parts.append(number)
    return bytes(parts)
