"""What the engine is asked and what it answers.

Knows nothing of messages, states or journals.

Shapes: R rows, N series, D horizon steps, W wanted quantile levels, P paths, M series with a future, L steps of it,
F known-future covariates.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from forecaster.errors import ForecasterError, UnavailableError
from forecaster.serving.records import Attributes, Columns, IntArray


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
    """

    columns: Columns
    attributes: Attributes | None = None
    then: "ForecastWork | None" = None
    chain: Chain | None = None


@dataclass(frozen=True, slots=True)
class Observed:
    """The answer to one request: an outcome for each row, and why rows were refused, by row.

    Args:
        outcomes: uint8 [R].
        errors: by row.
        refused: why nothing of the whole request was applied; None if that is not so.
        forecasts: what the request's `then` asked for.
    """

    outcomes: npt.NDArray[np.uint8]
    errors: dict[int, ForecasterError]
    refused: Exception | None = None
    forecasts: "Forecasts | None" = None

    @classmethod
    def nothing(cls, why: Exception) -> "Observed":
        """Return the answer to a request that was refused whole."""
        return cls(np.zeros(0, dtype=np.uint8), {}, why)


@dataclass(frozen=True, slots=True)
class Futures:
    """Known-future covariates of some of a request's series.

    Args:
        series: positions among the request's series, all different, int64 [M].
        timed: whether the first value has a time, or else belongs to the first step ahead, bool [M].
        first_us: that time, int64 [M].
        values: NaN where missing, float64 [M, L, F].
        names: of the covariates; none: they are the model's, in its order.
    """

    series: IntArray
    timed: npt.NDArray[np.bool_]
    first_us: IntArray
    values: npt.NDArray[np.float64]
    names: tuple[str, ...] = ()

    def with_covariates(self, names: tuple[str, ...]) -> "Futures":
        """Return the same with the covariates of these names: others go, those that were not given are NaN."""
        if not self.names or self.names == names:
            return self
        values = np.full((*self.values.shape[:2], len(names)), np.nan)
        for k, name in enumerate(names):
            if name in self.names:
                values[..., k] = self.values[..., self.names.index(name)]
        return dataclasses.replace(self, values=values, names=names)

    def of(self, places: IntArray) -> "Futures":
        """Return those of the series at some places of the request, ascending, int64 [N]."""
        kept = np.flatnonzero(np.isin(self.series, places))
        series = np.searchsorted(places, self.series[kept])
        return Futures(series, self.timed[kept], self.first_us[kept], self.values[kept], self.names)


@dataclass(frozen=True, slots=True)
class Sampling:
    """Paths to draw."""

    paths: int
    seed: int


@dataclass(frozen=True, slots=True)
class Search:
    """Most probable paths to search for; see `forecaster.model.beam`."""

    paths: int
    width: int
    length_power: float


@dataclass(frozen=True, slots=True)
class ForecastWork:
    """One request for forecasts.

    Args:
        series_ids: N of them.
        horizon: steps ahead.
        levels: of the quantiles.
        futures: what is known of the steps ahead; later ones go before earlier ones.
        drawing: which paths are wanted, if any.
        calibrated: whether the quantiles are to be corrected by how often past ones held.
    """

    series_ids: tuple[str, ...]
    horizon: int
    levels: tuple[float, ...]
    futures: tuple[Futures, ...] = ()
    drawing: Sampling | Search | None = None
    calibrated: bool = False

    @property
    def weight(self) -> int:
        """About how many series without paths would be as much work."""
        if self.drawing is None:
            return len(self.series_ids)
        each = self.drawing.width if isinstance(self.drawing, Search) else self.drawing.paths
        return len(self.series_ids) * each

    def of(self, places: IntArray) -> "ForecastWork":
        """Return the same request for those series at some places, ascending, int64 [N]."""
        ids = tuple(self.series_ids[i] for i in places.tolist())
        futures = tuple(one.of(places) for one in self.futures)
        return dataclasses.replace(self, series_ids=ids, futures=futures)


@dataclass(frozen=True, slots=True)
class Drawn:
    """Paths of N series.

    Args:
        values: float64 [N, P, D].
        lengths: int64 [N, P]; a path's values behind its length mean nothing.
        log_probabilities: float64 [N, P], -inf for a path that there is not; None for samples.
    """

    values: npt.NDArray[np.float64]
    lengths: IntArray
    log_probabilities: npt.NDArray[np.float64] | None


@dataclass(frozen=True, slots=True)
class Forecasts:
    """The answer to one request, and why the other series have none.

    Args:
        series_ids: N of them, in the request's order.
        origin_us: int64 [N].
        median: float64 [N, D].
        quantiles: float64 [N, D, W].
        failures: why, by series.
        ended: the probability that the series has ended before a step, float64 [N, D]; None if series do not end.
        drawn: the paths, if they were asked for.
        versions: of the registered model, whose weights made each series' forecast; a single one holds for all.
    """

    series_ids: tuple[str, ...]
    origin_us: IntArray
    median: npt.NDArray[np.float64]
    quantiles: npt.NDArray[np.float64]
    failures: dict[str, ForecasterError]
    ended: npt.NDArray[np.float64] | None = None
    drawn: Drawn | None = None
    versions: tuple[str, ...] = ("",)

    @classmethod
    def nothing(cls, request: ForecastWork, why: ForecasterError) -> "Forecasts":
        """Return the answer to a request of which no series has a forecast."""
        failures: dict[str, ForecasterError] = dict.fromkeys(request.series_ids, why)
        shape = (0, request.horizon)
        return cls((), np.zeros(0, np.int64), np.zeros(shape), np.zeros((*shape, len(request.levels))), failures)


@dataclass(frozen=True, slots=True)
class LiveScores:
    """How good the forecasts that were given of one series at one horizon have been; newer ones weigh more.

    Args:
        horizon: steps ahead.
        scored: how many forecasts; without any, the rest is NaN.
        nominal: the coverage that an interval promised; NaN if the model has none.
        mase: mean absolute error over the series' mean absolute change over a season (over a step without any).
        bias: mean of forecast minus actual value, in the same unit.
        coverage: of the model's own interval.
        calibrated_coverage: of the corrected interval.
    """

    horizon: int
    scored: int
    nominal: float
    mase: float
    bias: float
    coverage: float
    calibrated_coverage: float


@dataclass(frozen=True, slots=True)
class SeriesInfo:
    """One series for `GetSeries`."""

    series_id: str
    clock_us: int
    length: int
    observed_length: int
    age_seconds: float
    version: str = ""
    live: tuple[LiveScores, ...] = ()
