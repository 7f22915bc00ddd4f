"""What the engine is asked to observe, and its answer.

Knows nothing of messages, states or journals.

Shapes: R rows.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from forecaster.errors import ForecasterError, UnavailableError
from forecaster.serving.storage.records import Attributes, Columns
from forecaster.serving.work.forecasting import Forecasts, ForecastWork
from forecaster.serving.work.sought import Sought


@dataclass(slots=True)
class Chain:
    """Requests that follow each other: behind one that failed, none may be applied, or its retry would find a gap.

    Args:
        failed: why the first of them failed; set by whoever finds out first.
    """

    failed: Exception | None = None

    def fail(self, error: BaseException) -> None:
        """Note why one of them failed; what is no Exception cancelled it."""
        if self.failed is None:
            gone = UnavailableError("the caller went away before it was applied")
            self.failed = error if isinstance(error, Exception) else gone


@dataclass(frozen=True, slots=True)
class ObserveWork:
    """One request's observations, and the static covariates that hold from before them on.

    Args:
        columns: the observations.
        attributes: the static covariates.
        then: what to forecast after them, in the same turn.
        chain: the requests that this one follows, if it does.
        start: how many of the rows are done, in turns before.
        sent_seconds: of a repetition, when it was first sent, by this process's `time.monotonic`; infinite of others.
        replaces: whether rows up to their series' last one are to replace what was said of their times.
    """

    columns: Columns
    attributes: Attributes | None = None
    then: "ForecastWork | None" = None
    chain: Chain | None = None
    start: int = 0
    sent_seconds: float = math.inf
    replaces: bool = False

    def series_ids(self) -> Iterator[str]:
        """Return its series; some may come twice."""
        given = () if self.attributes is None else self.attributes.series_ids
        return itertools.chain(self.columns.series_ids, given)

    def keys(self) -> Iterator[str | int]:
        """Return what it must not be overtaken on: its series, and its chain; some may come twice."""
        return itertools.chain(self.series_ids(), () if self.chain is None else (id(self.chain),))

    def part(self, count: int) -> "ObserveWork":
        """Return its next rows, with the static covariates of their series; with the first ones come those of others.

        Said again with later rows of a series, they change nothing.
        """
        if self.start == 0 and count == len(self.columns):
            return self
        columns = self.columns.between(self.start, self.start + count)
        attributes = self.attributes
        if attributes is not None:
            mine = set(columns.series_ids)
            if self.start == 0:
                observed = {self.columns.series_ids[i] for i in np.unique(self.columns.series).tolist()}
                mine |= set(attributes.series_ids) - observed
            attributes = attributes.of(k for k, name in enumerate(attributes.series_ids) if name in mine)
        attributes = attributes if attributes else None
        rest = {"sent_seconds": self.sent_seconds, "replaces": self.replaces}
        return ObserveWork(columns, attributes, None, self.chain, **rest)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Observed:
    """The answer to one request: an outcome for each row, and why rows were refused, by row.

    Args:
        outcomes: uint8 [R].
        errors: by row.
        refused: why nothing of the whole request (or of what was left of one that was cut) was applied; None if that
            is not so.
        forecasts: what the request's `then` asked for.
        sought: rows of which only the journal can tell; None if there are none.
        is_whole: whether nothing of the request is left; else `outcomes` are those of its next rows only.
    """

    outcomes: npt.NDArray[np.uint8]
    errors: dict[int, ForecasterError]
    refused: Exception | None = None
    forecasts: "Forecasts | None" = None
    sought: Sought | None = None
    is_whole: bool = True

    @property
    def is_done(self) -> bool:
        """Whether the whole request was applied, as far as its rows are not refused one by one."""
        return self.is_whole and self.refused is None

    @classmethod
    def nothing(cls, why: Exception) -> "Observed":
        """Return the answer to a request that was refused whole."""
        return cls(np.zeros(0, dtype=np.uint8), {}, why)

    @classmethod
    def joined(cls, parts: "Sequence[Observed]") -> "Observed":
        """Return the answers to a request's parts as one; the last one says what holds for all of it."""
        last = parts[-1]
        if len(parts) == 1 or last.refused is not None:
            return last
        starts = np.cumsum([0, *(len(part.outcomes) for part in parts)]).tolist()
        errors = {
            start + row: error for start, part in zip(starts, parts, strict=False) for row, error in part.errors.items()
        }
        sought = [
            part.sought.behind(start) for start, part in zip(starts, parts, strict=False) if part.sought is not None
        ]
        return dataclasses.replace(
            last,
            outcomes=np.concatenate([part.outcomes for part in parts]),
            errors=errors,
            sought=Sought.joined(sought) if sought else None,
        )

    def settled(self, outcomes: npt.NDArray[np.uint8], errors: Mapping[int, ForecasterError]) -> "Observed":
        """Return the answer, now that the outcome of each sought row is known, uint8 [Q], and why some are refused."""
        assert self.sought is not None
        whole, rows = self.outcomes.copy(), self.sought.rows
        whole[rows] = outcomes
        why = self.errors | {int(rows[k]): error for k, error in errors.items()}
        return dataclasses.replace(self, outcomes=whole, errors=why, sought=None)
