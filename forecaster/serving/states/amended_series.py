"""Series with late or corrected values that their states do not know yet: they are folded again beside the requests.

The journal has the values; what is kept of each series beside it is as of which record, and from which time on it has
to be folded. Knows snapshots; knows nothing of states or of who folds them. Only the engine's thread asks and changes
it.
"""

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from forecaster.serving.storage.contract import AMENDED, Snapshots
from forecaster.serving.storage.records import Columns, Snapshot

_FORMAT = struct.Struct("<q")
_EARLIEST_US, _LATEST_US = -(2**62), 2**63 - 1
_MOST_LAST = 262_144


@dataclass(frozen=True, slots=True)
class AmendedSeries:
    """One of them.

    Args:
        series_id: the series.
        sequence: of the last record with a late or corrected value.
        first_us: the earliest time of those that its state does not know.
    """

    series_id: str
    sequence: int
    first_us: int

    def snapshot(self) -> Snapshot:
        """Return it as it is kept."""
        return Snapshot.of(self.series_id, self.sequence, _FORMAT.pack(self.first_us))

    @classmethod
    def of(cls, snapshot: Snapshot) -> "AmendedSeries":
        """Return what was kept; of one that is damaged everything is folded."""
        is_whole = snapshot.is_whole and len(snapshot.state) == _FORMAT.size
        first_us = _FORMAT.unpack(snapshot.state)[0] if is_whole else _EARLIEST_US
        return cls(snapshot.series_id, snapshot.sequence, first_us)


class AmendedRegister:
    """Which series wait to be folded again, and which records changed the past of series lately.

    Args:
        snapshots: where they are kept.
    """

    def __init__(self, snapshots: Snapshots) -> None:
        self._snapshots = snapshots
        kept = map(AmendedSeries.of, snapshots.read(AMENDED))
        self._waiting = {one_series.series_id: one_series for one_series in kept}
        self._aside: dict[str, AmendedSeries] = {}  # that have no state, until they get one
        self._unsaved: dict[str, None] = {}
        self.heard: list[tuple[int, str]] | None = None  # deletions since a fold began, while one is under way
        self._last: dict[str, int] = {}  # the last record that changed a series' past, the oldest first
        self._forgotten = 0  # what changed before this record is not known one by one
        self._deleted: dict[str, int] = {}  # of these series, those that were deleted
        self.on_noted: Callable[[], object] = _nothing  # told that some wait

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, series_id: str) -> bool:
        return series_id in self._waiting or series_id in self._aside

    def among(self, series_ids: Iterable[str]) -> list[str]:
        """Return those of the series that wait."""
        return [name for name in series_ids if name in self] if self._waiting or self._aside else []

    def places(self, series_ids: Sequence[str]) -> list[int]:
        """Return the positions of those of the series that wait."""
        is_any = self._waiting or self._aside
        return [k for k, name in enumerate(series_ids) if name in self] if is_any else []

    def next(self, most: int) -> list[AmendedSeries]:
        """Return those that have waited for longest."""
        return [one_series for one_series, _ in zip(self._waiting.values(), range(most), strict=False)]

    def set_aside(self, series_ids: Iterable[str]) -> None:
        """Let series that are idle not be folded until they are back."""
        for name in series_ids:
            if (known := self._waiting.pop(name, None)) is not None:
                self._aside[name] = known

    def back(self, series_ids: Iterable[str]) -> None:
        """Let series wait again that have a state."""
        if found := {name: self._aside.pop(name) for name in series_ids if name in self._aside}:
            self._waiting |= found
            self.on_noted()

    def note(self, columns: Columns, sequence: int) -> None:
        """Let series wait whose late or corrected values are in a record."""
        first = np.full(len(columns.series_ids), _LATEST_US)
        np.minimum.at(first, columns.series, columns.time_us)
        for name, first_us in zip(columns.series_ids, first.tolist(), strict=True):
            known = self._waiting.get(name) or self._aside.pop(name, None)
            since_us = first_us if known is None else min(first_us, known.first_us)
            self._waiting[name] = AmendedSeries(name, sequence, since_us)
            self._unsaved[name] = None
            self._changed(name, sequence)
        self.on_noted()

    def changed_since(self, series_ids: Sequence[str], sequence: int) -> list[bool]:
        """Return of which series the past may have been changed behind a record: by a correction, or by a deletion."""
        if sequence < self._forgotten:
            return [True] * len(series_ids)
        return [self._last.get(name, 0) > sequence for name in series_ids]

    def deleted_since(self, series_id: str, sequence: int) -> bool:
        """Return whether a series may have been deleted behind a record."""
        return sequence < self._forgotten or self._deleted.get(series_id, 0) > sequence

    def postpone(self, series_ids: Iterable[str]) -> None:
        """Let series wait behind the others."""
        for name in series_ids:
            if (known := self._waiting.pop(name, None)) is not None:
                self._waiting[name] = known

    def deleted(self, series_id: str, sequence: int) -> None:
        """Note that a series was deleted; storage has let go of what was kept of it."""
        self.dismiss([series_id])
        self._changed(series_id, sequence)
        self._deleted[series_id] = sequence
        if self.heard is not None:
            self.heard.append((sequence, series_id))

    def dismiss(self, series_ids: Iterable[str]) -> None:
        """Let series wait no more that have no state: they are folded whole when they get one."""
        for name in series_ids:
            self._waiting.pop(name, None)
            self._aside.pop(name, None)
            self._unsaved.pop(name, None)

    def end(self, folded: Mapping[str, int]) -> None:
        """Note that storage has states of series, by name, that know everything up to a record."""
        for name, through in folded.items():
            if (known := self._waiting.get(name)) is not None and known.sequence <= through:
                del self._waiting[name]
                self._unsaved.pop(name, None)

    def save(self, most: int = 2**62) -> int:
        """Keep what waits, before snapshots are said to hold all up to a record, so many at once; return how many.

        Raises StorageError.
        """
        names = list(islice(self._unsaved, most))
        if names:
            every = self._aside | self._waiting if self._aside else self._waiting
            self._snapshots.save(AMENDED, [every[name].snapshot() for name in names])
            for name in names:
                del self._unsaved[name]
        return len(names)

    def _changed(self, name: str, sequence: int) -> None:
        self._last.pop(name, None)
        self._last[name] = sequence
        if len(self._last) > _MOST_LAST:
            oldest = next(iter(self._last))
            self._forgotten = max(self._forgotten, self._last.pop(oldest))
            self._deleted.pop(oldest, None)


def _nothing() -> None:
    """Do nothing: nobody folds them."""
