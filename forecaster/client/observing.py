"""Observations of many series: the requests that send them, as many as it takes, and one result out of the answers.

A server refuses a request that is too large as a whole, by limits of its own; its rows are then sent in halves. Does no
I/O, so that both clients share it.
"""

import dataclasses
from collections import deque

import polars as pl

from forecaster.client.calls import Call, Wanted, observe_call
from forecaster.client.covariates import future_covariates, futures_of, known_rows, split_future, static_values
from forecaster.client.results import ModelInfo, StreamReply, empty_result
from forecaster.client.transport.retry import is_too_large
from forecaster.errors import ForecasterError

_ROWS_PER_REQUEST = 32_768


class Observing:
    """The requests of one frame, to be sent one after the other; series stay in order.

    Args:
        frame: columns unique_id, ds, y and covariates.
        name: of the model asked for.
        model: says which covariates there are; None sends none.
        send_trailing: send what is known of the time ahead as missing observations.
        corrects: whether the rows take the place of what was said before; all of them are sent then.
        wanted: what to forecast of the series afterwards: in the same request if the frame takes a single one, else
            that is left to who asks.

    Attributes:
        result: what became of the rows.
        reply: the same with the forecasts, None where they are yet to be asked for.
        series_ids: of the frame, in order.
        wanted: with what the frame says of the time ahead, unless it says that itself.

    Raises DataError for a wrong frame.
    """

    def __init__(
        self,
        frame: pl.DataFrame,
        name: str,
        model: ModelInfo | None,
        *,
        send_trailing: bool,
        corrects: bool = False,
        wanted: Wanted | None = None,
    ) -> None:
        rows, future = known_rows(frame, model), None
        if not send_trailing and not corrects:
            rows, future = split_future(rows, model)
        self._name, self._model, self._static = name, model, static_values(rows, model)
        self._corrects = corrects
        self._parts = deque(rows.iter_slices(_ROWS_PER_REQUEST))
        self._sent = rows.clear()
        if wanted is not None and wanted.future is None and future is not None:
            wanted = dataclasses.replace(wanted, future=future)
        self.wanted = wanted
        self._is_together = wanted is not None and len(self._parts) == 1
        self.series_ids: list[str] = rows["unique_id"].unique(maintain_order=True).to_list()
        self.result = empty_result(future)
        self.reply: StreamReply | None = None

    def next(self) -> Call[StreamReply] | None:
        """Return the next request; None if all rows were sent."""
        if not self._parts:
            return None
        self._sent = self._parts.popleft()
        options = None
        if self._is_together and self.wanted is not None:
            futures = future_covariates(self.wanted.future, self._model)
            options = self.wanted.options(futures_of(futures, set(self.series_ids)))
        return observe_call(self._sent, self._static, self._name, self._model, options, corrects=self._corrects)

    def answered(self, reply: StreamReply) -> None:
        """Keep what became of the request under way."""
        self.result = self.result + reply.observed
        if self._is_together:
            self.reply = StreamReply(self.result, reply.forecasts, reply.failures)

    def refused(self, error: ForecasterError) -> None:
        """Send the rows of the request under way in halves if they were too many; raises the error if not."""
        if not is_too_large(error) or (len(self._sent) < 2 and not self._is_together):
            raise error
        size = len(self._sent) if self._is_together else (len(self._sent) + 1) // 2
        self._is_together = False  # the forecasts may be what is too much
        self._parts.extendleft(reversed(list(self._sent.iter_slices(size))))
