"""The engine: judge → journal → step for observations, gather → decode for forecasts, on whole micro-batches.

One thread at a time calls it. It knows nothing of gRPC, asyncio or SQL.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from forecaster.errors import FieldViolation, InternalError, InvalidArgumentError, StorageError
from forecaster.model.bundle import Bundle
from forecaster.model.ragged import Runs, advance
from forecaster.serving import forecasting
from forecaster.serving.admission import Known, Verdict, admit, join
from forecaster.serving.attributes import STATIC, AttributeCoder, digest, in_parts, merged
from forecaster.serving.forecasting import no_series
from forecaster.serving.journal import Journal
from forecaster.serving.records import Attributes, Columns, Deletion, IntArray
from forecaster.serving.replay import Part, read_parts
from forecaster.serving.store import SeriesStore
from forecaster.serving.work import Forecasts, ForecastWork, Observed, ObserveWork, SeriesInfo

_FOR_EVER_US = 2**62
_NO_ROWS = Columns((), np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0))


class Engine:
    """Applies observations to the states of one model and forecasts from them.

    Args:
        bundle: the model.
        journal: where acknowledged observations go first.
        max_series: refuse new series past this many.
        max_ahead_seconds: refuse observations of a time further in the future.
    """

    def __init__(
        self, bundle: Bundle, journal: Journal, *, max_series: int, max_ahead_seconds: float = math.inf
    ) -> None:
        self._bundle, self._model = bundle, bundle.model
        self._journal = journal
        self._store = SeriesStore(bundle)
        self._covariates, self._static = bundle.model.covariates.dynamic, AttributeCoder(bundle)
        self._max_series = max_series
        self._max_ahead_seconds = max_ahead_seconds
        self.broken: Exception | None = None

    def observe(self, requests: Sequence[ObserveWork]) -> list[Observed]:
        """Judge, journal and apply a micro-batch of requests; rows of one series stay in order.

        Raises StorageError, with nothing applied, if the journal cannot be written.
        """
        self._check()
        answers: list[Observed] = []
        for part in in_parts(requests):
            try:
                answers += self._observe(part)
            except StorageError as error:
                if not answers:
                    raise
                answers += [Observed.nothing(error)] * (len(requests) - len(answers))
                break
        return answers

    def _observe(self, requests: Sequence[ObserveWork]) -> list[Observed]:
        refused = [self._nobodys_attributes(request) for request in requests]
        taken = [request for request, error in zip(requests, refused, strict=True) if error is None]
        answered = iter(self._observe_whole(taken) if taken else [])
        return [next(answered) if error is None else Observed.nothing(error) for error in refused]

    def _observe_whole(self, requests: Sequence[ObserveWork]) -> list[Observed]:
        columns, slices = join([request.columns.with_covariates(self._covariates) for request in requests])
        latest_us = min((time.time() + self._max_ahead_seconds) * 1e6, _FOR_EVER_US)
        verdict = self._admit(columns, max(self._max_series - len(self._store), 0), int(latest_us))
        attributes = self._new_attributes(requests, columns, verdict)
        accepted = [_accepted(columns, verdict)] if len(verdict.accepted) else []
        if accepted or attributes is not None:
            self._journal.append(*([] if attributes is None else [attributes]), *accepted)
            self._apply_journaled(columns, verdict, attributes)
        answers = [Observed(verdict.outcomes[rows], {}) for rows in slices]
        starts = [rows.start for rows in slices]
        for row, error in verdict.errors.items():
            which = int(np.searchsorted(starts, row, side="right")) - 1
            answers[which].errors[row - starts[which]] = error
        return answers

    def forecast(self, requests: Sequence[ForecastWork]) -> list[Forecasts]:
        """Forecast a micro-batch of requests together; consumes nothing."""
        self._check()
        return forecasting.forecast(self._model, self._store, requests)

    def describe(self, series_id: str) -> SeriesInfo:
        """Describe one series; raises SeriesNotFoundError."""
        slot = self._store.slot(series_id)
        if slot < 0:
            raise no_series([series_id])
        store = self._store
        return SeriesInfo(
            series_id,
            int(store.clock_us[slot]),
            int(store.position[slot]),
            int(store.observed_count[slot]),
            time.monotonic() - float(store.touched_seconds[slot]),
        )

    def page(self, after: str, size: int) -> tuple[list[SeriesInfo], int]:
        """Return up to `size` series behind `after` by ascending id, and how many there are in all."""
        return [self.describe(i) for i in self._store.page(after, size)], len(self._store)

    def delete(self, series_id: str) -> None:
        """Forget a series, durably; raises SeriesNotFoundError or StorageError."""
        self._check()
        if self._store.slot(series_id) < 0:
            raise no_series([series_id])
        self._journal.append(Deletion(series_id))
        self._store.delete(series_id)

    def recover(self, should_stop: Callable[[], bool] = lambda: False) -> tuple[int, int]:
        """Rebuild every series from snapshots and the journal behind them; return series and rows replayed.

        Raises StorageError if the journal is corrupted or was not written on this model's time grid, and
        UnavailableError soon after `should_stop` says so.
        """
        stands, complete_through = self._store.load_snapshots(self._journal)
        replayed = 0
        for part in read_parts(self._journal, complete_through, stands, should_stop):
            if isinstance(part, Part):
                self._replay(part)
                replayed += part.rows
            elif self._store.slot(part.series_id) >= 0:
                self._store.delete(part.series_id)
        return len(self._store), replayed

    def snapshot(self) -> int:
        """Write every series' state, so that the next start need not replay; return how many."""
        self._check()
        return self._store.save_snapshots(self._journal)

    def sync(self) -> None:
        """Make everything acknowledged so far survive a power cut."""
        self._journal.sync()

    def _check(self) -> None:
        if self.broken is not None:
            raise InternalError("the engine stopped at an earlier defect; restart the server to recover")

    def _admit(self, columns: Columns, room: int, latest_us: int = _FOR_EVER_US) -> Verdict:
        slots = np.array([self._store.slot(i) for i in columns.series_ids], dtype=np.int64)
        exists = slots >= 0
        clocks = np.zeros(len(slots), dtype=np.int64)
        clocks[exists] = self._store.clock_us[slots[exists]]

        def held(series: IntArray, time_us: IntArray) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
            back = (clocks[series] - time_us) // self._bundle.step_us
            found, values = self._store.held(slots[series], back)
            older = np.flatnonzero(~found)  # than the states remember: the journal knows
            if len(older):
                wanted = Columns(columns.series_ids, series[older].astype(np.int32), time_us[older], values[older])
                found[older], values[older] = self._journal.find(wanted)
            return found, values

        known = Known(clocks, exists, held, room, latest_us)
        gap = self._bundle.max_gap_steps
        return admit(columns, known, step_us=self._bundle.step_us, max_gap_steps=gap)

    def _nobodys_attributes(self, request: ObserveWork) -> InvalidArgumentError | None:
        """Return what is wrong with static covariates of a series that does not exist and is not being observed."""
        if request.attributes is None:
            return None
        observed = {request.columns.series_ids[i] for i in np.unique(request.columns.series).tolist()}
        for k, name in enumerate(request.attributes.series_ids):
            if name not in observed and self._store.slot(name) < 0:
                message = f"attributes[{k}]: no series {name!r}, and no observation of it in the request"
                return InvalidArgumentError(message, [FieldViolation(f"attributes[{k}].series_id", message)])
        return None

    def _new_attributes(self, requests: Sequence[ObserveWork], columns: Columns, verdict: Verdict) -> Attributes | None:
        """Return the static covariates that change something: those of series that exist or are about to."""
        given = [request.attributes for request in requests if request.attributes is not None]
        if not given or not self._static:
            return None
        attributes = merged(given)
        begun = {columns.series_ids[i] for i in np.unique(columns.series[verdict.accepted]).tolist()}
        new = [
            k
            for k, name in enumerate(attributes.series_ids)
            if self._changes(name, digest(attributes.numbers[k], attributes.categories[k]), begun)
        ]
        return attributes.of(new) if new else None

    def _changes(self, series_id: str, new: int, begun: set[str]) -> bool:
        slot = self._store.slot(series_id)
        return bool(self._store.static_digest[slot] != new) if slot >= 0 else series_id in begun

    def _apply_journaled(self, columns: Columns, verdict: Verdict, attributes: Attributes | None) -> None:
        """Apply what the journal holds; a failure here leaves memory behind the journal, so nothing may follow."""
        try:
            self._apply(columns, verdict, attributes)
        except Exception as error:
            self.broken = error
            raise

    def _apply(self, columns: Columns, verdict: Verdict, attributes: Attributes | None) -> None:
        """Set static covariates, then step the states by the accepted rows."""
        rows, steps = _since_last_start(columns, verdict)
        series, first = np.unique(columns.series[rows], return_index=True)
        counts = np.diff(np.append(first, len(rows)))
        fresh = steps[first] == 0
        steps = np.where(steps == 0, 1, steps)
        total = np.cumsum(steps)
        before = np.repeat(total[first] - steps[first], counts)
        offsets = total - before - 1
        names = [columns.series_ids[i] for i in series.tolist()]
        unknown = [name for name in names if self._store.slot(name) < 0]
        self._store.create(unknown)
        self._set_attributes(attributes)
        slots = [self._store.slot(name) for name in names]
        start_us = columns.time_us[rows[first]] - (steps[first] - 1) * self._bundle.step_us
        runs = Runs(
            torch.from_numpy(start_us),
            torch.from_numpy(offsets[first + counts - 1] + 1),
            torch.from_numpy(np.repeat(np.arange(len(series)), counts)),
            torch.from_numpy(offsets),
            torch.from_numpy(columns.values[rows]),
            None if columns.covariates is None else torch.from_numpy(columns.covariates[rows]),
        )
        with torch.inference_mode():
            state = self._store.gather(slots)
            for name, tensor in state.items():
                if name not in STATIC:  # what never changes outlasts a long gap
                    tensor[torch.from_numpy(fresh)] = 0  # a fresh series' state is all zeros
            self._store.scatter(slots, advance(self._model, state, runs))

    def _set_attributes(self, attributes: Attributes | None) -> None:
        """Set the static covariates of those series that exist."""
        if attributes is None:
            return
        slots = [self._store.slot(name) for name in attributes.series_ids]
        there = [k for k, slot in enumerate(slots) if slot >= 0]
        attributes = attributes.of(there)
        digests = [digest(*one) for one in zip(attributes.numbers, attributes.categories, strict=True)]
        self._store.set_static([slots[k] for k in there], self._static.encode(attributes), digests)

    def _replay(self, part: Part) -> None:
        attributes = merged(part.attributes) if part.attributes and self._static else None
        if part.rows == 0 and attributes is None:
            return
        columns, _ = join([record.with_covariates(self._covariates) for record in part.columns] or [_NO_ROWS])
        verdict = self._admit(columns, len(columns.series_ids))  # what was acknowledged has its room
        if len(verdict.accepted) != len(columns):
            refused = next(iter(verdict.errors.values()), "a row stands twice")
            raise StorageError(f"the journal does not fit this model or was changed: {refused}")
        self._apply(columns, verdict, attributes)


def _accepted(columns: Columns, verdict: Verdict) -> Columns:
    """Return the accepted rows as a journal record."""
    rows = verdict.accepted
    if len(rows) == len(columns) and len(columns.series_ids) == len(np.unique(columns.series)):
        return columns
    used, series = np.unique(columns.series[rows], return_inverse=True)
    names = tuple(columns.series_ids[i] for i in used.tolist())
    return dataclasses.replace(columns.rows(rows), series_ids=names, series=series.astype(np.int32))


def _since_last_start(columns: Columns, verdict: Verdict) -> tuple[IntArray, IntArray]:
    """Return the accepted rows from each series' last fresh start on, and the steps that they advance."""
    rows, steps = verdict.accepted, verdict.advance
    series = columns.series[rows]
    starts = np.flatnonzero(steps == 0)
    last_start = np.zeros(len(columns.series_ids), dtype=np.int64)
    last_start[series[starts]] = starts  # ascending, so the last one of a series stays
    keep = np.arange(len(rows)) >= last_start[series]
    return rows[keep], steps[keep]
