"""Rows that are older than what their series' states remember, and what becomes of them when they were looked up.

Knows nothing of where they are looked up.

Shapes: Q rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from forecaster.errors import ForecasterError
from forecaster.serving.storage.records import Columns, IntArray
from forecaster.serving.work.admission import differing, join
from forecaster.serving.work.outcome import Outcome


@dataclass(frozen=True, slots=True)
class Sought:
    """Rows of which only the journal can tell: their series stand further than their states remember.

    They advance nothing, so that they need not wait for their turn, nor anything for them.

    Args:
        rows: of the request, int64 [Q].
        wanted: them.
        expected_us: the time that the series of each expects, int64 [Q].
    """

    rows: IntArray
    wanted: Columns
    expected_us: IntArray

    @classmethod
    def joined(cls, parts: "Sequence[Sought]") -> "Sought":
        """Return those of several parts of a request as one."""
        wanted, _ = join([part.wanted for part in parts])
        rows, expected = (np.concatenate([getattr(part, name) for part in parts]) for name in ("rows", "expected_us"))
        return cls(rows, wanted, expected)

    def of(self, which: IntArray, rows: IntArray) -> "Sought":
        """Return some of them, as rows of one request."""
        return Sought(rows, self.wanted.rows(which), self.expected_us[which])

    def behind(self, start: int) -> "Sought":
        """Return them with `start` rows of the request before them."""
        return Sought(self.rows + start, self.wanted, self.expected_us)

    def judged(
        self, found: npt.NDArray[np.bool_], held: npt.NDArray[np.float64]
    ) -> tuple[npt.NDArray[np.uint8], dict[int, ForecasterError]]:
        """Return the outcome of each, uint8 [Q], and why some are refused.

        Args:
            found: whether the journal has the row, bool [Q].
            held: its value there, NaN where missing, float64 [Q].
        """
        values, names = self.wanted.values, self.wanted.series_ids
        same = found & ((held == values) | (np.isnan(held) & np.isnan(values)))
        errors: dict[int, ForecasterError] = {}
        for k in np.flatnonzero(~same).tolist():
            row = names[self.wanted.series[k]], int(self.wanted.time_us[k]), float(values[k])
            errors[k] = differing(row, float(held[k]) if found[k] else None, int(self.expected_us[k]), is_last=False)
        return np.where(same, np.uint8(Outcome.DUPLICATE), np.uint8(Outcome.REJECTED)), errors
