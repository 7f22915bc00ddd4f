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
from forecaster.serving.storage.records import Columns, IntArray
from forecaster.serving.storage.volatile import VolatileStorage
from forecaster.serving.work.forecasting import Forecasts
from forecaster.serving.work.observing import ObserveWork

_STEPS = 4096  # between two looks whether others wait, or nobody does any more


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
        total = steps_through(work.columns, lane.bundle.grid, lane.bundle.max_gap_steps)
        if len(total) and (steps := int(total[-1])) > self._most_steps:
            what = f"{steps} steps, the missing ones between rows too, {self._most_steps} are allowed: split it"
            raise InvalidArgumentError(f"observations: {what}", [FieldViolation("observations", what)])
        gone = threading.Event()
        fold = functools.partial(_folded, lane, work, total, gone, Courtesy(is_busy))
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, fold)
        finally:
            gone.set()


def steps_through(columns: Columns, grid: Grid, max_gap_steps: int) -> IntArray:
    """Return how many steps the rows take up to each of them, the missing ones before it too, int64 [R]."""
    order = np.argsort(columns.series, kind="stable")
    series, time_us = columns.series[order], columns.time_us[order]
    between = grid.index(time_us[:-1], time_us[1:])
    is_walked = (series[1:] == series[:-1]) & (between > 1) & (between <= max_gap_steps + 1)
    steps = np.ones(len(columns), dtype=np.int64)
    steps[order[1:][is_walked]] = between[is_walked]
    return np.cumsum(steps)


def _folded(lane: Lane, work: ObserveWork, total: IntArray, gone: threading.Event, courtesy: Courtesy) -> Forecasts:
    device = str(lane.store.slab.device)
    engine = Engine(lane.bundle, VolatileStorage(), version=lane.version, device=device)
    done, rows = 0, len(work.columns)
    while done < rows:
        if gone.is_set():
            raise UnavailableError("the caller went away")
        reached = int(total[done - 1]) if done else 0
        count = max(int(np.searchsorted(total, reached + _STEPS, side="right")) - done, 1)
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
