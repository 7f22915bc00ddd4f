"""What the engine is asked and what it answers.

Knows nothing of messages, states or journals. Observations are asked as `records.Columns`.

Shapes: R rows, N series, D horizon steps, W wanted quantile levels.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from forecaster.errors import ForecasterError
from forecaster.serving.records import IntArray


@dataclass(frozen=True, slots=True)
class Observed:
    """The answer to one request: an outcome for each row, and why rows were refused, by row."""

    outcomes: npt.NDArray[np.uint8]
    errors: dict[int, ForecasterError]


@dataclass(frozen=True, slots=True)
class ForecastWork:
    """One request for forecasts: the series, the steps ahead, the quantile levels."""

    series_ids: tuple[str, ...]
    horizon: int
    levels: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Forecasts:
    """The answer to one request, and why the other series have none.

    Args:
        series_ids: N of them, in the request's order.
        origin_us: int64 [N].
        median: float64 [N, D].
        quantiles: float64 [N, D, W].
    """

    series_ids: tuple[str, ...]
    origin_us: IntArray
    median: npt.NDArray[np.float64]
    quantiles: npt.NDArray[np.float64]
    failures: dict[str, ForecasterError]


@dataclass(frozen=True, slots=True)
class SeriesInfo:
    """One series for `GetSeries`."""

    series_id: str
    clock_us: int
    length: int
    observed_length: int
    age_seconds: float
