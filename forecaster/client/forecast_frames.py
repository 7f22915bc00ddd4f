"""Forecasts as Polars frames, out of the messages that carry them, and why series have none.

Knows nothing of requests, channels or waiting.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from forecaster.data.grid import Grid
from forecaster.errors import ForecasterError
from forecaster.v1 import forecast_pb2

_NO_FORECASTS = pl.DataFrame(schema={"unique_id": pl.String, "ds": pl.Datetime("us", "UTC"), "y_hat": pl.Float64})


@dataclass(frozen=True, slots=True)
class ForecastResult:
    """The forecasts of those series that have one, and why the others have none.

    Args:
        forecasts: in long format, as `ForecastClient.forecast`, `paths` or `beams` returns them.
        failures: a row for each series without: unique_id, reason (such as SERIES_NOT_FOUND) and message.
    """

    forecasts: pl.DataFrame
    failures: pl.DataFrame

    def reasons(self) -> dict[str, str]:
        """Return why series have none, as sentences by id."""
        return dict(self.failures.select("unique_id", "message").iter_rows())

    def raise_for_failures(self) -> None:
        """Raise ForecasterError naming the first series without a forecast and how many there are."""
        if len(self.failures):
            more = f" ({len(self.failures)} series have no forecast)" if len(self.failures) > 1 else ""
            raise ForecasterError(f"{self.failures['message'][0]}{more}")


def failure_frame(failures: Iterable[forecast_pb2.ForecastFailure]) -> pl.DataFrame:
    """Return why series have no forecast: unique_id, reason, message."""
    rows = [(failure.series_id, failure.reason, failure.message) for failure in failures]
    return pl.DataFrame(rows, schema=dict.fromkeys(("unique_id", "reason", "message"), pl.String), orient="row")


def no_forecasts() -> pl.DataFrame:
    """Return forecasts of no series."""
    return _NO_FORECASTS.clone()


def forecast_frame(message: forecast_pb2.ForecastColumns, asked: Sequence[str]) -> pl.DataFrame:
    """Return forecasts in long format: unique_id, ds, y_hat (the median), and q0.1 … for each level.

    Of series that end, only the steps before that are there; `p_ended` is the probability that it was before a step.

    Args:
        message: of N series and D steps.
        asked: the series that forecasts were asked of, in their order.
    """
    origins, horizon = np.array(message.origin_times_us, dtype=np.int64), message.horizon
    if not len(origins):
        return no_forecasts()
    ahead = message.step.ToMicroseconds() * np.arange(1, horizon + 1)
    ids = pl.Series("unique_id", message.series_ids[:] or asked, dtype=pl.String)
    columns = [
        # Of one series without Polars' thread pool, which would take longer than all the rest.
        ids.new_from_index(0, horizon) if len(ids) == 1 else ids.gather(np.repeat(np.arange(len(ids)), horizon)),
        pl.Series("ds", (origins[:, None] + ahead).ravel()).cast(pl.Datetime("us", "UTC")),
        pl.Series("y_hat", np.array(message.values)),
        *(pl.Series(f"q{column.level:g}", np.array(column.values)) for column in message.quantiles),
    ]
    if not len(message.end_probabilities):
        return pl.DataFrame(columns)
    ended = np.array(message.end_probabilities)
    over = np.logical_or.accumulate(ended.reshape(-1, horizon) > 0.5, axis=1)
    over[:, 0] = False  # one step at least
    return pl.DataFrame([*columns, pl.Series("p_ended", ended)]).filter(pl.Series(~over.ravel()))


def path_frame(messages: Sequence[forecast_pb2.SeriesForecast]) -> pl.DataFrame:
    """Return paths in long format: unique_id, path (from 0), ds, y_hat; and log_probability of those searched for."""
    owners = [message for message in messages for _ in message.paths]
    paths = [path for message in messages for path in message.paths]
    numbers = [number for message in messages for number in range(len(message.paths))]
    lengths = np.array([len(path.values) for path in paths], dtype=np.int64)
    columns: dict[str, Any] = {
        "unique_id": np.repeat(np.array([message.series_id for message in owners], dtype=object), lengths),
        "path": np.repeat(np.array(numbers, dtype=np.int64), lengths),
        "ds": _times(owners, lengths),
        "y_hat": np.concatenate([np.empty(0), *(np.array(path.values) for path in paths)]),
    }
    if paths and paths[0].HasField("log_probability"):
        columns["log_probability"] = np.repeat(np.array([path.log_probability for path in paths]), lengths)
    return pl.DataFrame(columns, schema_overrides={"unique_id": pl.String})


def _times(messages: Sequence[forecast_pb2.SeriesForecast], lengths: npt.NDArray[np.int64]) -> pl.Series:
    """Return the times of the first steps ahead of each message, as many as its length says, one after the other."""
    origins = np.array([message.origin_time.ToMicroseconds() for message in messages], dtype=np.int64)
    step_us = messages[0].step.ToMicroseconds() if messages else 0
    starts = np.cumsum(lengths) - lengths
    ahead = np.arange(1, int(lengths.sum()) + 1) - np.repeat(starts, lengths)
    times = Grid(step_us).time(np.repeat(origins, lengths), ahead)
    return pl.Series(times, dtype=pl.Int64).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
