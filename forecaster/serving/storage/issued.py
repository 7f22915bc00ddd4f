"""The record of forecasts that were given and wait to be scored.

Knows its columns; knows neither the journal that holds it nor how forecasts are scored.

Shapes: S series, R rows, B bounds.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

_TYPES = ("<i4", "u1", "<i8", "<f8", "<f4")  # series, horizons, origin_us, frame, bounds
_FIXED_BYTES = 29  # of a row without its bounds


@dataclass(slots=True)  # frozen, making one would take a tenth of what a lone forecast's calibration takes
class Issued:
    """Forecasts that were given and wait to be scored, from before the next observations; see `calibration`.

    Args:
        fingerprint: of the model that made them; it means nothing to others.
        series_ids: the distinct series, S of them.
        series: for each row its position in `series_ids`, int32 [R].
        horizons: for each row, which of the model's scored horizons, from 0, uint8 [R].
        origin_us: the time of the last observation that the forecast knew, int64 [R].
        frame: the median, and the unit of errors, float64 [R, 2].
        bounds: of the intervals, in units around the median, float32 [R, B].
    """

    fingerprint: str
    series_ids: tuple[str, ...]
    series: npt.NDArray[np.int32]
    horizons: npt.NDArray[np.uint8]
    origin_us: npt.NDArray[np.int64]
    frame: npt.NDArray[np.float64]
    bounds: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.series)

    def of(self, wanted: Iterable[int]) -> "Issued":
        """Return the rows of some of the series, by position; nothing is left of the others."""
        at = np.array(sorted(wanted), dtype=np.int64)
        place = np.full(len(self.series_ids), -1, dtype=np.int32)
        place[at] = np.arange(len(at))
        rows = place[self.series] >= 0
        parts = (self.horizons[rows], self.origin_us[rows], self.frame[rows], self.bounds[rows])
        return Issued(self.fingerprint, tuple(self.series_ids[i] for i in at), place[self.series[rows]], *parts)

    @classmethod
    def joined(cls, parts: Sequence["Issued"]) -> "Issued":
        """Return several records of one model, one or more, as one, in order."""
        index: dict[str, int] = {}
        series = [np.array([index.setdefault(i, len(index)) for i in p.series_ids], np.int32)[p.series] for p in parts]
        return cls(
            parts[0].fingerprint,
            tuple(index),
            np.concatenate(series),
            np.concatenate([part.horizons for part in parts]),
            np.concatenate([part.origin_us for part in parts]),
            np.concatenate([part.frame for part in parts]),
            np.concatenate([part.bounds for part in parts]),
        )

    def to_bytes(self) -> bytes:
        """Return the columns, little-endian, one after the other."""
        arrays: tuple[npt.NDArray[Any], ...] = (self.series, self.horizons, self.origin_us, self.frame, self.bounds)
        return b"".join(array.astype(kind, copy=False).tobytes() for array, kind in zip(arrays, _TYPES, strict=True))

    @classmethod
    def from_bytes(cls, fingerprint: str, series_ids: Sequence[str], rows: int, columns: bytes) -> "Issued":
        """Return what `to_bytes` made the columns of; raises ValueError if they are not of so many rows."""
        width = (len(columns) - _FIXED_BYTES * rows) // (4 * rows) if rows else 0
        if width < 0 or len(columns) != (_FIXED_BYTES + 4 * width) * rows:
            raise ValueError("its parts do not fit together")
        arrays: list[npt.NDArray[Any]] = []
        start = 0
        for kind, count in zip(_TYPES, (1, 1, 1, 2, width), strict=True):
            arrays.append(np.frombuffer(columns, kind, rows * count, start))
            start += arrays[-1].nbytes
        series, horizons, origin_us, frame, bounds = arrays
        wide = (frame.reshape(rows, 2), bounds.reshape(rows, width))
        return cls(fingerprint, tuple(series_ids), series, horizons, origin_us, *wide)
