"""Series move from one model version to another by buckets, which are hashes of their ids.

Knows ids; knows nothing of versions or states.
"""

import itertools
import zlib
from collections.abc import Iterable

import numpy as np

BUCKETS = 1024


def bucket(series_id: str) -> int:
    """Return a series' bucket, 0 to 1023, the same in every process."""
    return zlib.crc32(series_id.encode()) % BUCKETS


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

    def of(self, marked: np.ndarray) -> list[str]:
        """Return the ids of marked buckets, bool [1024]."""
        return list(itertools.chain.from_iterable(self._names[at] for at in np.flatnonzero(marked).tolist()))
