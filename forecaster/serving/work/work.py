"""What the engine is asked and what it answers.

Knows nothing of messages, states or journals.

Shapes: R rows, N series, D horizon steps, W wanted quantile levels, P paths, M series with a future, L steps of it,
F known-future covariates.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from forecaster.errors import ForecasterError, UnavailableError
from forecaster.serving.storage.records import Attributes, Columns, IntArray
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
    """

    columns: Columns
    attributes: Attributes | None = None
    then: "ForecastWork | None" = None
    chain: Chain | None = None
    start: int = 0
    sent_seconds: float = math.inf

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
        return ObserveWork(columns, attributes, None, self.chain, sent_seconds=self.sent_seconds)


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

    def settled(self, found: npt.NDArray[np.bool_], held: npt.NDArray[np.float64]) -> "Observed":
        """Return the answer now that it is known which of the sought rows the journal has, bool [S], float64 [S]."""
        assert self.sought is not None
        outcomes, errors = self.outcomes.copy(), dict(self.errors)
        told, why = self.sought.judged(found, held)
        outcomes[self.sought.rows] = told
        errors |= {int(self.sought.rows[k]): error for k, error in why.items()}
        return dataclasses.replace(self, outcomes=outcomes, errors=errors, sought=None)


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
        start: how many of the series are done, in turns before.
    """

    series_ids: tuple[str, ...]
    horizon: int
    levels: tuple[float, ...]
    futures: tuple[Futures, ...] = ()
    drawing: Sampling | Search | None = None
    calibrated: bool = False
    hypothetical: bool = False
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
        futures = tuple(one.of(places) for one in self.futures)
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


@dataclass(frozen=True, slots=True)
class LiveScores:
    """How good the forecasts that were given of one series at one horizon have been; newer ones weigh more.

    A mean of few scores is mostly chance: of 30 MASE is known to about a fifth, of 100 to a tenth, and coverage to 5
    points.

    Args:
        horizon: steps ahead.
        scored: how many forecasts; without any, the rest is NaN.
        nominal: the coverage that an interval promised; NaN if the model has none.
        mase: mean absolute error over the series' mean absolute change over a season (over a step without any).
        bias: mean of forecast minus actual value, in the same unit.
        coverage: of the model's own interval.
        calibrated_coverage: of the corrected interval.
        mase_median: the median over the series, where the others are means over many; NaN elsewhere.
    """

    horizon: int
    scored: int
    nominal: float
    mase: float
    bias: float
    coverage: float
    calibrated_coverage: float
    mase_median: float = math.nan


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
    failure: str = ""  # why its state cannot be had; then nothing else is known

    @classmethod
    def lost(cls, series_id: str, version: str, failure: str) -> "SeriesInfo":
        """Return the description of a series whose state cannot be had."""
        return cls(series_id, 0, 0, 0, 0.0, version, (), failure)


Work = ObserveWork | ForecastWork | Callable[[], Any]  # what waits for the engine
