"""Rows behind their series' last one of which only the journal can tell, and what becomes of them once it has.

Each is a repetition of what was said before, a late value, a correction, or refused. Knows nothing of where they are
looked up, or of who writes them.

Shapes: Q rows.
"""

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from forecaster.data.grid import Grid
from forecaster.errors import ForecasterError
from forecaster.serving.storage.records import Columns, IntArray
from forecaster.serving.storage.words import Words
from forecaster.serving.work.admission import differing, join
from forecaster.serving.work.outcome import Outcome

NOW_US = 2**61  # of what has just been said: only what is no repetition comes later
NO_REPETITION_US = 2**62


class May(enum.IntEnum):
    """What a row may do to the past of its series."""

    NOTHING = 0
    FILL = 1  # where a value is missing
    REPLACE = 2


@dataclass(frozen=True, slots=True)
class Sought:
    """Rows of which only the journal can tell.

    They advance nothing, so that they need not wait for their turn, nor anything for them.

    Args:
        rows: of the request, int64 [Q].
        wanted: them, with their covariates.
        grid: of the model.
        is_told: whether there is a journal that tells of all times.
        clock_us: of the series of each, int64 [Q].
        held: where there is no journal, what its state remembers of that time, NaN where missing or where it remembers
            nothing, float64 [Q].
        remembered: whether it does, bool [Q].
        may: a `May` each, uint8 [Q].
        whole: whether it replaces and has covariates, which are compared too then, bool [Q].
        sent_us: when it was first sent, microseconds since the Unix epoch; in the far future if it is no repetition,
            int64 [Q].
    """

    rows: IntArray
    wanted: Columns
    grid: Grid
    is_told: bool
    clock_us: IntArray
    held: npt.NDArray[np.float64]
    remembered: npt.NDArray[np.bool_]
    may: npt.NDArray[np.uint8]
    whole: npt.NDArray[np.bool_]
    sent_us: IntArray

    @classmethod
    def joined(cls, parts: "Sequence[Sought]") -> "Sought":
        """Return those of several parts of a request, or of several requests, as one."""
        names = tuple(dict.fromkeys(name for part in parts for name in part.wanted.covariate_names))
        wanted, _ = join([part.wanted.with_covariates(names) for part in parts])
        rows = np.concatenate([part.rows for part in parts])
        beside = zip(*(part._beside() for part in parts), strict=True)
        return cls(rows, wanted, parts[0].grid, parts[0].is_told, *map(np.concatenate, beside))

    def of(self, which: IntArray, rows: IntArray) -> "Sought":
        """Return some of them, as rows of one request."""
        return Sought(
            rows, self.wanted.rows(which).used(), self.grid, self.is_told, *(part[which] for part in self._beside())
        )

    def behind(self, start: int) -> "Sought":
        """Return them with `start` rows of the request before them."""
        return Sought(self.rows + start, self.wanted, self.grid, self.is_told, *self._beside())

    def judged(self, words: Words) -> tuple[npt.NDArray[np.uint8], dict[int, ForecasterError]]:
        """Return the outcome of each, uint8 [Q], and why some are refused; the later of a time follow the earlier ones.

        Of `FILLED` and `CORRECTED` ones nothing is written yet.

        Args:
            words: what the journal has of them.
        """
        outcomes = np.full(len(self.rows), np.uint8(Outcome.REJECTED))
        errors: dict[int, ForecasterError] = {}
        values, told = self.wanted.values.tolist(), _Told.of(self, words)
        new: dict[tuple[int, int], list[_Word]] = {}  # that these rows have said, by series and time
        keys = list(zip(self.wanted.series.tolist(), self.wanted.time_us.tolist(), strict=True))
        for k, (key, value) in enumerate(zip(keys, values, strict=True)):
            known = told[k]
            if said := new.get(key):
                known = known.behind(said, self._word(k, value), whole=bool(self.whole[k]))
            outcome = _outcome(value, known, May(self.may[k]), int(self.sent_us[k]))
            outcomes[k] = outcome
            if outcome in (Outcome.FILLED, Outcome.CORRECTED):
                new.setdefault(key, []).append(self._word(k, value))
            elif outcome == Outcome.REJECTED:
                errors[k] = self._refused(k, known)
        return outcomes, errors

    def _word(self, k: int, value: float) -> "_Word":
        beside = self.wanted.covariates
        return repr(value + 0.0), "" if beside is None else repr(beside[k].tolist())

    def _refused(self, k: int, known: "_Told") -> ForecasterError:
        clock_us, time_us = int(self.clock_us[k]), int(self.wanted.time_us[k])
        row = self.wanted.series_ids[self.wanted.series[k]], time_us, float(self.wanted.values[k])
        stored = known.current if known.is_known else None
        return differing(row, stored, int(self.grid.next(clock_us)), is_last=time_us == clock_us)

    def _beside(self) -> tuple[npt.NDArray[Any], ...]:
        return self.clock_us, self.held, self.remembered, self.may, self.whole, self.sent_us


_Word = tuple[str, str]  # a value, and the covariates with it


class _Told(NamedTuple):
    """What is known of a row's time.

    Args:
        current: the value that counts, NaN where missing.
        is_known: whether anything is known of it.
        is_said: whether the row itself was said.
        is_last: whether it was said last.
        committed_us: when the last word was written.
        is_whole: whether all is known that there may be.
    """

    current: float
    is_known: bool
    is_said: bool
    is_last: bool
    committed_us: int
    is_whole: bool

    @classmethod
    def of(cls, sought: Sought, words: Words) -> "list[_Told]":
        """Return what is known of every row."""
        values = sought.wanted.values
        current = np.where(words.found, words.values, sought.held)
        same = (current == values) | (np.isnan(current) & np.isnan(values))
        by_state = ~words.found & sought.remembered & same
        nothing = ~words.found & np.isnan(values) & (sought.may != May.REPLACE)  # missing it is already
        if not sought.is_told:
            nothing[:] = False
        parts = (
            current,
            words.found | sought.remembered,
            words.said | by_state | nothing,
            words.is_last | by_state | nothing,
            words.committed_us,
            words.is_whole,
        )
        return [cls(*row) for row in zip(*(part.tolist() for part in parts), strict=True)]

    def behind(self, said: "Sequence[_Word]", row: "_Word", *, whole: bool) -> "_Told":
        """Return what is known once more has been said of the time, just now."""
        words = [word if whole else word[0] for word in said]
        mine = row if whole else row[0]
        is_said = self.is_said or mine in words
        return _Told(float(said[-1][0]), True, is_said, words[-1] == mine, NOW_US, self.is_whole)


def _outcome(value: float, known: _Told, may: May, sent_us: int) -> Outcome:
    """Return what becomes of a row.

    What was said before is a repetition, whatever was said since; unless it is to replace that, and was first sent
    when that was known already. So is a repetition of what was missing then, of which no word is left.
    """
    is_repetition = known.is_said or (math.isnan(value) and may != May.REPLACE and sent_us <= known.committed_us)
    goes_back = may == May.REPLACE and not known.is_last and sent_us > known.committed_us
    if is_repetition and not goes_back:
        return Outcome.DUPLICATE
    is_late = math.isnan(known.current) and not math.isnan(value)
    if is_late and known.is_whole and may >= May.FILL:
        return Outcome.FILLED
    return Outcome.CORRECTED if may == May.REPLACE else Outcome.REJECTED
