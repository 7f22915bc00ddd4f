"""Which forecasts are scored: origins in time, and what an origin needs to count.

Knows series; knows nothing of models or of forecasts.

Shapes: K origins.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from forecaster.data.windows import Series


@dataclass(frozen=True, slots=True, kw_only=True)
class Origins:
    """Which forecasts are scored.

    Args:
        first_time_us: the first step of the first origin's forecast.
        last_time_us: the first step of the last origin's.
        horizon: steps ahead.
        season: of the seasonal naive, in steps; 1 for none.
        min_history: observed values that an origin needs.
        stride: take every so many steps from the first origin on.
    """

    first_time_us: int
    last_time_us: int
    horizon: int
    season: int
    min_history: int = 1
    stride: int = 1

    def of(self, one_series: Series) -> npt.NDArray[np.int64]:
        """Return the last known step of each origin in a series, [K]."""
        known = np.isfinite(one_series.values).cumsum()
        ahead_us = one_series.grid.next(one_series.time_us)
        usable = (known >= self.min_history) & (ahead_us >= self.first_time_us) & (ahead_us <= self.last_time_us)
        usable &= (ahead_us - self.first_time_us) % (self.stride * one_series.step_us) < one_series.step_us
        return np.flatnonzero(usable).astype(np.int64)
