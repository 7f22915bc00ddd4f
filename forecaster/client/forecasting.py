"""Forecasts of many series: the requests that ask for them, as many as it takes, and one result out of the answers.

A request is limited by what its answer would hold, which depends on the model; so one that the server refuses for its
size is asked again in halves. Does no I/O, so that both clients share it.
"""

import functools
from collections import deque
from collections.abc import Sequence

import polars as pl

from forecaster.client.calls import Call, Wanted, forecast_call
from forecaster.client.covariates import future_covariates
from forecaster.client.forecast_frames import ForecastResult, failure_frame
from forecaster.client.results import ModelInfo
from forecaster.client.transport.retry import is_too_large
from forecaster.errors import DataError, ForecasterError

_SERIES_PER_REQUEST = 8192


class Forecasting:
    """The requests of one forecast, to be sent one after the other.

    Args:
        series_ids: each once.
        wanted: what of each.
        name: of the model asked for.
        model: says which known-future covariates there are.
        allow_partial: forecast those that can be, instead of failing whole.

    Raises DataError if the future is wrong, or says nothing of any of the series.
    """

    def __init__(
        self, series_ids: Sequence[str], wanted: Wanted, name: str, model: ModelInfo | None, *, allow_partial: bool
    ) -> None:
        futures = future_covariates(wanted.future, model)
        named = {future.series_id for future in futures}
        if named and "" not in named and named.isdisjoint(series_ids):
            raise DataError(
                f"the future is of other series, such as {min(named)!r}: none of those asked for is among them"
            )
        self._call = functools.partial(
            forecast_call, wanted=wanted, name=name, futures=futures, allow_partial=allow_partial
        )
        self._ids = deque(series_ids)
        self._most = _SERIES_PER_REQUEST
        self._asked: list[str] = []
        self._results: list[ForecastResult] = []

    def next(self) -> Call[ForecastResult] | None:
        """Return the next request; None if all series were asked for. Of no series at all it is refused as such."""
        if not self._ids and self._results:
            return None
        self._asked = [self._ids.popleft() for _ in range(min(self._most, len(self._ids)))]
        return self._call(self._asked)

    def answered(self, result: ForecastResult) -> None:
        """Keep the answer to the request under way."""
        self._results.append(result)

    def refused(self, error: ForecasterError) -> None:
        """Ask for half as many series at a time if the request under way was too large; raises the error if not."""
        if len(self._asked) < 2 or not is_too_large(error):
            raise error
        self._ids.extendleft(reversed(self._asked))
        self._most = len(self._asked) // 2

    def result(self) -> ForecastResult:
        """Return what all answers say."""
        forecasts = [result.forecasts for result in self._results]
        filled = [frame for frame in forecasts if len(frame)] or forecasts[:1]  # an empty one has fewer columns
        failures = [result.failures for result in self._results]
        return ForecastResult(pl.concat(filled), pl.concat(failures) if failures else failure_frame(()))
