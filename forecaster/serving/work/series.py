"""One series as `GetSeries` and metrics describe it: where it stands, and how good its forecasts have been."""

import math
from dataclasses import dataclass

from forecaster.serving.storage.records import Attributes

_LAST = "\U0010ffff"


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
    attributes: Attributes | None = None  # its static covariates; only where a single series is described

    @classmethod
    def lost(cls, series_id: str, version: str, failure: str) -> "SeriesInfo":
        """Return the description of a series whose state cannot be had."""
        return cls(series_id, 0, 0, 0, 0.0, version, (), failure)


def before(prefix: str) -> str:
    """Return an id before all ids with a prefix, by code points, and behind as good as all that are before these."""
    if not prefix:
        return ""
    last = ord(prefix[-1]) - 1
    if last < 0:
        return prefix[:-1]
    return prefix[:-1] + chr(0xD7FF if 0xD800 <= last <= 0xDFFF else last) + _LAST
