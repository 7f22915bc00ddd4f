"""One request for forecasts as a lane takes it: which series can be forecast, and what is known of their future.

Shapes: N series, D horizon steps, F known-future covariates, M series with a future.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from forecaster.data.grid import Grid
from forecaster.errors import ForecasterError, InvalidArgumentError
from forecaster.serving.lanes.drawing import unsupported
from forecaster.serving.lanes.lane import Lane
from forecaster.serving.lanes.plain_forecasts import brought, failures
from forecaster.serving.storage.records import IntArray
from forecaster.serving.work.forecasting import ForecastWork, Futures


@dataclass(slots=True)
class Asked:
    """One request: the series that can be forecast, and their futures, float64 [N, D, F]."""

    work: ForecastWork
    failed: dict[str, ForecasterError]
    series_ids: tuple[str, ...]
    slots: IntArray
    future: Tensor | None


def ask(lane: Lane, work: ForecastWork, broken: Mapping[str, ForecasterError]) -> Asked:
    model, store = lane.model, lane.store
    slots, unread = brought(lane, [work.series_ids])
    missing = failures(lane, work.series_ids, slots, work) | unread
    failed = {work.series_ids[at]: error for at, error in missing.items()}
    failed |= {name: broken[name] for name in work.series_ids if name in broken}
    if (error := unsupported(work.drawing, model)) is not None:  # of a request that was checked against another version
        failed = dict.fromkeys(work.series_ids, error)
    future = None
    names = tuple(one.name for one in model.covariates.future)
    if work.futures and names:
        clocks = store.mirrors.clock_us[slots]
        future, off_grid = _ahead(work, clocks, Grid(model.step_us), names)
        for series_id in (work.series_ids[at] for at in np.flatnonzero(off_grid)):
            failed.setdefault(series_id, InvalidArgumentError(f"a future covariate is off the grid of {series_id!r}"))
    kept = [at for at, series_id in enumerate(work.series_ids) if series_id not in failed]
    return Asked(
        work,
        failed,
        tuple(work.series_ids[at] for at in kept),
        slots[kept],
        None if future is None else torch.from_numpy(future[kept]),
    )


def _ahead(
    work: ForecastWork, clocks: npt.NDArray[np.int64], grid: Grid, names: tuple[str, ...]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Return known-future covariates step by step ahead of the clocks, [N, D, F], and whose times are off the grid."""
    ahead = np.full((len(work.series_ids), work.horizon, len(names)), np.nan)
    off_grid = np.zeros(len(work.series_ids), dtype=bool)
    for futures in (future.with_covariates(names) for future in work.futures):
        ahead_us = grid.next(clocks[futures.series])
        off_grid[futures.series] |= futures.timed & ~grid.has(futures.first_us, ahead_us)
        since = grid.index(futures.first_us, ahead_us)
        ahead[futures.series] = _laid_over(ahead[futures.series], futures, np.where(futures.timed, since, 0))
    return ahead, off_grid


def _laid_over(
    ahead: npt.NDArray[np.float64], futures: Futures, first: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Return [M, D, F] with the futures' values over it; `first` is what of them is at the first step, int64 [M]."""
    given = futures.values.shape[1]
    if given == 0:
        return ahead
    index = first[:, None] + np.arange(ahead.shape[1])  # [M, D]
    values = futures.values[np.arange(len(first))[:, None], index.clip(0, given - 1)]
    known = ((index >= 0) & (index < given))[..., None] & np.isfinite(values)
    return np.where(known, values, ahead)
