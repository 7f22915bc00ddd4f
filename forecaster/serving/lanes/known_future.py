"""What requests say of the time ahead, laid on the steps of their forecasts.

Knows nothing of lanes.

Shapes: N series, D horizon steps, F known-future covariates, M series with a future, L steps of it.
"""

import numpy as np
import numpy.typing as npt

from forecaster.data.grid import Grid
from forecaster.serving.storage.records import IntArray
from forecaster.serving.work.forecasting import ForecastWork, Futures

Float64 = npt.NDArray[np.float64]


def known_ahead(
    work: ForecastWork, clocks: IntArray, grid: Grid, names: tuple[str, ...]
) -> tuple[Float64, npt.NDArray[np.bool_]]:
    """Return known-future covariates step by step ahead of the clocks, [N, D, F], and whose times are off the grid.

    Args:
        work: the request, of N series.
        clocks: when each was last observed, int64 [N].
        grid: the model's.
        names: of its known-future covariates.
    """
    ahead = np.full((len(work.series_ids), work.horizon, len(names)), np.nan)
    off_grid = np.zeros(len(work.series_ids), dtype=bool)
    for futures in (future.with_covariates(names) for future in work.futures):
        ahead_us = grid.next(clocks[futures.series])
        off_grid[futures.series] |= futures.timed & ~grid.has(futures.first_us, ahead_us)
        since = grid.index(futures.first_us, ahead_us)
        ahead[futures.series] = _laid_over(ahead[futures.series], futures, np.where(futures.timed, since, 0))
    return ahead, off_grid


def _laid_over(ahead: Float64, futures: Futures, first: IntArray) -> Float64:
    """Return [M, D, F] with the futures' values over it; `first` is what of them is at the first step, int64 [M]."""
    steps = futures.values.shape[1]
    if steps == 0:
        return ahead
    index = first[:, None] + np.arange(ahead.shape[1])  # [M, D]
    values = futures.values[np.arange(len(first))[:, None], index.clip(0, steps - 1)]
    known = ((index >= 0) & (index < steps))[..., None] & np.isfinite(values)
    return np.where(known, values, ahead)
