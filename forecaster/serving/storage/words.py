"""The revisions of a series' value at a time: every record that tells of it is a word, and the last one counts.

Knows records; knows nothing of files or databases.

Shapes: N rows that are asked for, C covariates.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from forecaster.serving.storage.records import Columns, Deletion, IntArray, Record, nothing

# The time of the commit, microseconds since the Unix epoch, or that of each row, int64 [N]; and what was committed, or
# None where there would be more that nobody looks at.
Dated = tuple[int | IntArray, Record | None]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Words:
    """What is known of N rows.

    Args:
        found: whether anything was said of the row's series and time, bool [N].
        values: the last word, NaN where that is missing or where there is none, float64 [N].
        committed_us: when that was committed, 0 where there is none, int64 [N].
        said: whether the row itself, its value and the covariates that it was asked for with, was ever said, bool [N].
        is_last: whether it is the last word, bool [N].
        is_whole: whether all was looked through that may tell of the row, as far as that was needed, bool [N].
    """

    found: Bools
    values: npt.NDArray[np.float64]
    committed_us: IntArray
    said: Bools
    is_last: Bools
    is_whole: Bools

    @classmethod
    def none(cls, count: int) -> "Words":
        """Return that of so many rows nothing is known."""
        said = (np.zeros(count, dtype=bool), np.zeros(count, dtype=bool), np.ones(count, dtype=bool))
        return cls(np.zeros(count, dtype=bool), np.full(count, np.nan), np.zeros(count, dtype=np.int64), *said)

    def __len__(self) -> int:
        return len(self.found)

    def of(self, rows: "slice | IntArray") -> "Words":
        """Return what is known of some of the rows."""
        parts = (self.found, self.values, self.committed_us, self.said, self.is_last, self.is_whole)
        return Words(*(part[rows] for part in parts))  # type: ignore[arg-type]

    def put(self, rows: IntArray, older: "Words") -> None:
        """Take in what older records say of some of the rows."""
        new = rows[~self.found[rows]]
        of_new = older.of(np.flatnonzero(~self.found[rows]))
        self.values[new], self.committed_us[new] = of_new.values, of_new.committed_us
        self.is_last[new] |= of_new.is_last
        self.found[rows] |= older.found
        self.said[rows] |= older.said
        self.is_whole[rows] &= older.is_whole


def look_up(
    wanted: Columns,
    newest_first: Iterable[Dated],
    *,
    most_rows: int,
    give_way: Callable[[], None] = nothing,
    whole: Bools | None = None,
) -> Words:
    """Look rows up by series and time, and whether they were said.

    Args:
        wanted: what to find.
        newest_first: records; those of a series before its deletion do not count.
        most_rows: look at no more than about so many.
        give_way: called at every record.
        whole: of which rows the covariates are looked at too, bool [N]; None: of none.
    """
    words = Words.none(len(wanted))
    codes = {name: code for code, name in enumerate(wanted.series_ids)}
    times = np.unique(wanted.time_us)
    keys = wanted.series.astype(np.int64) * len(times) + np.searchsorted(times, wanted.time_us)
    order = np.argsort(keys, kind="stable")  # rows of one series and time stand together: each is asked for
    ordered, looked_at = keys[order], 0
    for committed_us, record in newest_first:
        give_way()
        if record is None:
            words.is_whole[:] = words.said
            break
        if isinstance(record, Deletion):
            codes.pop(record.series_id, None)
        if not isinstance(record, Columns):
            continue
        code = np.array([codes.get(name, -1) for name in record.series_ids], dtype=np.int64)[record.series]
        at = np.searchsorted(times, record.time_us).clip(max=len(times) - 1)
        held = np.flatnonzero((code >= 0) & (times[at] == record.time_us))[::-1]  # the later of two counts
        key = code[held] * len(times) + at[held]
        low, counts = np.searchsorted(ordered, key, "left"), np.searchsorted(ordered, key, "right")
        counts -= low
        told = np.repeat(held, counts)
        asked = order[np.repeat(low - (np.cumsum(counts) - counts), counts) + np.arange(len(told))]
        is_same = _same(wanted, asked, record, told, whole)
        first, place = np.unique(asked, return_index=True)
        new, which = first[~words.found[first]], place[~words.found[first]]
        words.found[new], words.values[new], words.is_last[new] = True, record.values[told[which]], is_same[which]
        words.committed_us[new] = committed_us[told[which]] if isinstance(committed_us, np.ndarray) else committed_us
        words.said[asked[is_same]] = True
        looked_at += len(record)
        if words.said.all():
            break
        if looked_at > most_rows:
            words.is_whole[:] = words.said
            break
    return words


def _same(wanted: Columns, rows: IntArray, record: Columns, at: IntArray, whole: Bools | None) -> Bools:
    """Return which of some wanted rows are those of a record, one for one, bool [K]: missing is equal to missing.

    A covariate that the record was not given is missing.
    """
    is_same = _equal(wanted.values[rows], record.values[at])
    if wanted.covariates is None or whole is None or not whole[rows].any():
        return is_same
    beside = record.rows(at).with_covariates(wanted.covariate_names).covariates
    theirs = np.full((len(at), len(wanted.covariate_names)), np.nan) if beside is None else beside
    equal: Bools = is_same & (_equal(wanted.covariates[rows], theirs).all(axis=1) | ~whole[rows])
    return equal


def _equal(left: npt.NDArray[np.float64], right: npt.NDArray[np.float64]) -> Bools:
    equal: Bools = (left == right) | (np.isnan(left) & np.isnan(right))
    return equal
