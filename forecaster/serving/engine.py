"""The engine: judge → journal → step for observations, gather → decode for forecasts, on whole micro-batches.

One thread at a time calls it. It knows nothing of gRPC, asyncio or SQL.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Sequence
from itertools import islice

import numpy as np
import numpy.typing as npt
import torch

from forecaster.errors import FieldViolation, ForecasterError, InternalError, InvalidArgumentError, StorageError
from forecaster.model.bundle import Bundle
from forecaster.serving.admission import Verdict, join
from forecaster.serving.attributes import merged
from forecaster.serving.calibration import Calibration
from forecaster.serving.counters import WorkDone
from forecaster.serving.forecasting import no_series
from forecaster.serving.isolation import UnwrittenError, observe_in_parts, refusals, refused
from forecaster.serving.lane import Lane
from forecaster.serving.lanes import Lanes
from forecaster.serving.plain_forecasts import uncalibrated
from forecaster.serving.rebuild import refolded
from forecaster.serving.records import Attributes, Columns, Deletion, IntArray, Record
from forecaster.serving.recovery import recover
from forecaster.serving.storage import Storage
from forecaster.serving.store import SeriesStore
from forecaster.serving.work import Forecasts, ForecastWork, Observed, ObserveWork, SeriesInfo

_FOR_EVER_US = 2**62
_Judged = tuple[Lane, Columns, tuple[Verdict, IntArray], Attributes | None]


class Engine:
    """Applies observations to the states of one registered model and forecasts from them.

    Args:
        bundle: the model.
        storage: where acknowledged observations go first, and states that leave memory.
        version: of the registered model.
        max_series: refuse new series past this many.
        max_resident: keep no more states in memory.
        max_ahead_seconds: refuse observations of a time further in the future.
        device: of the states.
    """

    def __init__(
        self,
        bundle: Bundle,
        storage: Storage,
        *,
        version: str = "",
        max_series: int = 2**62,
        max_resident: int = 2**62,
        max_ahead_seconds: float = math.inf,
        device: str = "cpu",
    ) -> None:
        self.storage, self._journal = storage, storage.journal
        self._max_series, self._max_resident, self._device = max_series, max_resident, device
        self._max_ahead_seconds = max_ahead_seconds
        self.lanes = Lanes(self.make_lane(bundle, version))
        self.broken: Exception | None = None
        self.done = WorkDone()

    def make_lane(self, bundle: Bundle, version: str, *, empty: bool = False) -> Lane:
        """Return a lane of this engine's storage and limits; an `empty` one has no series whatever snapshots say."""
        bundle.model.to(self._device)
        calibration = None
        if torch.device(self._device).type == "cpu":  # it is NumPy's
            calibration = Calibration(bundle.model.config, bundle.step_us, bundle.fingerprint)
        store = SeriesStore(
            bundle,
            self.storage.snapshots,
            max_resident=self._max_resident,
            device=self._device,
            calibration=calibration,
            empty=empty,
        )
        lane = Lane(bundle, version, store)
        if empty:
            store.on_lost = functools.partial(self._refold, lane)
        return lane

    def observe(self, requests: Sequence[ObserveWork]) -> list[Observed]:
        """Judge, journal and apply a micro-batch of requests; rows of one series stay in order.

        What the requests ask for afterwards (`then`) is not done here. A request behind one of its chain that failed
        or is refused is refused with the same error; one whose series' states cannot be had is refused alone. Raises
        what `isolation.observe_in_parts` raises.
        """
        return observe_in_parts(requests, self._observe, self._at_hand)

    def forecast(self, requests: Sequence[ForecastWork]) -> list[Forecasts]:
        """Forecast a micro-batch of requests together; consumes nothing."""
        self._begin()
        answers = self.lanes.forecast(requests)
        self.done.forecasts += sum(len(one.series_ids) for one in answers)
        return answers

    def check(self, request: ForecastWork | None) -> None:
        """Raise UnsupportedError for what this engine cannot do, before anything of a request is applied."""
        if (error := uncalibrated(self.lanes.active, request)) is not None:
            raise error

    def describe(self, series_id: str) -> SeriesInfo:
        """Describe one series; raises SeriesNotFoundError."""
        info = self.lanes.of(series_id).describe([series_id])
        if not info:
            raise no_series([series_id])
        return info[series_id]

    def page(self, after: str, size: int) -> tuple[list[SeriesInfo], int]:
        """Return up to `size` series behind `after` by ascending id, and how many there are in all."""
        names = list(islice(self.lanes.page(after), size))
        found: dict[str, SeriesInfo] = {}
        for lane in self.lanes:
            found |= lane.describe([name for name in names if self.lanes.of(name) is lane])
        return [found[name] for name in names if name in found], len(self.lanes)

    def delete(self, series_id: str) -> None:
        """Forget a series, durably; raises SeriesNotFoundError or StorageError."""
        self._begin()
        store = self.lanes.of(series_id).store
        if store.bring([series_id])[0] < 0:
            raise no_series([series_id])
        sequence = self._append(Deletion(series_id))
        self.lanes.deleted(sequence, series_id)
        store.forget([series_id])
        self._keep_up(sequence)

    def recover(self, should_stop: Callable[[], bool] = lambda: False) -> tuple[int, int]:
        """Rebuild every series from snapshots and the journal behind them; return series and rows replayed.

        Raises StorageError if the journal is corrupted or was not written on this model's time grid, and
        UnavailableError soon after `should_stop` says so.
        """
        lane = self.lanes.active
        lane.store.on_lost = functools.partial(self._refold, lane)
        replayed = recover(lane, self.storage, should_stop, self._max_resident)
        self.done.journal_sequence = lane.store.sequence
        return len(self.lanes), replayed

    def snapshot(self) -> int:
        """Write every changed state, so that the next start need not replay; return how many."""
        self._check()
        written = 0
        for lane in self.lanes:
            dirty = lane.store.dirty()
            lane.store.save(dirty)
            written += len(dirty)
        self.lanes.complete(self.storage.snapshots, self._journal.last_sequence())
        self.storage.snapshots.sync()
        return written

    def sync(self) -> None:
        """Make everything acknowledged so far survive a power cut."""
        self._journal.sync()

    def _refold(self, lane: Lane, series_ids: list[str]) -> None:
        """Make series resident whose snapshots turned out to be corrupted: they then stand where the others do."""
        if lane.scoring is not None and lane.scoring.pending:  # the states know of them already
            self._keep_up(self._append())
        through = lane.store.sequence
        found = refolded(lane.bundle, series_ids, self._journal, lane.store.calibration, through=through)
        if found.names:  # while everything is replayed nothing is there yet: it creates them anew
            slots = lane.store.take(found.names, found.state, found.static_digest, found.touched_us)
            lane.store.save(slots)

    def _begin(self) -> None:
        self._check()
        for lane in self.lanes:
            lane.store.begin_turn()

    def _check(self) -> None:
        if self.broken is not None:
            raise InternalError("the engine stopped at an earlier defect; restart the server to recover")

    def _observe(self, requests: Sequence[ObserveWork]) -> list[Observed]:
        self._begin()
        errors = refusals(requests, self._nobodys_attributes)
        taken = [request for request, error in zip(requests, errors, strict=True) if error is None]
        answered = iter(self._observe_whole(taken) if taken else [])
        return [
            next(answered) if error is None else refused(request, error)
            for request, error in zip(requests, errors, strict=True)
        ]

    def _at_hand(self, request: ObserveWork) -> bool:
        """Whether the states of all series of a request are in memory."""
        given = () if request.attributes is None else request.attributes.series_ids
        return all(name in self.lanes.of(name).store.resident for name in (*request.columns.series_ids, *given))

    def _observe_whole(self, requests: Sequence[ObserveWork]) -> list[Observed]:
        covariates = self.lanes.covariates.dynamic  # what another version knows of them is journaled too
        columns, slices = join([request.columns.with_covariates(covariates) for request in requests])
        given = [request.attributes for request in requests if request.attributes is not None]
        attributes = merged(given) if given else None
        outcomes, errors = self._take(columns, attributes)
        answers = [Observed(outcomes[rows], {}) for rows in slices]
        starts = [rows.start for rows in slices]
        for row, error in errors.items():
            which = int(np.searchsorted(starts, row, side="right")) - 1
            answers[which].errors[row - starts[which]] = error
        return answers

    def _take(
        self, columns: Columns, attributes: Attributes | None
    ) -> tuple[npt.NDArray[np.uint8], dict[int, ForecasterError]]:
        """Judge, journal and apply rows; return the outcome of each, and why rows were refused."""
        latest_us = int(min((time.time() + self._max_ahead_seconds) * 1e6, _FOR_EVER_US))
        room = max(self._max_series - len(self.lanes), 0)
        outcomes = np.zeros(len(columns), dtype=np.uint8)
        errors: dict[int, ForecasterError] = {}
        work: list[_Judged] = []
        records: list[Record] = []
        for lane, rows, part, given in self.lanes.split(columns, attributes):
            judged = lane.judge(part, self._journal.find, room=room, latest_us=latest_us)
            verdict = judged[0]
            room -= _new_series(part, *judged) if self.lanes.next is not None else 0  # it is for all lanes together
            outcomes[rows] = verdict.outcomes
            errors |= {int(rows[row]): error for row, error in verdict.errors.items()}
            new = None if given is None else lane.new_attributes(given, part, verdict, self._journal.past_attributes)
            records += [] if new is None else [new]
            records += [_accepted(part, verdict)] if len(verdict.accepted) else []
            lane.store.make_room(part.series_ids)  # what cannot be done must be known before it is journaled
            work.append((lane, part, judged, new))
        if records:
            try:
                sequence = self._append(*records)
            except StorageError as error:
                raise UnwrittenError(error) from error
            self._apply_journaled(work, sequence)
        applied = sum(len(judged[0].accepted) for _, _, judged, _ in work)
        self.done.applied += applied
        self.done.rejected += len(errors)
        self.done.duplicate += len(columns) - applied - len(errors)
        return outcomes, errors

    def _append(self, *records: Record) -> int:
        """Journal records behind the forecasts that were issued before them."""
        scorings = [lane.scoring for lane in self.lanes if lane.scoring is not None]
        sequence = self._journal.append(*(one for scoring in scorings for one in scoring.pending), *records)
        for scoring in scorings:
            scoring.pending.clear()
        self.done.journal_sequence = sequence
        return sequence

    def _keep_up(self, sequence: int) -> None:
        """Note that the states hold all records up to `sequence`."""
        for lane in self.lanes:
            lane.store.sequence = sequence

    def _apply_journaled(self, work: Sequence[_Judged], sequence: int) -> None:
        """Apply what the journal holds; a failure here leaves memory behind the journal, so nothing may follow."""
        try:
            for lane, columns, judged, attributes in work:
                lane.apply(columns, judged, attributes)
            self._keep_up(sequence)
        except Exception as error:
            self.broken = error
            raise

    def _nobodys_attributes(self, request: ObserveWork) -> InvalidArgumentError | None:
        """Return what is wrong with static covariates of a series that does not exist and is not being observed."""
        if request.attributes is None:
            return None
        observed = {request.columns.series_ids[i] for i in np.unique(request.columns.series).tolist()}
        for k, name in enumerate(request.attributes.series_ids):
            if name not in observed and self.lanes.of(name).store.bring([name])[0] < 0:
                message = f"attributes[{k}]: no series {name!r}, and no observation of it in the request"
                return InvalidArgumentError(message, [FieldViolation(f"attributes[{k}].series_id", message)])
        return None


def _new_series(columns: Columns, verdict: Verdict, slots: IntArray) -> int:
    """Return how many series begin with a judgement."""
    begins = np.zeros(len(slots), dtype=bool)
    begins[columns.series[verdict.accepted]] = True
    return int((begins & (slots < 0)).sum())


def _accepted(columns: Columns, verdict: Verdict) -> Columns:
    """Return the accepted rows as a journal record."""
    rows = verdict.accepted
    if verdict.one_step_each and len(columns) == len(columns.series_ids):
        return columns
    seen = np.zeros(len(columns.series_ids), dtype=bool)
    seen[columns.series] = True
    if len(rows) == len(columns) and seen.all():
        return columns
    used, series = np.unique(columns.series[rows], return_inverse=True)
    names = tuple(columns.series_ids[i] for i in used.tolist())
    return dataclasses.replace(columns.rows(rows), series_ids=names, series=series.astype(np.int32))
