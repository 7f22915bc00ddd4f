"""Forecasts of series whose whole past stands in a request: folded on a thread beside, and kept nowhere.

What an engine does, on a storage that keeps nothing: rows are judged, stepped and forecast from as everywhere else.
Knows nothing of messages.

Shapes: R rows.
"""

import asyncio
import dataclasses
import functools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from forecaster.data.grid import Grid
from forecaster.errors import FieldViolation, InvalidArgumentError, UnavailableError
from forecaster.serving.engine.courtesy import Courtesy
from forecaster.serving.engine.engine import Engine
from forecaster.serving.lanes.lane import Lane
from forecaster.serving.storage.records import Columns
from forecaster.serving.storage.volatile import VolatileStorage
from forecaster.serving.work.forecasting import Forecasts
from forecaster.serving.work.observing import ObserveWork

_ROWS = 512  # between two looks whether others wait, or nobody does any more


class Scratch:
    """Makes such forecasts, for one caller after the other.

    Args:
        most_steps: of one request's rows, the missing ones between them too.
    """

    def __init__(self, most_steps: int) -> None:
        self._most_steps = most_steps
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="scratch")

    async def forecast(self, lane: Lane, work: ObserveWork, is_busy: Callable[[], bool]) -> Forecasts:
        """Return what `work.then` asks for, after the rows; cancelled, the work ends soon.

        Args:
            lane: of the version that forecasts; its series are none of these.
            work: all that is known of its series.
            is_busy: whether others wait, who are given way to.

        Raises the first row's error that has one, InvalidArgumentError if there are too many steps, and what
        `Engine.forecast` raises.
        """
        self._check_size(work.columns, lane)
        gone = threading.Event()
        fold = functools.partial(_folded, lane, work, gone, Courtesy(is_busy))
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, fold)
        finally:
            gone.set()

    def _check_size(self, columns: Columns, lane: Lane) -> None:
        steps = steps_of(columns, lane.bundle.grid, lane.bundle.max_gap_steps)
        if steps > self._most_steps:
            what = f"{steps} steps, the missing ones between rows too, {self._most_steps} are allowed: split it"
            raise InvalidArgumentError(f"observations: {what}", [FieldViolation("observations", what)])


def steps_of(columns: Columns, grid: Grid, max_gap_steps: int) -> int:
    """Return about how many steps rows take, the missing ones between them too; never less than they do take."""
    order = np.argsort(columns.series, kind="stable")
    series, time_us = columns.series[order], columns.time_us[order]
    between = grid.index(time_us[:-1], time_us[1:])
    walked = (series[1:] == series[:-1]) & (between > 1) & (between <= max_gap_steps + 1)
    return len(columns) + int((between[walked] - 1).sum())


def _folded(lane: Lane, work: ObserveWork, gone: threading.Event, courtesy: Courtesy) -> Forecasts:
    device = str(lane.store.slab.device)
    engine = Engine(lane.bundle, VolatileStorage(), version=lane.version, device=device)
    done, rows = 0, len(work.columns)
    while done < rows:
        if gone.is_set():
            raise UnavailableError("the caller went away")
        count = min(_ROWS, rows - done)
        part = dataclasses.replace(work, then=None, chain=None, start=done).part(count)
        (answer,) = engine.observe([part])
        if answer.refused is not None:
            raise answer.refused
        if answer.errors:
            raise answer.errors[min(answer.errors)]
        done += count
        courtesy.give_way()
    assert work.then is not None
    return engine.forecast([work.then])[0]
