"""What a journal holds: observations as columns, static covariates, deletions, snapshots; and the bytes of a record.

Knows nothing of files or databases. Covariates go by their names, so that a model with others can be fed from it.

Shapes: N rows, S series, C covariates.
"""

import dataclasses
import json
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np
import numpy.typing as npt

from forecaster.serving.storage.issued import Issued

IntArray = npt.NDArray[np.int64]
_CHECKSUM = struct.Struct("<I")  # CRC-32 of everything behind it
KIND_AT = _CHECKSUM.size  # the byte of a record that tells its kind
_HEADER = struct.Struct("<BIII")  # kind, series, rows, bytes of the ids
_OBSERVED, _DELETED, _COVARIATES, ATTRIBUTES, _ISSUED = 1, 2, 3, 4, 5
_AMENDS = 64  # added to the kind of observations that are late or corrected
_COUNTS = struct.Struct("<II")  # of a record with covariates, behind its columns: covariates, bytes of their names


@dataclass(frozen=True, slots=True)
class Columns:
    """Observations as columns; of one series, in the order in which they were or will be applied.

    Args:
        series_ids: the distinct series, S of them.
        series: for each row its position in `series_ids`, int32 [N].
        time_us: microseconds since the Unix epoch, int64 [N].
        values: NaN means missing, float64 [N].
        covariate_names: of the covariates that are given, C of them.
        covariates: NaN means missing, float64 [N, C]; None if there are none.
        amends: whether they are late or corrected: of times up to their series' last one, in place of what was said of
            them before, and in no order.
    """

    series_ids: tuple[str, ...]
    series: npt.NDArray[np.int32]
    time_us: IntArray
    values: npt.NDArray[np.float64]
    covariate_names: tuple[str, ...] = ()
    covariates: npt.NDArray[np.float64] | None = None
    amends: bool = False

    def __len__(self) -> int:
        return len(self.series)

    def rows(self, rows: npt.NDArray[np.int64] | npt.NDArray[np.bool_] | slice) -> "Columns":
        """Return some of the rows, of the same series."""
        beside = None if self.covariates is None else self.covariates[rows]
        parts = (self.series[rows], self.time_us[rows], self.values[rows])
        return Columns(self.series_ids, *parts, self.covariate_names, beside, self.amends)

    def between(self, first: int, behind: int) -> "Columns":
        """Return the rows from `first` on and before `behind`, and only their series."""
        return self.rows(slice(first, behind)).used()

    def used(self) -> "Columns":
        """Return the same rows, and only the series that they are of."""
        is_used = np.zeros(len(self.series_ids), dtype=bool)
        is_used[self.series] = True
        names = tuple(compress(self.series_ids, is_used.tolist()))
        places = np.cumsum(is_used, dtype=np.int32) - 1
        return dataclasses.replace(self, series_ids=names, series=places[self.series])

    def with_covariates(self, names: Sequence[str]) -> "Columns":
        """Return the same rows with the covariates of these names: others go, those that were not given are NaN."""
        if self.covariates is None or self.covariate_names == tuple(names):
            return self
        beside = np.full((len(self), len(names)), np.nan)
        for k, name in enumerate(names):
            if name in self.covariate_names:
                beside[:, k] = self.covariates[:, self.covariate_names.index(name)]
        return dataclasses.replace(self, covariate_names=tuple(names), covariates=beside if names else None)


@dataclass(frozen=True, slots=True)
class Attributes:
    """Static covariates, which hold for their series from here on, in place of all that they had before.

    Args:
        series_ids: S different ones.
        numbers: of each series by name.
        categories: of each series by name.
    """

    series_ids: tuple[str, ...]
    numbers: tuple[dict[str, float], ...]
    categories: tuple[dict[str, str], ...]

    def __len__(self) -> int:
        return len(self.series_ids)

    def of(self, wanted: Iterable[int]) -> "Attributes":
        """Return those at some positions."""
        at = list(wanted)
        parts: tuple[Sequence[object], ...] = (self.series_ids, self.numbers, self.categories)
        return Attributes(*(tuple(part[i] for i in at) for part in parts))  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Deletion:
    """A tombstone: a series was forgotten, and nothing before this record counts for it."""

    series_id: str


Record = Columns | Attributes | Deletion | Issued


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


def without(record: Record, names: set[str]) -> Record | None:
    """Return a record without some series: itself if it holds nothing of them, None if nothing is left."""
    mine = (record.series_id,) if isinstance(record, Deletion) else record.series_ids
    kept = [k for k, name in enumerate(mine) if name not in names]
    if len(kept) == len(mine):
        return record
    if not kept or isinstance(record, Deletion):
        return None
    if not isinstance(record, Columns):
        return record.of(kept)
    place = np.full(len(mine), -1, dtype=np.int32)
    place[kept] = np.arange(len(kept), dtype=np.int32)
    rows = record.rows(place[record.series] >= 0)
    left = tuple(mine[k] for k in kept)
    return dataclasses.replace(rows, series_ids=left, series=place[rows.series]) if len(rows) else None


def surviving(record: Record, sequence: int, deleted: Mapping[str, int]) -> Record | None:
    """Return what is left of a record once series are erased: itself if that is all of it, None if it is nothing.

    Args:
        record: of a journal.
        sequence: its own.
        deleted: sequences of deletions by series; what was written behind one is the series' new life.
    """
    named = (record.series_id,) if isinstance(record, Deletion) else record.series_ids
    erased = {name for name in deleted.keys() & named if sequence < deleted[name]}
    return without(record, erased) if erased else record


def encode(record: Record) -> bytes:
    """Return a record as bytes: checksum, header, ids joined by NUL, then the columns, little-endian."""
    if isinstance(record, Deletion):
        return _with_header(_DELETED, 1, 0, record.series_id.encode(), b"")
    if isinstance(record, Attributes):
        named = json.dumps([record.series_ids, record.numbers, record.categories]).encode()
        return _with_header(ATTRIBUTES, len(record), 0, named, b"")
    if isinstance(record, Issued):
        ids = "\0".join((record.fingerprint, *record.series_ids)).encode()
        return _with_header(_ISSUED, len(record.series_ids), len(record), ids, record.to_bytes())
    columns = b"".join(
        (
            record.series.astype("<i4", copy=False).tobytes(),
            record.time_us.astype("<i8", copy=False).tobytes(),
            record.values.astype("<f8", copy=False).tobytes(),
        )
    )
    ids, amends = "\0".join(record.series_ids).encode(), _AMENDS if record.amends else 0
    if record.covariates is None:
        return _with_header(_OBSERVED + amends, len(record.series_ids), len(record), ids, columns)
    names = json.dumps(record.covariate_names).encode()
    beside = record.covariates.astype("<f8", copy=False).tobytes()
    columns += _COUNTS.pack(len(record.covariate_names), len(names)) + names + beside
    return _with_header(_COVARIATES + amends, len(record.series_ids), len(record), ids, columns)


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
    if kind == ATTRIBUTES:
        named, numbers, categories = json.loads(ids)
        return Attributes(tuple(named), tuple(numbers), tuple(categories))
    if kind == _ISSUED:
        fingerprint, *issued = ids.split("\0")
        if len(issued) != series:
            raise ValueError("its parts do not fit together")
        return Issued.from_bytes(fingerprint, issued, rows, body[id_bytes:])
    amends = kind >= _AMENDS
    kind -= _AMENDS if amends else 0
    names = tuple(ids.split("\0")) if series else ()
    end = id_bytes + 20 * rows
    fits = len(body) == end if kind == _OBSERVED else kind == _COVARIATES and len(body) >= end + _COUNTS.size
    if len(names) != series or not fits:
        raise ValueError("its parts do not fit together")
    covariate_names, covariates = _decode_covariates(body[end:], rows) if kind == _COVARIATES else ((), None)
    at = [id_bytes, id_bytes + 4 * rows, id_bytes + 12 * rows]
    return Columns(
        names,
        np.frombuffer(body, "<i4", rows, at[0]),
        np.frombuffer(body, "<i8", rows, at[1]),
        np.frombuffer(body, "<f8", rows, at[2]),
        covariate_names,
        covariates,
        amends,
    )


def _decode_covariates(tail: bytes, rows: int) -> tuple[tuple[str, ...], npt.NDArray[np.float64]]:
    """Return the names and the values [N, C] of the covariates behind a record's columns."""
    count, name_bytes = _COUNTS.unpack_from(tail)
    start = _COUNTS.size + name_bytes
    if len(tail) != start + 8 * rows * count:
        raise ValueError("its parts do not fit together")
    names = tuple(json.loads(tail[_COUNTS.size : start]))
    return names, np.frombuffer(tail, "<f8", rows * count, start).reshape(rows, count)


def _with_header(kind: int, series: int, rows: int, ids: bytes, columns: bytes) -> bytes:
    payload = _HEADER.pack(kind, series, rows, len(ids)) + ids + columns
    return _CHECKSUM.pack(zlib.crc32(payload)) + payload


def nothing() -> None:
    """Give way to nobody."""


def spanning(times_us: IntArray, first_us: IntArray, last_us: IntArray) -> npt.NDArray[np.bool_]:
    """Return which of N ranges of time, ends included, hold at least one of some ascending times, bool [N]."""
    low, high = np.searchsorted(times_us, first_us, side="left"), np.searchsorted(times_us, last_us, side="right")
    return low < high
