"""Series with late or corrected values: their rows as if each had come in its time, with the last word on it.

A fold takes records in the order of arrival, which is that of the event times but for such series. Theirs are gathered
and sorted before they are folded. Knows journals and records; knows nothing of states.

Shapes: N series, R rows.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from forecaster.serving.rebuilding.census import Census
from forecaster.serving.rebuilding.row_filter import RowFilter
from forecaster.serving.storage.contract import Journal, OnDamage
from forecaster.serving.storage.issued import Issued
from forecaster.serving.storage.records import Columns, Deletion, IntArray

_MOST_ROWS = 2_000_000  # at once
_UNKNOWN_ROWS = 2_000  # of a series of which everything counts


def in_groups(places: IntArray, census: Census, offset: IntArray) -> Iterator[IntArray]:
    """Yield places of series in the census in groups of about so many rows that they can be held."""
    rows = np.where(offset > 0, census.position - offset, np.maximum(census.position, _UNKNOWN_ROWS))[places]
    group = np.cumsum(rows) // _MOST_ROWS
    yield from np.split(places, np.flatnonzero(np.diff(group)) + 1)


class Gathering:
    """The rows of some series up to the census, and what was forecast of them.

    Args:
        rows: of these series only, behind the begin of each one's window.
        covariates: of the model.
    """

    def __init__(self, rows: RowFilter, covariates: Sequence[str]) -> None:
        self._rows, self._covariates = rows, covariates
        self._parts: list[tuple[IntArray, Columns]] = []  # with the places of the rows' series
        self._issued: list[Issued] = []
        self._cut = np.zeros(len(rows.census), dtype=np.int64)  # parts before these were of a series' former life

    def read(
        self, journal: Journal, *, on_damage: OnDamage, give_way: Callable[[], None], check_going: Callable[[], None]
    ) -> None:
        """Gather everything up to the census; at every record both are called, and `check_going` may raise."""
        rows, census = self._rows, self._rows.census
        after, since_us = int(rows.since.min()), int(rows.behind_us.min())
        for sequence, record in journal.read(after, since_us=since_us, on_damage=on_damage):
            if sequence > census.sequence:
                break
            check_going()
            give_way()
            self._forget(rows.deletions.added())
            if isinstance(record, Deletion):
                self._forget(rows.deletions.met(sequence, record.series_id))
                continue
            if not isinstance(record, Columns | Issued):
                continue
            codes = rows.codes(record.series_ids, sequence)
            if (codes >= 0).any():
                self._take(record, codes)
        self._forget(rows.deletions.added())

    def columns(self) -> Columns:
        """Return the last word on every series and time, by ascending series and time."""
        names = tuple(self._rows.census.names.tolist())
        if not self._parts:
            return Columns(names, np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0))
        series = np.concatenate([places for places, _ in self._parts])
        time_us = np.concatenate([part.time_us for _, part in self._parts])
        at = np.repeat(np.arange(len(self._parts)), [len(part) for _, part in self._parts])
        order = np.lexsort((np.arange(len(series)), time_us, series))
        ordered, times = series[order], time_us[order]
        is_last = np.ones(len(order), dtype=bool)
        is_last[:-1] = (ordered[1:] != ordered[:-1]) | (times[1:] != times[:-1])
        kept = order[is_last & (at[order] >= self._cut[ordered])]
        values = np.concatenate([part.values for _, part in self._parts])
        beside = None
        if self._covariates:
            beside = np.concatenate([self._beside(part) for _, part in self._parts])[kept]
        names_of = tuple(self._covariates) if beside is not None else ()
        return Columns(names, series[kept].astype(np.int32), time_us[kept], values[kept], names_of, beside)

    def issued(self) -> list[Issued]:
        """Return what was forecast of the series, in order."""
        return self._issued

    def _take(self, record: Columns | Issued, codes: IntArray) -> None:
        part = self._rows.part(record, codes)
        if isinstance(part, Issued):
            self._issued.append(part)
        elif isinstance(part, Columns) and len(part):
            index = self._rows.index
            places = np.array([index[name] for name in part.series_ids], dtype=np.int64)[part.series]
            self._parts.append((places, part))

    def _forget(self, deletions: Iterator[tuple[int, Deletion]]) -> None:
        for _, deletion in deletions:
            place = self._rows.index.get(deletion.series_id)
            if place is None:
                continue
            self._cut[place] = len(self._parts)
            gone = {deletion.series_id}
            self._issued = [part for one in self._issued if (part := _without(one, gone)) is not None]

    def _beside(self, part: Columns) -> np.ndarray:
        given = part.with_covariates(self._covariates).covariates
        return np.full((len(part), len(self._covariates)), np.nan) if given is None else given


def _without(issued: Issued, names: set[str]) -> Issued | None:
    kept = [k for k, name in enumerate(issued.series_ids) if name not in names]
    return issued.of(kept) if kept else None
