"""Observations of many series: the requests that send them, as many as it takes, and one result out of the answers.

A server refuses a request that is too large as a whole, by limits of its own; its rows are then sent in halves. Does no
I/O, so that both clients share it.
"""

from collections import deque

import polars as pl

from forecaster.client.calls import Call, observe_call
from forecaster.client.covariates import known_rows, split_future, static_values
from forecaster.client.results import ModelInfo, ObserveResult, empty_result
from forecaster.client.retry import is_too_large
from forecaster.errors import ForecasterError

_ROWS_PER_REQUEST = 32_768


class Observing:
    """The requests of one frame, to be sent one after the other; series stay in order.

    Args:
        frame: columns unique_id, ds, y and covariates.
        name: of the model asked for.
        model: says which covariates there are; None sends none.
        send_trailing: send what is known of the time ahead as missing observations.

    Raises DataError for a wrong frame.
    """

    def __init__(self, frame: pl.DataFrame, name: str, model: ModelInfo | None, *, send_trailing: bool) -> None:
        rows, future = known_rows(frame, model), None
        if not send_trailing:
            rows, future = split_future(rows, model)
        self._name, self._model, self._static = name, model, static_values(rows, model)
        self._parts = deque(rows.iter_slices(_ROWS_PER_REQUEST))
        self._sent = rows.clear()
        self.result = empty_result(future)

    def next(self) -> Call[ObserveResult] | None:
        """Return the next request; None if all rows were sent."""
        if not self._parts:
            return None
        self._sent = self._parts.popleft()
        return observe_call(self._sent, self._static, self._name, self._model)

    def answered(self, result: ObserveResult) -> None:
        """Keep what became of the request under way."""
        self.result = self.result + result

    def refused(self, error: ForecasterError) -> None:
        """Send the rows of the request under way in halves if they were too many; raises the error if not."""
        if len(self._sent) < 2 or not is_too_large(error):
            raise error
        self._parts.extendleft(reversed(list(self._sent.iter_slices((len(self._sent) + 1) // 2))))
