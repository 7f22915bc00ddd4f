"""What a journal holds: observations as columns, deletions, snapshots; and the bytes of a record.

Knows nothing of files or databases.

Shapes: N rows, S series.
"""

import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
_CHECKSUM = struct.Struct("<I")  # CRC-32 of everything behind it
_HEADER = struct.Struct("<BIII")  # kind, series, rows, bytes of the ids
_OBSERVED, _DELETED = 1, 2


@dataclass(frozen=True, slots=True)
class Columns:
    """Observations as columns; of one series, in the order in which they were or will be applied.

    Args:
        series_ids: the distinct series, S of them.
        series: for each row its position in `series_ids`, int32 [N].
        time_us: microseconds since the Unix epoch, int64 [N].
        values: NaN means missing, float64 [N].
    """

    series_ids: tuple[str, ...]
    series: npt.NDArray[np.int32]
    time_us: IntArray
    values: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.series)


@dataclass(frozen=True, slots=True)
class Deletion:
    """A series was forgotten: nothing before this record counts for it."""

    series_id: str


Record = Columns | Deletion


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One series' state after the record `sequence`.

    Args:
        series_id: the series.
        sequence: of the last record that it holds.
        state: packed.
        checksum: CRC-32 of the state, as it was when the snapshot was made.
    """

    series_id: str
    sequence: int
    state: bytes
    checksum: int

    @classmethod
    def of(cls, series_id: str, sequence: int, state: bytes) -> "Snapshot":
        """Return a new snapshot."""
        return cls(series_id, sequence, state, zlib.crc32(state))

    @property
    def is_whole(self) -> bool:
        """Whether the state is what was written."""
        return zlib.crc32(self.state) == self.checksum


def encode(record: Record) -> bytes:
    """Return a record as bytes: checksum, header, ids joined by NUL, then the columns, little-endian."""
    if isinstance(record, Deletion):
        return _with_header(_DELETED, 1, 0, record.series_id.encode(), b"")
    columns = b"".join(
        (
            record.series.astype("<i4", copy=False).tobytes(),
            record.time_us.astype("<i8", copy=False).tobytes(),
            record.values.astype("<f8", copy=False).tobytes(),
        )
    )
    ids = "\0".join(record.series_ids).encode()
    return _with_header(_OBSERVED, len(record.series_ids), len(record), ids, columns)


def decode(payload: bytes) -> Record:
    """Return the record that `encode` made; raises ValueError if it is torn or corrupted."""
    if len(payload) < _CHECKSUM.size + _HEADER.size:
        raise ValueError("it is shorter than its header")
    if zlib.crc32(payload[_CHECKSUM.size :]) != _CHECKSUM.unpack_from(payload)[0]:
        raise ValueError("its checksum does not match")
    kind, series, rows, id_bytes = _HEADER.unpack_from(payload, _CHECKSUM.size)
    body = payload[_CHECKSUM.size + _HEADER.size :]
    ids = body[:id_bytes].decode()
    if kind == _DELETED:
        return Deletion(ids)
    names = tuple(ids.split("\0")) if series else ()
    if kind != _OBSERVED or len(names) != series or len(body) != id_bytes + 20 * rows:
        raise ValueError("its parts do not fit together")
    at = [id_bytes, id_bytes + 4 * rows, id_bytes + 12 * rows]
    return Columns(
        names,
        np.frombuffer(body, "<i4", rows, at[0]),
        np.frombuffer(body, "<i8", rows, at[1]),
        np.frombuffer(body, "<f8", rows, at[2]),
    )


def _with_header(kind: int, series: int, rows: int, ids: bytes, columns: bytes) -> bytes:
    payload = _HEADER.pack(kind, series, rows, len(ids)) + ids + columns
    return _CHECKSUM.pack(zlib.crc32(payload)) + payload


def find(
    wanted: Columns, newest_first: Iterable[Record], *, most_rows: int
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    """Look rows up by series and time.

    Args:
        wanted: what to find; its values are not used.
        newest_first: records; those of a series before its deletion do not count.
        most_rows: look at no more than about so many.

    Returns:
        Whether each row was found, bool [N], and its value, NaN where missing or not found, float64 [N].
    """
    codes = {name: code for code, name in enumerate(wanted.series_ids)}
    times = np.unique(wanted.time_us)
    keys = wanted.series.astype(np.int64) * len(times) + np.searchsorted(times, wanted.time_us)
    unique, inverse = np.unique(keys, return_inverse=True)
    found, held = np.zeros(len(unique), dtype=bool), np.full(len(unique), np.nan)
    looked_at = 0
    for record in newest_first:
        if isinstance(record, Deletion):
            codes.pop(record.series_id, None)
            continue
        code = np.array([codes.get(name, -1) for name in record.series_ids], dtype=np.int64)[record.series]
        at = np.searchsorted(times, record.time_us).clip(max=len(times) - 1)
        rows = np.flatnonzero((code >= 0) & (times[at] == record.time_us))
        key = code[rows] * len(times) + at[rows]
        place = np.searchsorted(unique, key).clip(max=len(unique) - 1)
        new = (unique[place] == key) & ~found[place]
        held[place[new]], found[place[new]] = record.values[rows[new]], True
        looked_at += len(record)
        if found.all() or looked_at > most_rows:
            break
    return found[inverse], held[inverse]
