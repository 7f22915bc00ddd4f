"""Which series were deleted lately: a request that was sent before, and is repeated after, does not bring them back.

A client repeats what has no answer, also while somebody else deletes. Of a repetition it says how long ago it sent it
first: the clocks of two machines differ, what passes between them does not. Knows nothing of states or journals.
"""

import math
import time
from collections.abc import Callable, Sequence

import numpy as np

from forecaster.errors import ForecasterError, SeriesNotFoundError
from forecaster.serving.storage.records import Attributes
from forecaster.serving.work.observing import ObserveWork

_MOST = 65_536


class RecentDeletions:
    """The last deletions since the start.

    Args:
        most: of them.
        clock: seconds.
    """

    def __init__(self, most: int = _MOST, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._clock = most, clock
        self._seconds: dict[str, float] = {}  # the longest ago first

    def add(self, series_id: str) -> None:
        """Note that a series is being deleted."""
        self._seconds.pop(series_id, None)
        self._seconds[series_id] = self._clock()
        if len(self._seconds) > self._most:
            del self._seconds[next(iter(self._seconds))]

    def attributes(self, request: ObserveWork) -> Attributes | None:
        """Return a request's static covariates; of a repetition without those of series deleted since, None if none."""
        given = request.attributes
        if given is None or request.sent_seconds == math.inf or not self._seconds:
            return given
        kept = [k for k, name in enumerate(given.series_ids) if not self._is_gone(name, request)]
        return given.of(kept) if kept else None

    def rows(self, requests: Sequence[ObserveWork], slices: Sequence[slice]) -> dict[int, ForecasterError]:
        """Return why rows of repetitions are refused: their series were deleted since they were first sent.

        Args:
            requests: of which `slices` are the rows.
            slices: of all rows together.
        """
        found: dict[int, ForecasterError] = {}
        for request, rows in zip(requests, slices, strict=True) if self._seconds else ():
            if request.sent_seconds == math.inf:  # as a rule
                continue
            names = request.columns.series_ids
            gone = [k for k, name in enumerate(names) if self._is_gone(name, request)]
            for row in np.flatnonzero(np.isin(request.columns.series, gone)).tolist() if gone else ():
                name = names[request.columns.series[row]]
                message = f"series {name!r} was deleted after this was first sent: a retry does not bring it back"
                found[rows.start + row] = SeriesNotFoundError(message, [name])
        return found

    def _is_gone(self, name: str, request: ObserveWork) -> bool:
        return self._seconds.get(name, -math.inf) >= request.sent_seconds
