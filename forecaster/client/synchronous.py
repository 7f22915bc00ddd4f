# Generated from asynchronous.py by `make clients`, never edited.
"""The client: `ForecastClient` blocks, `AsyncForecastClient` is awaited; else they are the same."""

from collections.abc import Iterator, Sequence
from typing import Literal, overload

import polars as pl

from forecaster.client import calls
from forecaster.client.asking import Asking
from forecaster.client.calls import MEDIAN, Wanted
from forecaster.client.covariates import has_more_columns
from forecaster.client.forecast_frames import ForecastResult, no_forecasts
from forecaster.client.forecasting import Forecasting
from forecaster.client.history import HistoryForecasting
from forecaster.client.inputs import Frame, Ids, OnConflict, as_frame, is_correcting, series_names
from forecaster.client.observing import Observing
from forecaster.client.results import ObserveResult, StreamReply
from forecaster.client.streaming.stream import ForecastStream


class ForecastClient(Asking):
    """Talks to one server; `ForecastClient` may be shared between threads, `AsyncForecastClient` has one event loop.

    Args:
        address: `host:port`.
        model: the registered model's name; left out, the server's own.
        retry: how long and how often calls are tried.
    """

    def observe(
        self, frame: Frame, *, send_trailing: bool = False, on_conflict: OnConflict = "refuse"
    ) -> ObserveResult:
        """Send observations, columns `unique_id`, `ds`, `y` (null is missing); safe to repeat.

        Columns that the model knows by name go along: past and known-future covariates, and static ones, which have to
        be the same in all rows of a series. Other columns are left alone, unless one is nearly named like a covariate
        that the frame lacks.

        In a frame with known-future covariates, rows behind the last value of a series are what is known of the time
        ahead, not missing observations: they are not sent, and come back as the result's `future`, for `forecast`.

        Args:
            frame: Polars (lazy too), pandas, an Arrow table, or a dict of columns.
            send_trailing: send such rows too, as missing observations; streams always do.
            on_conflict: what becomes of rows that say something else of a time than was said before: `refuse`, or
                `correct`: they take its place, covariates too, also where nothing is known so far back. Rows without
                a value are corrections then, and all are sent. A late value of a time that is missing needs no word.

        Raises DataError for a wrong frame; rows that the server refuses are in the result.
        """
        given = as_frame(frame)
        model = self._describe(has_more_columns(given))
        corrects = is_correcting(on_conflict)
        work = Observing(given, self._name, model, send_trailing=send_trailing, corrects=corrects)
        self._send(work)
        return work.result

    def observe_and_forecast(
        self,
        frame: Frame,
        *,
        horizon: int | None = None,
        quantile_levels: Sequence[float] = (),
        future: Frame | None = None,
        calibrated: bool = False,
        on_conflict: OnConflict = "refuse",
    ) -> StreamReply:
        """Send observations and return the forecasts of their series after them, in one call; safe to repeat.

        A frame that takes several requests is observed first, and forecast then.

        Args:
            frame: see `observe`. Left out, `future` is what it says of the time behind the last value of a series.
            horizon, quantile_levels, future, calibrated: see `forecast`.
            on_conflict: see `observe`; the forecasts may not know of late and corrected values yet.

        Raises what `observe` and `forecast` raise, but for series that cannot be forecast: the result says why.
        """
        given, wanted = as_frame(frame), Wanted(horizon, quantile_levels, future, calibrated=calibrated).framed()
        model = self._describe(has_more_columns(given) or future is not None)
        corrects = is_correcting(on_conflict)
        work = Observing(given, self._name, model, send_trailing=False, corrects=corrects, wanted=wanted)
        self._send(work)
        if work.reply is not None:
            return work.reply
        if not work.series_ids:
            return StreamReply(work.result, no_forecasts(), {})
        asked = Forecasting(work.series_ids, work.wanted or wanted, self._name, model, allow_partial=True)
        self._send(asked)
        return StreamReply(work.result, asked.result().forecasts, asked.result().reasons())

    @overload
    def forecast(
        self,
        series_ids: Ids,
        *,
        horizon: int | None = None,
        quantile_levels: Sequence[float] = (),
        future: Frame | None = None,
        calibrated: bool = False,
        what_if: bool = False,
        await_corrections: bool = False,
        allow_partial: Literal[False] = False,
    ) -> pl.DataFrame: ...

    @overload
    def forecast(
        self,
        series_ids: Ids,
        *,
        horizon: int | None = None,
        quantile_levels: Sequence[float] = (),
        future: Frame | None = None,
        calibrated: bool = False,
        what_if: bool = False,
        await_corrections: bool = False,
        allow_partial: Literal[True],
    ) -> ForecastResult: ...

    def forecast(
        self,
        series_ids: Ids,
        *,
        horizon: int | None = None,
        quantile_levels: Sequence[float] = (),
        future: Frame | None = None,
        calibrated: bool = False,
        what_if: bool = False,
        await_corrections: bool = False,
        allow_partial: bool = False,
    ) -> pl.DataFrame | ForecastResult:
        """Return forecasts in long format: unique_id, ds, y_hat (the median), q0.1 … for each level.

        Models of series that end add p_ended, the probability that a series has ended before a step, and stop there.

        Args:
            series_ids: which: one id, or many, each forecast once, in as many requests as it takes.
            horizon: steps ahead; left out, the model's.
            quantile_levels: within the trained range; left out, all trained ones.
            future: known-future covariates of the steps ahead, columns unique_id (left out: the same for every series),
                ds and their names; what it does not say is missing, and series that are not asked for are left out.
            calibrated: correct the quantiles by how often those of past forecasts held.
            what_if: `future` is an assumption, not what is known: the forecast is not scored when its time comes.
            await_corrections: wait until the series' states know all late and corrected values that were acknowledged.
            allow_partial: return a ForecastResult, with the forecasts of those series that have one and why others have
                none, instead of raising for the first of these.

        Raises SeriesNotFoundError, TooLittleHistoryError, InvalidArgumentError.
        """
        how = {"calibrated": calibrated, "what_if": what_if, "await_corrections": await_corrections}
        wanted = Wanted(horizon, quantile_levels, future, **how)
        return self._forecast(series_ids, wanted, allow_partial)

    def forecast_history(
        self, frame: Frame, *, horizon: int | None = None, quantile_levels: Sequence[float] = ()
    ) -> ForecastResult:
        """Return forecasts of the series of a frame from its values alone; the server keeps nothing of them.

        Args:
            frame: see `observe`; the whole past of each series, and what is known of the time ahead.
            horizon, quantile_levels: see `forecast`.

        Raises DataError for a wrong frame, and ForecasterError for the first row that the server refuses.
        """
        given = as_frame(frame)
        model = self._describe(has_more_columns(given))
        work = HistoryForecasting(given, Wanted(horizon, quantile_levels), self._name, model)
        self._send(work)
        return work.result()

    @overload
    def paths(
        self,
        series_ids: Ids,
        count: int,
        *,
        horizon: int | None = None,
        seed: int = 0,
        future: Frame | None = None,
        allow_partial: Literal[False] = False,
    ) -> pl.DataFrame: ...

    @overload
    def paths(
        self,
        series_ids: Ids,
        count: int,
        *,
        horizon: int | None = None,
        seed: int = 0,
        future: Frame | None = None,
        allow_partial: Literal[True],
    ) -> ForecastResult: ...

    def paths(
        self,
        series_ids: Ids,
        count: int,
        *,
        horizon: int | None = None,
        seed: int = 0,
        future: Frame | None = None,
        allow_partial: bool = False,
    ) -> pl.DataFrame | ForecastResult:
        """Return sampled paths in long format: unique_id, path, ds, y_hat; each is one possible future as a whole.

        The same seed gives a series the same paths, until its next observation. A path stops where its series ends.

        Raises UnsupportedError if the model's decoder is not recurrent, and what `forecast` raises.
        """
        wanted = Wanted(horizon, MEDIAN, future, paths=count, seed=seed)
        return self._forecast(series_ids, wanted, allow_partial)

    @overload
    def beams(
        self,
        series_ids: Ids,
        count: int,
        *,
        horizon: int | None = None,
        width: int | None = None,
        length_power: float = 0.0,
        future: Frame | None = None,
        allow_partial: Literal[False] = False,
    ) -> pl.DataFrame: ...

    @overload
    def beams(
        self,
        series_ids: Ids,
        count: int,
        *,
        horizon: int | None = None,
        width: int | None = None,
        length_power: float = 0.0,
        future: Frame | None = None,
        allow_partial: Literal[True],
    ) -> ForecastResult: ...

    def beams(
        self,
        series_ids: Ids,
        count: int,
        *,
        horizon: int | None = None,
        width: int | None = None,
        length_power: float = 0.0,
        future: Frame | None = None,
        allow_partial: bool = False,
    ) -> pl.DataFrame | ForecastResult:
        """Return the most probable paths, the best first: unique_id, path, ds, y_hat, log_probability.

        Args:
            series_ids: which.
            count: of paths; there may be fewer.
            horizon: steps ahead; left out, the model's.
            width: beginnings kept at each step; left out, four times `count`.
            length_power: rank by log-probability / length to this power.
            future, allow_partial: see `forecast`.

        Raises UnsupportedError unless the model has a recurrent decoder and a categorical head.
        """
        wanted = Wanted(horizon, MEDIAN, future, beams=count, width=width, length_power=length_power)
        return self._forecast(series_ids, wanted, allow_partial)

    def watch(
        self, series_ids: Ids, *, horizon: int | None = None, quantile_levels: Sequence[float] = ()
    ) -> Iterator[ForecastResult]:
        """Yield the forecasts of series as they are, and then new ones of those that have changed, for ever.

        Whoever observes them, or replaces the model: each result has the series that are new, by `forecast`'s columns,
        and those that have no forecast now. What changes while nobody takes a result comes as it is by then. When the
        server comes back after an end, all come again.

        Args:
            series_ids: which; they need not exist yet.
            horizon, quantile_levels: see `forecast`.

        Raises UnavailableError if the server is away for longer than the policy's time.
        """
        wanted = Wanted(horizon, quantile_levels)
        return self._watch(calls.watch_call(series_names(series_ids), wanted, self._name))

    def stream(
        self, *, horizon: int | None = None, quantile_levels: Sequence[float] = (), calibrated: bool = False
    ) -> ForecastStream:
        """Open a stream: each frame sent is answered by its outcome and fresh forecasts of its series."""
        wanted = Wanted(horizon, quantile_levels, calibrated=calibrated)
        return ForecastStream(self._stubs, self._retry, self._address, self._describe, wanted, self._name)

    def _forecast(self, series_ids: Ids, wanted: Wanted, allow_partial: bool) -> pl.DataFrame | ForecastResult:
        wanted, model = wanted.framed(), self._describe(wanted.future is not None)
        work = Forecasting(series_names(series_ids), wanted, self._name, model, allow_partial=allow_partial)
        self._send(work)
        return work.result() if allow_partial else work.result().forecasts
