"""Rows behind their series' last one of which only the journal can tell, and what becomes of them once it has.

Each is a repetition of what was said before, a late value, a correction, or refused. Knows nothing of where they are
looked up, or of who writes them.

Shapes: Q rows.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from forecaster.data.grid import Grid
from forecaster.errors import ForecasterError
from forecaster.serving.storage.records import Columns, IntArray
from forecaster.serving.storage.words import Words
from forecaster.serving.work.admission import differing, join
from forecaster.serving.work.outcome import Outcome


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
        return Sought(rows, self.wanted.rows(which), self.grid, self.is_told, *(part[which] for part in self._beside()))

    def behind(self, start: int) -> "Sought":
        """Return them with `start` rows of the request before them."""
        return Sought(self.rows + start, self.wanted, self.grid, self.is_told, *self._beside())

    @property
    def whole(self) -> npt.NDArray[np.bool_]:
        """Of which rows the covariates are compared too, bool [Q]: without a word, a value alone tells a repetition."""
        whole: npt.NDArray[np.bool_] = self.may == May.REPLACE
        return whole

    def judged(self, words: Words) -> tuple[npt.NDArray[np.uint8], dict[int, ForecasterError]]:
        """Return the outcome of each, uint8 [Q], and why some are refused.

        What was said before is a repetition, whatever was said since; unless it is to replace that, and was first sent
        when that was known already. Of `FILLED` and `CORRECTED` ones nothing is written yet.

        Args:
            words: what the journal has of them.
        """
        values = self.wanted.values
        current = np.where(words.found, words.values, self.held)
        is_known = words.found | self.remembered
        is_said = words.said | (~words.found & self.remembered & _equal(current, values))
        is_said |= ~words.found & np.isnan(values) & self.is_told & (self.may != May.REPLACE)  # it is missing already
        is_last = words.is_last | (~words.found & is_said)
        again = is_said & ~is_last & (self.may == May.REPLACE) & (self.sent_us > words.committed_us)
        is_late = ~is_said & np.isnan(current) & ~np.isnan(values) & (self.may >= May.FILL)
        is_correction = again | (~is_said & ~is_late & (self.may == May.REPLACE))
        outcomes = np.full(len(values), np.uint8(Outcome.REJECTED))
        outcomes[is_said] = Outcome.DUPLICATE
        outcomes[is_late] = Outcome.FILLED
        outcomes[is_correction] = Outcome.CORRECTED
        outcomes[again & np.isnan(current) & ~np.isnan(values)] = Outcome.FILLED
        errors: dict[int, ForecasterError] = {}
        for k in np.flatnonzero(outcomes == Outcome.REJECTED).tolist():
            clock_us, time_us = int(self.clock_us[k]), int(self.wanted.time_us[k])
            row = self.wanted.series_ids[self.wanted.series[k]], time_us, float(values[k])
            stored = float(current[k]) if is_known[k] else None
            errors[k] = differing(row, stored, int(self.grid.next(clock_us)), is_last=time_us == clock_us)
        return outcomes, errors

    def _beside(self) -> tuple[npt.NDArray[Any], ...]:
        return self.clock_us, self.held, self.remembered, self.may, self.sent_us


def _equal(left: npt.NDArray[np.float64], right: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    equal: npt.NDArray[np.bool_] = (left == right) | (np.isnan(left) & np.isnan(right))
    return equal
