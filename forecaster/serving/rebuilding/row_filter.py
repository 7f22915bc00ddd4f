"""Which rows of the journal's records are folded: those of some series behind the begin of each one's window.

Knows a census and records; knows nothing of states.

Shapes: N series of the census.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from forecaster.serving.rebuilding.census import Census
from forecaster.serving.rebuilding.deletions import Deletions
from forecaster.serving.states.buckets import Grouped, bucket
from forecaster.serving.storage.issued import Issued
from forecaster.serving.storage.records import Attributes, Columns, IntArray

ALWAYS_US, NEVER_US = -(2**63), 2**63 - 1


class RowFilter:
    """The rows of the series of a census, and of those that begin behind it.

    Args:
        census: of some buckets.
        behind_us: the time behind which rows of each series count, int64 [N].
        offset: steps before that, int64 [N].
        only_known: whether those that begin behind it are left out.
    """

    def __init__(self, census: Census, behind_us: IntArray, offset: IntArray, *, only_known: bool = False) -> None:
        self.census, self.moving = census, census.within.copy()
        self.index: dict[str, int] = {name: k for k, name in enumerate(census.names.tolist())}
        self.behind_us, self.offset = behind_us, offset
        self._windows = behind_us.copy(), offset.copy()
        self.first_us = np.full(len(census), NEVER_US)  # the first row that was found of each
        self.settled = np.zeros(len(census), dtype=bool)  # rebuilt up to the census by another fold
        self.goes_on = np.zeros(len(census), dtype=bool)  # from a snapshot
        self.since = np.zeros(len(census), dtype=np.int64)  # rows of this record and before do not count
        self.newer = Grouped()  # series that are not in the census
        self._only_known = only_known
        self.deletions = Deletions(census.deletions, self._concerns)

    def _concerns(self, name: str) -> bool:
        return name in self.index if self._only_known else bool(self.moving[bucket(name)])

    def begin_anew(self, places: IntArray) -> None:
        """Let series of the census begin with their windows, whatever they began with."""
        self.behind_us[places], self.offset[places] = (part[places] for part in self._windows)
        self.first_us[places], self.goes_on[places] = NEVER_US, False

    def only(self, places: IntArray) -> "RowFilter":
        """Return one of some series of the census, up to it."""
        begin = (self.behind_us[places].copy(), self.offset[places].copy())
        found = RowFilter(self.census.at(places), *begin, only_known=True)
        found.since[:] = self.since[places]
        return found

    def codes(self, names: Sequence[str], sequence: int) -> IntArray:
        """Return the series' places in the census, -2 for those that are newer than it, -1 for others."""
        codes = np.fromiter((self.index.get(name, -1) for name in names), np.int64, len(names))
        gone = self.deletions.places(names, sequence)
        if sequence > self.census.sequence and not self._only_known:
            for k in np.flatnonzero(codes < 0).tolist():
                if self.moving[bucket(names[k])]:
                    codes[k] = -2
                    self.newer.add([names[k]])
        elif self.settled.any():
            codes[(codes >= 0) & self.settled[codes]] = -1
        codes[gone] = -1
        if self.since.any():
            codes[(codes >= 0) & (sequence <= self.since[codes])] = -1
        return codes

    def release(self, names: Sequence[str], moving: np.ndarray) -> None:
        """Let go of some buckets, bool [1024], and of these series of theirs."""
        self.newer.discard(names)
        for name in names:
            self.index.pop(name, None)
        self.moving &= ~moving

    def part(self, record: Columns | Attributes | Issued, codes: IntArray) -> Columns | Attributes | Issued:
        """Return what of a record is folded; `codes` are what `codes` said of its series."""
        if not isinstance(record, Columns):
            return record.of(np.flatnonzero(codes != -1).tolist())
        behind = np.where(codes == -2, ALWAYS_US, NEVER_US)
        behind[codes >= 0] = self.behind_us[codes[codes >= 0]]
        part = record.rows(np.flatnonzero(record.time_us > behind[record.series]))
        places = codes[part.series]
        np.minimum.at(self.first_us, places[places >= 0], part.time_us[places >= 0])
        used, series = np.unique(part.series, return_inverse=True)
        names = tuple(part.series_ids[i] for i in used.tolist())
        return dataclasses.replace(part, series_ids=names, series=series.astype(np.int32))
