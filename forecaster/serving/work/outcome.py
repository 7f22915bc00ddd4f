"""What is said of rows: which of them advance their series, which are repetitions, which are refused and why.

Shapes: R rows, S series.
"""

import dataclasses
import enum
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from forecaster.errors import ForecasterError
from forecaster.serving.storage.records import IntArray


class Outcome(enum.IntEnum):
    """What became of an observation; the numbers are the API's."""

    APPLIED = 1
    DUPLICATE = 2
    REJECTED = 3
    CORRECTED = 4
    FILLED = 5


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement of R rows.

    Args:
        outcomes: an `Outcome` each, uint8 [R].
        errors: why a row was refused, by row.
        accepted: the rows to apply, grouped by series, in order within each, int64 [A].
        advance: for each accepted row, the steps from the row before to it, int64 [A]; 0 where a series
            starts afresh at it.
        one_step_each: every row is the only one of its series and advances it by one step, as most do.
        sought: rows behind their series' last one that the states cannot tell of, int64 [Q]: their outcomes, 0 here,
            the journal tells.
    """

    outcomes: npt.NDArray[np.uint8]
    errors: dict[int, ForecasterError]
    accepted: IntArray
    advance: IntArray
    one_step_each: bool = False
    sought: IntArray = dataclasses.field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def among(self, rows: IntArray, sought: IntArray, count: int) -> "Verdict":
        """Return it for `count` rows of which `rows` were judged and `sought` are yet to be looked up too."""
        outcomes = np.zeros(count, dtype=np.uint8)
        outcomes[rows] = self.outcomes
        errors = {int(rows[row]): error for row, error in self.errors.items()}
        both = np.union1d(rows[self.sought], sought)
        return Verdict(outcomes, errors, rows[self.accepted], self.advance, sought=both)

    def beside(self, rows: IntArray, errors: Mapping[int, ForecasterError], count: int) -> "Verdict":
        """Return it for `count` rows of which `rows` were judged and the others are refused, for some reason each."""
        found = self.among(rows, np.zeros(0, dtype=np.int64), count)
        found.outcomes[list(errors)] = Outcome.REJECTED
        return dataclasses.replace(found, errors={**found.errors, **errors})

    def missing_steps(self) -> IntArray:
        """Return the steps that each row's series is missing before it, int64 [R]."""
        found = np.zeros(len(self.outcomes), dtype=np.int64)
        found[self.accepted] = np.maximum(self.advance - 1, 0)
        return found
