"""How many fields of each kind protobuf's bytes hold, as machine code: one pass over the tags, nothing is parsed.

What a message may hold is a table, made of its descriptor (`wire`). Knows nothing of limits' reasons or of values.

Shapes: M kinds of messages in their places below the root, F field numbers, S fields of all M in a row.
"""

import numpy as np

from forecaster.model.kernels.compiling import entry, part

UNKNOWN, VARINT, FIXED64, FIXED32, TEXT, MESSAGE = 0, 1, 2, 3, 4, 5  # kinds of fields
FINE, MALFORMED, TOO_MANY, TOO_MANY_IN_ONE, TOO_LONG = 0, 1, 2, 3, 4  # verdicts
DEPTH = 8  # messages within messages, the root among them
_VARINT_BYTES, _SMALL_BYTES = 10, 5  # the longest number; the longest one of tags and lengths
# About what protobuf and what reads its objects need in memory, bytes.
MESSAGE_BYTES, TEXT_BYTES, NUMBER_BYTES = 128, 32, 8


@part
def _skipped(raw, i, end):
    """Return where the number at `i` ends, -1 if it does not."""
    last = min(end, i + _VARINT_BYTES)
    while i < last:
        if raw[i] < 0x80:
            return i + 1
        i += 1
    return -1


@part
def _small(raw, i, end):
    """Return the number at `i` of at most 35 bits, and where it ends; -1 if it does not."""
    number = 0
    for k in range(min(end - i, _SMALL_BYTES)):
        byte = int(raw[i + k])
        number |= (byte & 0x7F) << (7 * k)
        if byte < 0x80:
            return number, i + k + 1
    return 0, -1


@part
def _packed(raw, i, end):
    """Return how many numbers a packed field holds, -1 if the last one is cut off or one is too long."""
    count = 0
    run = 0
    for k in range(i, end):
        run += 1
        if raw[k] < 0x80:
            count += 1
            run = 0
        elif run == _VARINT_BYTES:
            return -1
    return count if run == 0 else -1


@part
def _elements(raw, i, length, kind):
    """Return how many numbers the `length` bytes at `i` hold, -1 if it is no whole number of them."""
    if kind == VARINT:
        return _packed(raw, i, i + length)
    size = 8 if kind == FIXED64 else 4
    return length // size if length % size == 0 else -1


@entry
def scan(raw, kinds, repeated, slots, children, firsts, most, each, longest, chunk, counts, splits):
    """Count the fields of a message; stop where one exceeds what it may.

    Args:
        raw: the bytes, uint8 [n].
        kinds: of the fields by number, int64 [M, F]; the root is the first message.
        repeated: whether numbers may be packed, bool [M, F].
        slots: where a field is counted, int64 [M, F].
        children: which message a field is, int64 [M, F].
        firsts: of each message's slots, int64 [M].
        most: of a field in the whole message, int64 [S + 1]; the last is of those that are not known.
        each: of a field in one message that holds it, int64 [S + 1].
        longest: bytes of a text, int64 [S + 1].
        chunk: bytes.
        counts: set to how many there are, zeros [S + 1].
        splits: set to ends of fields of the root, at least `chunk` apart, int64 [K].

    Returns:
        The verdict; the slot that it is about, or how many `splits` there are; and about how many bytes of memory the
        message will take.
    """
    unknown = len(most) - 1
    ends, nodes = np.empty(DEPTH, np.int64), np.zeros(DEPTH, np.int64)
    before = np.zeros((DEPTH, kinds.shape[1]), np.int64)  # counts when a message began
    ends[0] = len(raw)
    depth, i, split, num_splits, size = 0, 0, 0, 0, MESSAGE_BYTES
    while True:
        while i == ends[depth]:
            if depth == 0:
                return FINE, num_splits, size
            depth -= 1
        if depth == 0 and i - split >= chunk and num_splits < len(splits):
            splits[num_splits] = split = i
            num_splits += 1
        end, node = ends[depth], nodes[depth]
        tag, i = _small(raw, i, end)
        if i < 0 or tag < 8:
            return MALFORMED, 0, size
        number, wire = tag >> 3, tag & 7
        kind = kinds[node, number] if number < kinds.shape[1] else UNKNOWN
        got, length = 1, 0
        if wire == 0:
            i = _skipped(raw, i, end)
            kind = VARINT if kind == VARINT else UNKNOWN
        elif wire == 1:
            i = i + 8 if end - i >= 8 else -1
            kind = FIXED64 if kind == FIXED64 else UNKNOWN
        elif wire == 5:
            i = i + 4 if end - i >= 4 else -1
            kind = FIXED32 if kind == FIXED32 else UNKNOWN
        elif wire == 2:
            length, i = _small(raw, i, end)
            if i < 0 or length > end - i:
                return MALFORMED, 0, size
            if VARINT <= kind <= FIXED32:
                if repeated[node, number]:
                    got = _elements(raw, i, length, kind)
                    if got < 0:
                        return MALFORMED, 0, size
                else:
                    kind = UNKNOWN
            if kind != MESSAGE:
                i += length
        else:  # groups are in none of the API's messages
            return MALFORMED, 0, size
        if i < 0:
            return MALFORMED, 0, size
        slot = slots[node, number] if kind != UNKNOWN else unknown
        counts[slot] += got
        if counts[slot] > most[slot]:
            return TOO_MANY, slot, size
        if kind == UNKNOWN:
            size += TEXT_BYTES + length
            continue
        if counts[slot] - before[depth, slot - firsts[node]] > each[slot]:
            return TOO_MANY_IN_ONE, slot, size
        if kind == TEXT:
            if length > longest[slot]:
                return TOO_LONG, slot, size
            size += TEXT_BYTES + length
        elif kind == MESSAGE:
            size += MESSAGE_BYTES
            depth += 1
            child = children[node, number]
            ends[depth], nodes[depth] = i + length, child
            first = firsts[child]
            for k in range(min(len(counts) - first, kinds.shape[1])):
                before[depth, k] = counts[first + k]
        else:
            size += NUMBER_BYTES * got
