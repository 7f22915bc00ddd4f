"""The engine: judge → journal → step for observations, gather → decode for forecasts, on whole micro-batches.

One thread at a time calls it. It knows nothing of gRPC, asyncio or SQL.
"""

import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from forecaster.errors import (
    ForecasterError,
    InternalError,
    SeriesNotFoundError,
    StorageError,
    TooLittleHistoryError,
    UnavailableError,
)
from forecaster.model.bundle import Bundle
from forecaster.model.quantiles import interpolate_quantiles
from forecaster.model.ragged import Runs, advance
from forecaster.serving.admission import Known, Verdict, admit, join
from forecaster.serving.journal import Journal
from forecaster.serving.records import Columns, Deletion, IntArray
from forecaster.serving.store import SeriesStore
from forecaster.serving.work import Forecasts, ForecastWork, Observed, SeriesInfo

_REPLAY_ROWS = 262_144
_FOR_EVER_US = 2**62
_DECODE_CELLS = 262_144  # series × steps of one decode


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
        self._max_series = max_series
        self._max_ahead_seconds = max_ahead_seconds
        self.broken: Exception | None = None

    def observe(self, requests: Sequence[Columns]) -> list[Observed]:
        """Judge, journal and apply a micro-batch of requests; rows of one series stay in order.

        Raises StorageError, with nothing applied, if the journal cannot be written.
        """
        self._check()
        columns, slices = join(requests)
        latest_us = min((time.time() + self._max_ahead_seconds) * 1e6, _FOR_EVER_US)
        verdict = self._admit(columns, max(self._max_series - len(self._store), 0), int(latest_us))
        if len(verdict.accepted):
            self._journal.append(_accepted(columns, verdict))
            self._apply_journaled(columns, verdict)
        answers = [Observed(verdict.outcomes[rows], {}) for rows in slices]
        starts = [rows.start for rows in slices]
        for row, error in verdict.errors.items():
            which = int(np.searchsorted(starts, row, side="right")) - 1
            answers[which].errors[row - starts[which]] = error
        return answers

    def forecast(self, requests: Sequence[ForecastWork]) -> list[Forecasts]:
        """Forecast a micro-batch of requests together; consumes nothing."""
        self._check()
        failures: list[dict[str, ForecasterError]] = [self._failures(request) for request in requests]
        wanted = [
            [self._store.slot(i) for i in request.series_ids if i not in failed]
            for request, failed in zip(requests, failures, strict=True)
        ]
        slots = sorted({slot for request in wanted for slot in request})
        trained = self._model.config.quantile_levels
        horizon = max(request.horizon for request in requests)
        at_once = max(_DECODE_CELLS // horizon, 1)
        with torch.inference_mode():
            parts = [slots[i : i + at_once] for i in range(0, len(slots), at_once)] or [[]]
            quantiles = torch.cat([self._model.decode(self._store.gather(part), horizon) for part in parts])
        answers = []
        for request, rows, failed in zip(requests, wanted, failures, strict=True):
            mine = quantiles[np.searchsorted(slots, rows), : request.horizon]
            answers.append(
                Forecasts(
                    tuple(i for i in request.series_ids if i not in failed),
                    self._store.clock_us[rows],
                    mine[..., trained.index(0.5)].numpy(),
                    interpolate_quantiles(mine, trained, request.levels).numpy(),
                    failed,
                )
            )
        return answers

    def describe(self, series_id: str) -> SeriesInfo:
        """Describe one series; raises SeriesNotFoundError."""
        slot = self._store.slot(series_id)
        if slot < 0:
            raise _no_series([series_id])
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
            raise _no_series([series_id])
        self._journal.append(Deletion(series_id))
        self._store.delete(series_id)

    def recover(self, should_stop: Callable[[], bool] = lambda: False) -> tuple[int, int]:
        """Rebuild every series from snapshots and the journal behind them; return series and rows replayed.

        Raises StorageError if the journal is corrupted or was not written on this model's time grid, and
        UnavailableError soon after `should_stop` says so.
        """
        stands, complete_through = self._store.load_snapshots(self._journal)
        waiting: list[Columns] = []
        rows = replayed = 0
        for sequence, record in self._journal.read(complete_through):
            if should_stop():
                raise UnavailableError("the server was told to stop while it recovered")
            if isinstance(record, Deletion):
                self._replay(waiting)
                waiting, rows = [], 0
                known = self._store.slot(record.series_id) >= 0
                if known and stands.get(record.series_id, 0) < sequence:
                    self._store.delete(record.series_id)
                continue
            waiting.append(_behind(record, stands, sequence))
            rows, replayed = rows + len(waiting[-1]), replayed + len(waiting[-1])
            if rows >= _REPLAY_ROWS:
                self._replay(waiting)
                waiting, rows = [], 0
        self._replay(waiting)
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

    def _apply_journaled(self, columns: Columns, verdict: Verdict) -> None:
        """Apply what the journal holds; a failure here leaves memory behind the journal, so nothing may follow."""
        try:
            self._apply(columns, verdict)
        except Exception as error:
            self.broken = error
            raise

    def _apply(self, columns: Columns, verdict: Verdict) -> None:
        """Step the states by the accepted rows."""
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
        slots = [self._store.slot(name) for name in names]
        start_us = columns.time_us[rows[first]] - (steps[first] - 1) * self._bundle.step_us
        runs = Runs(
            torch.from_numpy(start_us),
            torch.from_numpy(offsets[first + counts - 1] + 1),
            torch.from_numpy(np.repeat(np.arange(len(series)), counts)),
            torch.from_numpy(offsets),
            torch.from_numpy(columns.values[rows]),
        )
        with torch.inference_mode():
            state = self._store.gather(slots)
            for tensor in state.values():
                tensor[torch.from_numpy(fresh)] = 0  # a fresh series' state is all zeros
            self._store.scatter(slots, advance(self._model, state, runs))

    def _replay(self, records: Sequence[Columns]) -> None:
        if not any(len(record) for record in records):
            return
        columns, _ = join(records)
        verdict = self._admit(columns, len(columns.series_ids))  # what was acknowledged has its room
        if len(verdict.accepted) != len(columns):
            refused = next(iter(verdict.errors.values()), "a row stands twice")
            raise StorageError(f"the journal does not fit this model or was changed: {refused}")
        self._apply(columns, verdict)

    def _failures(self, request: ForecastWork) -> dict[str, ForecasterError]:
        needed = self._model.config.min_history or 1
        failed: dict[str, ForecasterError] = {}
        for series_id in request.series_ids:
            slot = self._store.slot(series_id)
            if slot < 0:
                failed[series_id] = _no_series([series_id])
            elif self._store.observed_count[slot] < needed:
                failed[series_id] = TooLittleHistoryError(
                    f"series {series_id!r} has {self._store.observed_count[slot]} values; a forecast needs {needed}"
                )
        return failed


def _no_series(series_ids: Sequence[str]) -> SeriesNotFoundError:
    return SeriesNotFoundError(f"no series {', '.join(map(repr, series_ids))}: observe it first", series_ids)


def _accepted(columns: Columns, verdict: Verdict) -> Columns:
    """Return the accepted rows as a journal record."""
    rows = verdict.accepted
    if len(rows) == len(columns) and len(columns.series_ids) == len(np.unique(columns.series)):
        return columns
    used, series = np.unique(columns.series[rows], return_inverse=True)
    names = tuple(columns.series_ids[i] for i in used.tolist())
    return Columns(names, series.astype(np.int32), columns.time_us[rows], columns.values[rows])


def _behind(record: Columns, stands: dict[str, int], sequence: int) -> Columns:
    """Return the rows of a record that their series' snapshots do not hold yet."""
    missing = np.array([stands.get(name, 0) < sequence for name in record.series_ids], dtype=bool)
    if missing.all():
        return record
    rows = missing[record.series]
    return Columns(record.series_ids, record.series[rows], record.time_us[rows], record.values[rows])


def _since_last_start(columns: Columns, verdict: Verdict) -> tuple[IntArray, IntArray]:
    """Return the accepted rows from each series' last fresh start on, and the steps that they advance."""
    rows, steps = verdict.accepted, verdict.advance
    series = columns.series[rows]
    starts = np.flatnonzero(steps == 0)
    last_start = np.zeros(len(columns.series_ids), dtype=np.int64)
    last_start[series[starts]] = starts  # ascending, so the last one of a series stays
    keep = np.arange(len(rows)) >= last_start[series]
    return rows[keep], steps[keep]
