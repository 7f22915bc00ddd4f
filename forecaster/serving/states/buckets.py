"""Series move from one model version to another by buckets, which are hashes of their ids.

Knows ids; knows nothing of versions or states.
"""

import itertools
import zlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

BUCKETS = 1024


def bucket(series_id: str) -> int:
    """Return a series' bucket, 0 to 1023, the same in every process."""
    return zlib.crc32(series_id.encode()) % BUCKETS


def marked(buckets: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return which buckets are among some, bool [1024]."""
    found = np.zeros(BUCKETS, dtype=bool)
    found[buckets] = True
    return found


class Grouped:
    """Series ids by bucket: finding those of some buckets costs what these hold, however many there are."""

    def __init__(self) -> None:
        self._names: list[dict[str, None]] = [{} for _ in range(BUCKETS)]

    def add(self, series_ids: Iterable[str]) -> None:
        """Add ids; those that are there already stay where they are."""
        for name in series_ids:
            self._names[bucket(name)][name] = None

    def discard(self, series_ids: Iterable[str]) -> None:
        """Remove those of the ids that there are."""
        for name in series_ids:
            self._names[bucket(name)].pop(name, None)

    def of(self, moving: np.ndarray) -> list[str]:
        """Return the ids of the buckets that are marked, bool [1024]."""
        return list(itertools.chain.from_iterable(self._names[at] for at in np.flatnonzero(moving).tolist()))
