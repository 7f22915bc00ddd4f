"""The lanes of one registered model: the active one, and while it is being replaced the next one.

Every series belongs to one lane: to the next one if its bucket, a hash of its id, has moved. Knows lanes; knows nothing
of how states are rebuilt or stored.

Shapes: R rows, N series.
"""

import heapq
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from forecaster.errors import FailedPreconditionError
from forecaster.model.bundle import Bundle
from forecaster.serving.calibration.calibration import Calibration
from forecaster.serving.lanes import forecasting
from forecaster.serving.lanes.joining import joined
from forecaster.serving.lanes.known_covariates import united
from forecaster.serving.lanes.lane import Lane
from forecaster.serving.states.amended_series import AmendedRegister
from forecaster.serving.states.buckets import BUCKETS, bucket
from forecaster.serving.states.idle_series import IdleRegister
from forecaster.serving.states.store import SeriesStore
from forecaster.serving.storage.contract import Snapshots
from forecaster.serving.storage.records import Attributes, Columns, IntArray
from forecaster.serving.work.forecasting import Forecasts, ForecastWork
from forecaster.serving.work.series import before


class Lanes:
    """One lane, or two.

    Args:
        active: the one that all series belong to at first.
    """

    def __init__(self, active: Lane) -> None:
        self.active = active
        self.next: Lane | None = None
        self.covariates = active.bundle.model.covariates  # that clients may send
        self.moved = np.zeros(BUCKETS, dtype=bool)  # by bucket: whether its series belong to the next lane
        self.changes = 0  # how often a lane came or went
        # While there is a next lane, every deletion that whoever reads the journal may miss, sequence and series: those
        # that waited for their erasure when it came, and those since. It only grows; another thread reads it.
        self.deletions: list[tuple[int, str]] = []
        self._pruning = threading.Lock()

    def __iter__(self) -> Iterator[Lane]:
        yield self.active
        if self.next is not None:
            yield self.next

    def __len__(self) -> int:
        return sum(len(lane.store) for lane in self)

    def of(self, series_id: str) -> Lane:
        """Return the lane of a series."""
        return self.active if self.next is None or not self.moved[bucket(series_id)] else self.next

    def begin(self, lane: Lane, deletions: Iterable[tuple[int, str]] = ()) -> None:
        """Set a lane beside the active one; no series belongs to it yet. `deletions` are those that wait.

        Raises FailedPreconditionError if there is one already: series belong to it that would be lost.
        """
        if self.next is not None:
            raise FailedPreconditionError(f"version {self.next.version} is not gone yet: try again when it is")
        self.next, self.moved = lane, np.zeros(BUCKETS, dtype=bool)
        self.deletions = list(deletions)
        self.covariates = united(self.covariates, lane.bundle.model.covariates)
        self.changes += 1

    def deleted(self, sequence: int, series_id: str) -> None:
        """Note a deletion, if there is a next lane: its record may be erased before that lane's rebuilding reads it."""
        if self.next is not None:
            self.deletions.append((sequence, series_id))

    def finish(self) -> Lane:
        """Make the next lane the active one and return the former; every bucket has moved."""
        assert self.next is not None
        assert self.moved.all()
        former = self.active
        self._end(self.next)
        return former

    def abandon(self) -> None:
        """Let the next lane go; no bucket has moved."""
        assert not self.moved.any()
        self._end(self.active)

    def prune(self, work: Callable[[], int]) -> int:
        """Do a part of the journal's pruning and return its result, or 0 while there is a next lane; for any thread.

        The next lane's states are rebuilt from records that the active lane's snapshots make unnecessary.
        """
        with self._pruning:
            return 0 if self.next is not None else work()

    def await_pruning(self) -> None:
        """Wait until no part of a pruning is under way that began before there was a next lane; for any thread."""
        with self._pruning:
            pass

    def page(self, after: str, prefix: str = "") -> Iterator[str]:
        """Yield the series with a prefix that are behind `after`, ascending by code points."""
        begin = max(after, before(prefix))
        if self.next is None:
            names = self.active.store.page(begin)
        else:
            names = heapq.merge(*(self._page(lane, begin) for lane in self))
        if not prefix:
            return names
        with_prefix = itertools.dropwhile(lambda name: name < prefix, names)
        return itertools.takewhile(lambda name: name.startswith(prefix), with_prefix)

    def complete(self, snapshots: Snapshots, sequence: int) -> None:
        """Note that the active lane's snapshots hold all records up to `sequence`.

        While it is being replaced nothing is noted: its snapshots do not follow the series that have left it.
        """
        if self.next is None:
            snapshots.complete(self.active.bundle.fingerprint, sequence)

    def split(
        self, columns: Columns, attributes: Attributes | None
    ) -> Iterator[tuple[Lane, IntArray, Columns, Attributes | None]]:
        """Yield for each lane its rows' positions, its rows, and its series' static covariates."""
        if self.next is None:
            yield self.active, np.arange(len(columns)), columns, attributes
            return
        mine = self._mask(columns.series_ids)
        given = [] if attributes is None else [self.of(series_id) is self.next for series_id in attributes.series_ids]
        for lane, which in ((self.active, ~mine), (self.next, mine)):
            rows = np.flatnonzero(which[columns.series]) if len(columns.series_ids) else np.zeros(0, dtype=np.int64)
            some = [k for k, moved in enumerate(given) if moved is (lane is self.next)]
            if len(rows) or some:
                part = None if attributes is None or not some else attributes.of(some)
                yield lane, rows, _of_series(columns, which, rows), part

    def forecast(self, requests: Sequence[ForecastWork]) -> list[Forecasts]:
        """Forecast a micro-batch of requests, each series by the model version whose state it has."""
        if self.next is None:
            return forecasting.forecast(self.active, requests)
        masks = [self._mask(request.series_ids) for request in requests]
        answers: list[list[tuple[IntArray, Forecasts]]] = [[] for _ in requests]
        for lane, moved in ((self.active, False), (self.next, True)):
            places = [np.flatnonzero(mask == moved) for mask in masks]
            asked = [at for at, place in enumerate(places) if len(place)]
            works = [requests[at].of(places[at]) for at in asked]
            for at, answer in zip(asked, forecasting.forecast(lane, works) if works else [], strict=True):
                answers[at].append((places[at], answer))
        return [joined(request, parts) for request, parts in zip(requests, answers, strict=True)]

    def _end(self, active: Lane) -> None:
        """Go on with one of the lanes; nobody asks any more which series began meanwhile."""
        for lane in self:
            lane.store.begun = None
        self.active, self.next, self.deletions = active, None, []
        self.changes += 1

    def _page(self, lane: Lane, after: str) -> Iterator[str]:
        """Yield a lane's series; snapshots of those that have left it may still be there."""
        return (series_id for series_id in lane.store.page(after) if self.of(series_id) is lane)

    def _mask(self, series_ids: Sequence[str]) -> np.ndarray:
        """Return which series belong to the next lane, bool [N]."""
        return self.moved[np.fromiter(map(bucket, series_ids), np.int64, len(series_ids))]


def _of_series(columns: Columns, which: np.ndarray, rows: IntArray) -> Columns:
    """Return some rows with only the series that `which` (bool [S]) marks, to which all of them belong."""
    place = np.cumsum(which) - 1
    names = tuple(name for name, mine in zip(columns.series_ids, which.tolist(), strict=True) if mine)
    part = columns.rows(rows)
    series = place[part.series].astype(np.int32)
    return Columns(names, series, part.time_us, part.values, part.covariate_names, part.covariates)


def make_lane(
    bundle: Bundle,
    version: str,
    *,
    snapshots: Snapshots,
    idle: IdleRegister,
    amended: AmendedRegister,
    max_resident: int = 2**62,
    device: str = "cpu",
    empty: bool = False,
) -> Lane:
    """Return a lane of a storage; an `empty` one has no series whatever snapshots say."""
    bundle.model.to(device)
    calibration = None
    if torch.device(device).type == "cpu":  # it is NumPy's
        calibration = Calibration(bundle.model.config, bundle.step_us, bundle.fingerprint)
    limits: dict[str, Any] = {"max_resident": max_resident, "device": device, "empty": empty}
    return Lane(bundle, version, SeriesStore(bundle, snapshots, calibration=calibration, **limits), idle, amended)
