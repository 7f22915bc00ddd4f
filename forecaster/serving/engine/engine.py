"""The engine: judge → journal → step for observations, gather → decode for forecasts, on whole micro-batches.

One thread at a time calls it. It knows nothing of gRPC, asyncio or SQL.
"""

import functools
import math
import time
from collections.abc import Callable, Sequence

from forecaster.errors import InternalError, ReturningError, StateLostError, StorageError
from forecaster.model.bundle import Bundle
from forecaster.serving.counters import WorkDone
from forecaster.serving.engine.isolation import UnwrittenError, observe_in_parts, refusals, refused
from forecaster.serving.engine.late_values import LateValues, late_steps
from forecaster.serving.engine.micro_batch import Limits, MicroBatch, ended, judged, unbegun
from forecaster.serving.engine.needs import at_hand, cost, nobodys_attributes, row_costs
from forecaster.serving.engine.recent_deletions import RecentDeletions
from forecaster.serving.engine.turns import HELD_BACK, Turn
from forecaster.serving.engine.watches import Watches
from forecaster.serving.lanes.description import unknown
from forecaster.serving.lanes.forecastable import uncalibrated
from forecaster.serving.lanes.lane import Lane
from forecaster.serving.lanes.lanes import Lanes, make_lane
from forecaster.serving.lanes.listing import describe_one, page
from forecaster.serving.rebuilding.recovery import recover
from forecaster.serving.rebuilding.refolding import take_refolded
from forecaster.serving.states.amended_series import AmendedRegister
from forecaster.serving.states.idle_series import IdleRegister
from forecaster.serving.storage.contract import Storage
from forecaster.serving.storage.records import Deletion, Record
from forecaster.serving.work.forecasting import Forecasts, ForecastWork
from forecaster.serving.work.observing import Observed, ObserveWork
from forecaster.serving.work.series import SeriesInfo

_FOR_EVER_US = 2**62


class Engine:
    """Applies observations to the states of one registered model and forecasts from them.

    Args:
        bundle: the model.
        storage: where acknowledged observations go first, and states that leave memory.
        version: of the registered model.
        max_series: refuse new series past this many.
        max_resident: keep no more states in memory.
        max_ahead_seconds: refuse observations of a time further in the future.
        late_steps: take missing values no later, see `late_values.late_steps`; -1: none, and no corrections.
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
        late_steps: int | None = None,
        device: str = "cpu",
    ) -> None:
        self.storage, self._journal = storage, storage.journal
        self._max_series, self._max_resident, self._max_ahead_seconds = max_series, max_resident, max_ahead_seconds
        self.idle, self.amended = IdleRegister(storage.snapshots), AmendedRegister(storage.snapshots)
        made = functools.partial(make_lane, snapshots=storage.snapshots, idle=self.idle, amended=self.amended)
        self._make_lane = functools.partial(made, max_resident=max_resident, device=device)
        self.lanes = Lanes(self.make_lane(bundle, version))
        keeps_all = storage.keeps_records and not storage.journal.dropped()
        self._late_steps = late_steps if keeps_all else -1
        self.done, self._recent_deletions, self.watches = WorkDone(), RecentDeletions(), Watches()
        beside = (self.idle, self.amended, self._journal, self._write_late, self.done)
        self.late_values = LateValues(self.lanes, *beside)
        self.broken: Exception | None = None
        self._journal_seconds = 0.0  # that appends have taken

    def make_lane(self, bundle: Bundle, version: str, *, empty: bool = False) -> Lane:
        """Return a lane of this engine's storage and limits; an `empty` one has no series whatever snapshots say."""
        lane = self._make_lane(bundle, version, empty=empty)
        if empty:
            lane.store.on_lost = functools.partial(self._refold, lane)
        return lane

    def observe(self, requests: Sequence[ObserveWork]) -> list[Observed]:
        """Judge, journal and apply a micro-batch of requests; rows of one series stay in order.

        What the requests ask for afterwards (`then`) is not done here. A request behind one of its chain that failed
        or is refused is refused with the same error; one whose series' states cannot be had is refused alone. Raises
        what `isolation.observe_in_parts` raises.
        """
        return [self.late_values.looked_up(answer) for answer in self.advance(requests, Turn())]

    def advance(self, requests: Sequence[ObserveWork], turn: Turn) -> list[Observed]:
        """Do as much of `observe` as a turn may take on; what the answers leave open, `is_whole` and `sought` say.

        Args:
            requests: the first of them gets on in any case.
            turn: spent by it.
        """
        try:
            answers = observe_in_parts(
                requests, functools.partial(self._observe, turn), functools.partial(at_hand, self.lanes)
            )
        except ReturningError:
            self.idle.on_asked(list(requests[0].series_ids()))  # an only one
            raise
        for request, answer in zip(requests, answers, strict=True) if self.idle else ():
            if isinstance(answer.refused, ReturningError):  # with all that it will need
                self.idle.on_asked(list(request.series_ids()))
        return answers

    def forecast(self, requests: Sequence[ForecastWork]) -> list[Forecasts]:
        """Forecast a micro-batch of requests together; consumes nothing."""
        self._begin()
        answers = self.lanes.forecast(requests)
        self.done.forecasts += sum(len(answer.series_ids) for answer in answers)
        return answers

    def check(self, request: ForecastWork | None) -> None:
        """Raise UnsupportedError for what this engine cannot do, before anything of a request is applied."""
        if (error := uncalibrated(self.lanes.active, request)) is not None:
            raise error

    def describe(self, series_id: str) -> SeriesInfo:
        """Describe one series, with its static covariates; raises SeriesNotFoundError."""
        return describe_one(self.lanes, self._journal, series_id)

    def page(self, after: str, size: int, prefix: str = "") -> tuple[list[SeriesInfo], int]:
        """Return up to `size` series with a prefix, behind `after` by ascending id, and how many there are in all."""
        return page(self.lanes, after, size, prefix), len(self.lanes)

    def delete(self, series_id: str) -> None:
        """Forget a series, durably; raises SeriesNotFoundError or StorageError."""
        self._begin()
        store, is_idle = self.lanes.of(series_id).store, False
        try:
            if store.bring([series_id])[0] < 0 and not (is_idle := bool(self.idle.among([series_id]))):
                raise unknown(self.lanes.of(series_id), [series_id])[0]
        except StateLostError:  # nothing of it is needed any more
            pass
        sequence = self._append(Deletion(series_id))
        self.lanes.deleted(sequence, series_id)
        self.amended.deleted(series_id, sequence)
        self._recent_deletions.add(series_id)
        if is_idle:
            self.idle.deleted(series_id)
        else:
            store.forget([series_id])
        self._keep_up(sequence)
        self.watches.note([series_id])

    def recover(self, should_stop: Callable[[], bool] = lambda: False) -> tuple[int, int]:
        """Rebuild every series from snapshots and the journal behind them; return series and rows replayed.

        Raises StorageError if the journal is corrupted or was not written on this model's time grid, and
        UnavailableError soon after `should_stop` says so.
        """
        lane = self.lanes.active
        lane.store.on_lost = functools.partial(self._refold, lane)
        replayed = recover(lane, self.storage, should_stop, self._max_resident, self.amended.note)
        self.done.journal_sequence = lane.store.sequence
        self.idle.recount()
        return len(self.lanes), replayed

    def snapshot(self) -> int:
        """Write every changed state, so that the next start need not replay; return how many."""
        self._check()
        written = 0
        for lane in self.lanes:
            dirty = lane.store.dirty()
            lane.store.save(dirty)
            written += len(dirty)
        self.complete(self._journal.last_sequence())
        self.storage.snapshots.sync()
        return written

    def complete(self, sequence: int) -> None:
        """Note that the active lane's snapshots hold all records up to `sequence`, but for what waits to be folded."""
        self.amended.save()
        self.lanes.complete(self.storage.snapshots, sequence)

    def sync(self) -> None:
        """Make everything acknowledged so far last."""
        self._journal.sync()

    def settle(self) -> None:
        """Journal the forecasts that were issued: the states know of them already. Raises StorageError."""
        if any(lane.scoring is not None and lane.scoring.pending for lane in self.lanes):
            self._keep_up(self._append())

    def _refold(self, lane: Lane, series_ids: list[str]) -> None:
        self.settle()
        take_refolded(lane, series_ids, self._journal)

    def _begin(self) -> None:
        self._check()
        for lane in self.lanes:
            lane.store.begin_turn()

    def _check(self) -> None:
        if self.broken is not None:
            raise InternalError("the engine stopped at an earlier defect; restart the server to recover")

    def _observe(self, turn: Turn, requests: Sequence[ObserveWork]) -> list[Observed]:
        self._begin()
        errors = refusals(requests, functools.partial(nobodys_attributes, self.lanes, self.idle))
        taken = [request for request, error in zip(requests, errors, strict=True) if error is None]
        answered = iter(self._observe_some(taken, turn) if taken else [])
        return [
            next(answered) if error is None else refused(request, error)
            for request, error in zip(requests, errors, strict=True)
        ]

    def _observe_some(self, requests: Sequence[ObserveWork], turn: Turn) -> list[Observed]:
        """Observe as much of some requests as the turn may take on."""
        began, waited = turn.clock(), self._journal_seconds
        with turn.attempt():
            counts = turn.by_rows(requests, functools.partial(row_costs, self.lanes, self.idle))
            try:
                batch = self._judge(requests, counts)
            except (ReturningError, StateLostError):  # to find that out has cost something
                turn.spend(
                    sum(cost(self.lanes, self.idle, *request) for request in zip(requests, counts, strict=True)), 0
                )
                raise
            if (steps := batch.missing_steps()).sum() > turn.steps - turn.steps_done:
                counts = turn.by_steps(requests, counts, [steps[rows] for rows in batch.slices])
                batch = self._judge(requests, counts)
                steps = batch.missing_steps()
            answered = iter(self._take(batch))
        turn.spend(batch.rows, int(steps.sum()))
        turn.seconds += turn.clock() - began - (self._journal_seconds - waited)
        return [
            unbegun() if count == HELD_BACK else ended(next(answered), request, count)
            for request, count in zip(requests, counts, strict=True)
        ]

    def _judge(self, requests: Sequence[ObserveWork], counts: Sequence[int]) -> MicroBatch:
        """Judge so many rows of each request."""
        parts = [request.part(count) for request, count in zip(requests, counts, strict=True) if count != HELD_BACK]
        latest_us = int(min((time.time() + self._max_ahead_seconds) * 1e6, _FOR_EVER_US))
        room = max(self._max_series - len(self.lanes), 0)
        past = self._journal.past_attributes
        limits = Limits(room, latest_us, functools.partial(late_steps, wanted=self._late_steps))
        return judged(self.lanes, parts, past, self._recent_deletions, limits)

    def _take(self, batch: MicroBatch) -> list[Observed]:
        """Journal and apply what was judged; return the answer to each of its requests."""
        records = batch.records()
        for part in batch.parts:  # what cannot be done must be known before it is journaled
            part.lane.store.make_room(part.columns.series_ids)
        answers = batch.answers()
        if records:
            began = time.thread_time()
            try:
                sequence = self._append(*records)
            except StorageError as error:
                raise UnwrittenError(error) from error
            self._journal_seconds += time.thread_time() - began
            self._apply_journaled(batch, sequence)
        self.done.applied += batch.applied
        self.done.reject(batch.errors())
        self.done.duplicate += batch.duplicate
        return answers

    def _append(self, *records: Record) -> int:
        """Journal records behind the forecasts that were issued before them."""
        scorings = [lane.scoring for lane in self.lanes if lane.scoring is not None]
        sequence = self._journal.append(*(one for scoring in scorings for one in scoring.pending), *records)
        for scoring in scorings:
            scoring.pending.clear()
        self.done.journal_sequence = sequence
        return sequence

    def _write_late(self, record: Record) -> int:
        """Journal late and corrected values, which no state takes as they are; return their sequence."""
        self._begin()
        sequence = self._append(record)
        self._keep_up(sequence)
        return sequence

    def _keep_up(self, sequence: int) -> None:
        """Note that the states hold all records up to `sequence`."""
        for lane in self.lanes:
            lane.store.sequence = sequence

    def _apply_journaled(self, batch: MicroBatch, sequence: int) -> None:
        """Apply what the journal holds; a failure here leaves memory behind the journal, so nothing may follow."""
        try:
            for part in batch.parts:
                part.lane.apply(part.columns, (part.verdict, part.slots), part.attributes)
            self._keep_up(sequence)
        except Exception as error:
            self.broken = error
            raise
        if self.watches:
            self.watches.note(name for part in batch.parts for name in part.changed())
