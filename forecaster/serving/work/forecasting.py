"""What the engine is asked to forecast, and its answer.

Knows nothing of messages or states.

Shapes: N series, D horizon steps, W wanted quantile levels, P paths, M series with a future, L steps of it,
F known-future covariates.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from forecaster.errors import ForecasterError
from forecaster.serving.storage.records import IntArray


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
    """Most probable paths to search for; see `forecaster.model.decoders.beam`."""

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
        hypothetical: whether the futures are assumptions, so that what comes says nothing of how good the forecast is.
        awaits_corrections: whether states have to know all late and corrected values.
        start: how many of the series are done, in turns before.
    """

    series_ids: tuple[str, ...]
    horizon: int
    levels: tuple[float, ...]
    futures: tuple[Futures, ...] = ()
    drawing: Sampling | Search | None = None
    calibrated: bool = False
    hypothetical: bool = False
    awaits_corrections: bool = False
    start: int = 0

    @property
    def each(self) -> int:
        """About how many series without paths would be as much work as one of these."""
        if self.drawing is None:
            return 1
        return self.drawing.width if isinstance(self.drawing, Search) else self.drawing.paths

    @property
    def weight(self) -> int:
        """About how many series without paths would be as much work."""
        return len(self.series_ids) * self.each

    def part(self, count: int) -> "ForecastWork":
        """Return the request for its next series."""
        if self.start == 0 and count == len(self.series_ids):
            return self
        return self.of(np.arange(self.start, self.start + count))

    def of(self, places: IntArray) -> "ForecastWork":
        """Return the same request for those series at some places, ascending, int64 [N]."""
        ids = tuple(self.series_ids[i] for i in places.tolist())
        futures = tuple(future.of(places) for future in self.futures)
        return dataclasses.replace(self, series_ids=ids, futures=futures, start=0)


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
