"""What the answers mean: results from responses.

Knows nothing of requests, channels or waiting.
"""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from forecaster.client.forecast_frames import forecast_frame
from forecaster.errors import ForecasterError
from forecaster.v1 import forecast_service_pb2, model_service_pb2, observation_pb2

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_DURABILITIES = {
    observation_pb2.DURABILITY_COMMIT: "commit",
    observation_pb2.DURABILITY_INTERVAL: "interval",
    observation_pb2.DURABILITY_NONE: "none",
}
_SCORES = ("mase", "bias", "nominal_coverage", "coverage", "calibrated_coverage")
_REJECTION_SCHEMA: dict[str, Any] = {
    "unique_id": pl.String,
    "ds": pl.Datetime("us", "UTC"),
    "y": pl.Float64,
    "reason": pl.String,
    "message": pl.String,
    "expected_ds": pl.Datetime("us", "UTC"),
    "stored_y": pl.Float64,
}
_NO_REJECTIONS = pl.DataFrame(schema=_REJECTION_SCHEMA)


@dataclass(frozen=True, slots=True)
class ObserveResult:
    """What became of a frame of observations.

    Args:
        applied: rows that advanced their series.
        duplicates: rows that had been applied before.
        rejected: the refused rows with `reason`, `message`, `expected_ds` and `stored_y`.
        durability: how durable what was taken is: commit, interval or none.
        future: rows that were left out because they lie behind the last value of their series and carry known-future
            covariates, with unique_id, ds and these: what `forecast` takes as its `future`. None if there were none.
        corrected: rows that take the place of what was said of their times before.
        filled: rows of times that were missing, which came late.
    """

    applied: int
    duplicates: int
    rejected: pl.DataFrame
    durability: str
    future: pl.DataFrame | None = None
    corrected: int = 0
    filled: int = 0

    def raise_for_rejections(self) -> None:
        """Raise ForecasterError naming the first refused row and how many there are."""
        if len(self.rejected):
            more = f" ({len(self.rejected)} rows were refused)" if len(self.rejected) > 1 else ""
            raise ForecasterError(f"{self.rejected['message'][0]}{more}")

    def __add__(self, other: "ObserveResult") -> "ObserveResult":
        return ObserveResult(
            self.applied + other.applied,
            self.duplicates + other.duplicates,
            pl.concat([self.rejected, other.rejected]),
            other.durability,
            other.future if self.future is None else self.future,
            self.corrected + other.corrected,
            self.filled + other.filled,
        )


@dataclass(frozen=True, slots=True)
class StreamReply:
    """The answer to one frame: what became of it, the forecasts after it, and why other series of it have none."""

    observed: ObserveResult
    forecasts: pl.DataFrame
    failures: dict[str, str]


@dataclass(frozen=True, slots=True)
class LiveScores:
    """How good the forecasts of one series at one horizon have been; newer ones weigh more. None is not known yet.

    A mean of few scores is mostly chance: of 30, `mase` is known to about a fifth, of 100 to a tenth, and
    `coverage` to 5 points.

    Args:
        horizon: steps ahead.
        scored_count: how many forecasts were scored.
        mase: mean absolute error over the series' mean absolute change from season to season.
        bias: mean of forecast minus actual value, in the same unit.
        nominal_coverage: what the intervals promised.
        coverage: of the model's own interval.
        calibrated_coverage: of the interval that `calibrated` gives.
    """

    horizon: int
    scored_count: int
    mase: float | None
    bias: float | None
    nominal_coverage: float | None
    coverage: float | None
    calibrated_coverage: float | None


@dataclass(frozen=True, slots=True)
class SeriesInfo:
    """One series on the server; `length` counts missing steps too, `observed_length` does not.

    `failure` says why its state cannot be had, empty as a rule; else nothing but names is known of it. `static` has the
    static covariates that hold for it now, numbers and categories by name; only of `get_series`.
    """

    unique_id: str
    last_ds: dt.datetime
    expected_ds: dt.datetime
    length: int
    observed_length: int
    model_name: str
    model_version: str
    state_age: dt.timedelta
    live: tuple[LiveScores, ...]
    failure: str = ""
    static: dict[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A version of a model; a `recurrent` decoder can draw paths, with a `categorical` head it can search for them.

    Its `state` is `LOADING`, `REBUILDING`, `ACTIVE`, `RETIRED` or `FAILED`, for a reason that `failure` names. Of the
    last two no more is known than name, version and fingerprint. `registry_failure` says why the server could not ask
    its registry for newer versions the last time, empty if it could.
    """

    name: str
    version: str
    fingerprint: str
    cell: str
    step: dt.timedelta
    horizon: int
    quantile_levels: tuple[float, ...]
    season_lengths: tuple[int, ...]
    min_history: int
    max_gap: int
    state_bytes: int
    past_covariates: tuple[str, ...]
    future_covariates: tuple[str, ...]
    static_covariates: tuple[str, ...]
    static_categories: tuple[str, ...]
    decoder: str
    head: str
    end_of_sequence: bool
    state: str = "ACTIVE"
    progress: float = 1.0
    failure: str = ""
    registry_failure: str = ""

    @property
    def covariates(self) -> tuple[str, ...]:
        """All covariates that it knows."""
        return (*self.dynamic, *self.static_covariates, *self.static_categories)

    @property
    def dynamic(self) -> tuple[str, ...]:
        """The covariates that an observation may carry."""
        return (*self.past_covariates, *self.future_covariates)


def empty_result(future: pl.DataFrame | None = None) -> ObserveResult:
    """Return the result of sending nothing but what is known of the time ahead, which is not sent."""
    return ObserveResult(0, 0, _NO_REJECTIONS.clear(), "none", future)


def observe_result(rows: pl.DataFrame, answer: Any) -> ObserveResult:
    """Return what became of the rows that an `ObserveResponse` or `StreamForecastsResponse` answers."""
    outcomes = np.array(answer.outcomes, dtype=np.int32)
    rejections = [
        {
            "unique_id": rows["unique_id"][rejection.row],
            "ds": rows["ds"][rejection.row],
            "y": rows["y"][rejection.row],
            "reason": rejection.reason,
            "message": rejection.message,
            "expected_ds": _utc(rejection.expected_time) if rejection.HasField("expected_time") else None,
            "stored_y": rejection.stored_value if rejection.HasField("stored_value") else None,
        }
        for rejection in answer.rejections
    ]
    return ObserveResult(
        int((outcomes == observation_pb2.OUTCOME_APPLIED).sum()),
        int((outcomes == observation_pb2.OUTCOME_DUPLICATE).sum()),
        pl.DataFrame(rejections, schema=_REJECTION_SCHEMA) if rejections else _NO_REJECTIONS.clear(),
        _DURABILITIES.get(answer.durability, "none"),
        None,
        int((outcomes == observation_pb2.OUTCOME_CORRECTED).sum()),
        int((outcomes == observation_pb2.OUTCOME_FILLED).sum()),
    )


def stream_reply(
    rows: pl.DataFrame,
    asked: Sequence[str],
    answer: forecast_service_pb2.ObserveResponse | forecast_service_pb2.StreamForecastsResponse,
) -> StreamReply:
    """Return the answer to one frame; `asked` is its series, in their order."""
    failures = {failure.series_id: failure.message for failure in answer.failures}
    return StreamReply(observe_result(rows, answer), forecast_frame(answer.columns, asked), failures)


def series_info(message: forecast_service_pb2.Series) -> SeriesInfo:
    """Return one series' description."""
    return SeriesInfo(
        message.series_id,
        _utc(message.last_observation_time),
        _utc(message.expected_time),
        message.length,
        message.observed_length,
        message.model_name,
        message.model_version,
        message.state_age.ToTimedelta(),
        tuple(_live_scores(score) for score in message.live),
        message.failure,
        {**message.attributes.numbers, **message.attributes.categories},
    )


def _live_scores(message: forecast_service_pb2.LiveScores) -> LiveScores:
    known = {name: getattr(message, name) if message.HasField(name) else None for name in _SCORES}
    return LiveScores(message.horizon, message.scored_count, **known)


def model_info(message: model_service_pb2.Model) -> ModelInfo:
    """Return a model's description."""
    return ModelInfo(
        message.name,
        message.version,
        message.fingerprint,
        message.cell,
        message.step.ToTimedelta(),
        message.horizon,
        tuple(message.quantile_levels),
        tuple(message.season_lengths),
        message.min_history,
        message.max_gap,
        message.state_bytes,
        tuple(message.past_covariates),
        tuple(message.future_covariates),
        tuple(message.static_covariates),
        tuple(message.static_categories),
        message.decoder,
        message.head,
        message.end_of_sequence,
        model_service_pb2.ModelState.Name(message.state).removeprefix("MODEL_STATE_"),
        message.progress,
        message.failure,
        message.registry_failure,
    )


def _utc(stamp: Any) -> dt.datetime:
    return _EPOCH + dt.timedelta(microseconds=stamp.ToMicroseconds())
