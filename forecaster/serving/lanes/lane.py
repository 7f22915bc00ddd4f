"""The states of one model version: judges observations against them, advances them, and replays records.

A server has one lane of each model that it serves, and two while a model is being replaced. Knows nothing of journals,
gRPC or asyncio.

Shapes: R rows, N series.
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from forecaster.errors import BrokenStateError, ForecasterError
from forecaster.model.bundle import Bundle
from forecaster.model.stepping.ragged import Runs, advance
from forecaster.model.stepping.stepping import Stepper
from forecaster.serving.lanes.attributes import STATIC, AttributeCoder, digest
from forecaster.serving.lanes.lane_rows import runs_of, since_last_start
from forecaster.serving.lanes.scoring import Scoring
from forecaster.serving.states.amended_series import AmendedRegister
from forecaster.serving.states.idle_series import IdleRegister
from forecaster.serving.states.store import SeriesStore
from forecaster.serving.storage.issued import Issued
from forecaster.serving.storage.records import Attributes, Columns, IntArray
from forecaster.serving.telemetry import LOGGER
from forecaster.serving.work.admission import Known, admit
from forecaster.serving.work.outcome import Verdict

Past = Callable[[Sequence[str]], Sequence[Attributes]]
_FEW_STEPS = 8  # of a run: steps in place cost less than a scan, which takes states out and puts them back
_SCANNED_AT_ONCE = 4096  # series: their states are held three times meanwhile
_MOST_NAMED = 10  # series, in a line of the log


class Lane:
    """One model version with its series.

    Args:
        bundle: the model.
        version: of the registered model.
        store: its series.
        idle: those that come back when they are observed; None if there can be none.
        amended: those of whose past the states do not know all; None if there can be none.
    """

    def __init__(
        self,
        bundle: Bundle,
        version: str,
        store: SeriesStore,
        idle: IdleRegister | None = None,
        amended: AmendedRegister | None = None,
    ) -> None:
        self.bundle, self.version, self.store = bundle, version, store
        self.model = bundle.model
        self.stepper = Stepper(bundle.model)
        self.covariates, self.static = bundle.model.covariates.dynamic, AttributeCoder(bundle)
        self.idle, self.amended = idle, amended
        self.scoring = None if store.calibration is None else Scoring(store.calibration, store)
        self.steps = 0  # that were computed, missing ones too

    def warm_up(self) -> None:
        """Run the compiled kernels once on states of their own: the first call in a process compiles or loads them."""
        self.stepper.warm_up()
        if self.scoring is not None:
            self.scoring.warm_up()

    def judge(
        self,
        columns: Columns,
        *,
        room: int,
        latest_us: int = 2**63 - 1,
        replaces: npt.NDArray[np.bool_] | None = None,
    ) -> tuple[Verdict, IntArray]:
        """Judge rows against the series' clocks and memories; return the slots of the series too, -1 for new ones.

        Changes nothing. What is older than the states remember is left to who can look it up, see `Verdict.sought`.
        Raises what `SeriesStore.bring` and `IdleRegister.want` raise.

        Args:
            columns: the rows.
            room: how many new series fit.
            latest_us: a later time is a mistake.
            replaces: which rows are to replace what was said of their times, bool [R]; None for none.
        """
        store, grid = self.store, self.bundle.grid
        slots = store.bring(columns.series_ids)
        exists = slots >= 0
        if self.idle and not exists.all():
            self.idle.want([columns.series_ids[i] for i in np.flatnonzero(~exists).tolist()])
        clocks = (
            np.where(exists, store.mirrors.clock_us[slots], 0)
            if len(store.mirrors.clock_us)
            else np.zeros(len(slots), np.int64)
        )

        def held(series: IntArray, time_us: IntArray) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
            found, values = store.held(slots[series], grid.index(time_us, clocks[series]))
            if not found.all():  # before any row is judged one by one
                raise _ForgottenError
            return found, values

        known = Known(clocks, exists, held, room, latest_us)
        judge = functools.partial(admit, known=known, grid=grid, max_gap_steps=self.bundle.max_gap_steps)
        doubted = [] if self.amended is None else self.amended.places(columns.series_ids)
        if replaces is None and not doubted:
            try:
                return judge(columns), slots
            except _ForgottenError:
                pass
        clock_us, time_us = clocks[columns.series], columns.time_us
        old = np.flatnonzero(exists[columns.series] & (time_us <= clock_us) & grid.has(time_us, clock_us))
        back = grid.index(time_us[old], clock_us[old])
        is_sought = ~store.held(slots[columns.series[old]], back)[0]
        if replaces is not None:
            is_sought |= replaces[old]
        if doubted:
            is_sought |= np.isin(columns.series[old], doubted)
        keys = np.stack([columns.series[old], time_us[old]], axis=1)
        of_time = np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1)
        is_sought |= np.isin(of_time, of_time[is_sought])  # whoever says something of the same time
        sought = old[is_sought]
        others = np.setdiff1d(np.arange(len(columns)), sought, assume_unique=True)
        verdict = judge(columns.rows(others), replaces=None if replaces is None else replaces[others])
        return verdict.among(others, sought, len(columns)), slots

    def new_attributes(
        self, attributes: Attributes, columns: Columns, verdict: Verdict, past: Past
    ) -> Attributes | None:
        """Return the static covariates that change something: those of series that exist or are about to.

        With rows of which none is applied, a series does not get back what it had before: it is a late repetition.

        Args:
            attributes: given before all of the rows.
            columns: all rows that were given with them, in one request for each series.
            verdict: on the rows.
            past: looks up what series ever had.
        """
        if not self.static and not any(attributes.numbers) and not any(attributes.categories):
            return None  # a version that knows none keeps them for others
        with_rows = {columns.series_ids[i] for i in np.unique(columns.series).tolist()}
        begun = {columns.series_ids[i] for i in np.unique(columns.series[verdict.accepted]).tolist()}
        slots = self.store.bring(attributes.series_ids)
        new: dict[int, int] = {}
        for k, (name, slot) in enumerate(zip(attributes.series_ids, slots.tolist(), strict=True)):
            given = digest(attributes.numbers[k], attributes.categories[k])
            if self.store.mirrors.static_digest[slot] != given if slot >= 0 else name in begun:
                new[k] = given
        doubtful = {name: k for k in new if (name := attributes.series_ids[k]) in with_rows - begun}
        for one in past(list(doubtful)) if doubtful else ():
            k = doubtful[one.series_ids[0]]
            if new.get(k) == digest(one.numbers[0], one.categories[0]):
                del new[k]
        return attributes.of(new) if new else None

    def apply(
        self,
        columns: Columns,
        judged: tuple[Verdict, IntArray],
        attributes: Attributes | None = None,
        issued: Issued | None = None,
    ) -> None:
        """Set static covariates, then step the states by the accepted rows; `issued` is what was on the way.

        Args:
            columns: the rows.
            judged: what `judge` said of them, in the same turn.
            attributes: static covariates that hold from before the rows on.
            issued: of this model version, in order.
        """
        verdict, slots = judged
        columns = columns.with_covariates(self.covariates)
        if verdict.one_step_each and issued is None:
            if attributes is not None:
                self.set_attributes(attributes)
            self._one_step(slots[columns.series], columns)
            return
        rows, steps = since_last_start(columns, verdict)
        by_row = columns.series[rows]  # ascending
        first = np.flatnonzero(np.diff(by_row, prepend=-1))
        series = by_row[first]
        if (slots[series] < 0).any():
            unknown = series[slots[series] < 0]
            slots[unknown] = self.store.create([columns.series_ids[i] for i in unknown.tolist()])
        if attributes is not None:
            self.set_attributes(attributes)
        slots = slots[series]
        scoring = self.scoring
        if len(rows) == len(series) and issued is None and (steps == 1).all():  # as a rule
            self._one_step(slots, columns.rows(rows))
            return
        runs = runs_of(columns, rows, steps, first, self.bundle.grid)
        fresh = steps[first] == 0
        if fresh.any():
            self.store.clear(slots[fresh], keep=STATIC)  # what never changes outlasts a long gap
        position = np.where(fresh, 0, self.store.mirrors.position[slots])
        if scoring is not None and issued is not None:
            scoring.replay(slots, position, runs, issued, self.store.resident)
        elif scoring is not None:
            scoring.scan(slots, position, runs)
        if len(rows):
            self._advance(slots, columns, rows, steps, first, runs)
            self.steps += int(runs.lengths.sum())

    def set_attributes(self, attributes: Attributes) -> None:
        """Set the static covariates of those series that exist."""
        slots = self.store.bring(attributes.series_ids)
        there = np.flatnonzero(slots >= 0)
        attributes = attributes.of(there.tolist())
        digests = [digest(*one) for one in zip(attributes.numbers, attributes.categories, strict=True)]
        if len(there):
            self.store.set_static(slots[there], self.static.encode(attributes), digests)

    def restart(self, slots: IntArray) -> dict[str, ForecasterError]:
        """Let series whose states cannot be forecast from start afresh; return what is told of each.

        No record says so: a crash before their next snapshot finds them broken again, and the next forecast starts them
        afresh again.
        """
        names, version = self.store.names(slots), self.version or self.bundle.fingerprint[:12]
        self.store.restart(slots, keep=STATIC)
        LOGGER.warning(
            "%d series start afresh, their states under version %s are not finite: %s",
            len(names),
            version,
            ", ".join(map(repr, names[:_MOST_NAMED])),
        )
        needed = self.model.config.min_history or 1
        return {
            name: BrokenStateError(
                f"version {version} makes no finite forecast of series {name!r}: it starts afresh, and can be"
                f" forecast again after {needed} values"
            )
            for name in names
        }

    def _advance(
        self, slots: IntArray, columns: Columns, rows: IntArray, steps: IntArray, first: IntArray, runs: Runs
    ) -> None:
        """Advance N different series by their runs: those of a few steps one by one, the others by a scan.

        Compiled kernels do all of it where the states lie, which costs a third of the scan's time.
        """
        counts = np.diff(np.append(first, len(rows)))
        if self.stepper.steps_packed:
            self.stepper.run(self.store.slab.tensors, slots, runs)
            last = rows[first + counts - 1]
            seen = np.add.reduceat(np.isfinite(columns.values[rows]), first, dtype=np.int64)
            self.store.advanced(slots, columns.time_us[last], runs.lengths.numpy(), seen)
            return
        # A series that starts afresh with its first row has been cleared: it is one step from there.
        few = np.logical_and.reduceat(steps <= 1, first) & (counts <= _FEW_STEPS)
        for k in range(counts[few].max(initial=0)):
            some = np.flatnonzero(few & (counts > k))
            self._step(slots[some], columns.rows(rows[first[some] + k]))
        many = np.flatnonzero(~few)
        for start in range(0, len(many), _SCANNED_AT_ONCE):
            some = many[start : start + _SCANNED_AT_ONCE]
            with torch.inference_mode():
                state = advance(self.model, self.store.gather(slots[some]), runs.of(torch.from_numpy(some)))
                self.store.scatter(slots[some], state)
            self.store.changed(slots[some])

    def _one_step(self, slots: IntArray, columns: Columns) -> None:
        """Score what N different series wait for and advance each by its row."""
        self.steps += len(slots)
        if self.scoring is not None:
            self.scoring.step(slots, columns.values)
        self._step(slots, columns)

    def _step(self, slots: IntArray, columns: Columns) -> None:
        """Advance each of N different series by its row, one step, in place."""
        time_us, values = columns.time_us, columns.values
        self.stepper.advance(self.store.slab.tensors, slots, time_us, values, columns.covariates)
        one = np.ones(len(slots), dtype=np.int64)
        self.store.advanced(slots, time_us, one, np.isfinite(values).astype(np.int64))


class _ForgottenError(Exception):
    """Rows are older than what the states remember."""
