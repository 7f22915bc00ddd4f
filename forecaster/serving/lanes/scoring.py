"""Joins a lane's calibration with its store: what waits to be scored, and when that is looked at.

Knows slots and the calibration; knows nothing of requests or journals.

Shapes: N series, D steps ahead, Q trained levels.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from forecaster.data.grid import Grid
from forecaster.model.state import State
from forecaster.model.stepping.ragged import Runs
from forecaster.serving.calibration.calibration import Calibration
from forecaster.serving.calibration.live_scores import LiveReport
from forecaster.serving.states.store import SeriesStore
from forecaster.serving.storage.issued import Issued
from forecaster.serving.storage.records import IntArray
from forecaster.serving.work.series import LiveScores

Float64 = npt.NDArray[np.float64]


class Scoring:
    """The scores and corrections of one lane.

    Args:
        calibration: of the model version.
        store: its series, whose states hold the calibration's tensors.
    """

    def __init__(self, calibration: Calibration, store: SeriesStore) -> None:
        self._calibration, self._store = calibration, store
        self._fingerprint = store.cold.fingerprint
        self.pending: list[Issued] = []  # to be journaled before the next observations

    def step(self, slots: IntArray, values: Float64) -> None:
        """Score what waits for the next step of N different series, before their states advance."""
        store, mirrors = self._store, self._store.mirrors
        position = mirrors.position[slots]
        self._calibration.score_step(store.slab.tensors, mirrors.next_target, slots, position, values)

    def scan(self, slots: IntArray, position: IntArray, runs: Runs) -> None:
        """Score what waits for a step of the runs of N different series, before their states advance."""
        store = self._store
        self._calibration.score(store.slab.tensors, store.mirrors.next_target, slots, position, runs)

    def replay(self, slots: IntArray, position: IntArray, runs: Runs, issued: Issued, names: dict[str, int]) -> None:
        """Do what was done while the runs of N different series were observed first, and forecasts were issued.

        Args:
            slots: int64 [N].
            position: steps seen before, int64 [N].
            runs: one of each series.
            issued: in order; of other series too.
            names: the slots of the series that there are.
        """
        store = self._store
        run_of_slot = {slot: run for run, slot in enumerate(slots.tolist())}
        wanted = [names.get(name, -1) for name in issued.series_ids]
        beside = np.array(sorted({slot for slot in wanted if slot >= 0} - set(run_of_slot)), dtype=np.int64)
        run_of_slot |= {slot: len(slots) + k for k, slot in enumerate(beside.tolist())}
        whole = Runs(
            torch.cat(
                [runs.start_us, torch.from_numpy(Grid(self._calibration.step_us).next(store.mirrors.clock_us[beside]))]
            ),
            torch.cat([runs.lengths, torch.zeros(len(beside), dtype=torch.int64)]),
            runs.row_run,
            runs.row_step,
            runs.values,
        )
        every = np.concatenate([slots, beside])
        positions = np.concatenate([position, store.mirrors.position[beside]])
        run_of = np.array([run_of_slot.get(slot, -1) for slot in wanted], dtype=np.int64)
        at, targets = (every, positions), store.mirrors.next_target
        self._calibration.replay(store.slab.tensors, targets, at, whole, issued, run_of)
        store.touch_calibration(every)

    def own(self, parts: Sequence[Issued]) -> Issued | None:
        """Return what of some records this model version issued, as one."""
        mine = [part for part in parts if part.fingerprint == self._fingerprint and len(part)]
        return Issued.joined(mine) if mine else None

    def issue(self, slots: IntArray, quantiles: Float64, ended: Float64, horizons: IntArray) -> None:
        """Remember forecasts that were given.

        Args:
            slots: of N different series, int64 [N].
            quantiles: at the trained levels, float64 [N, D, Q].
            ended: the probability that a series has ended before a step, float64 [N, D].
            horizons: steps that were asked for, int64 [N].
        """
        store, mirrors = self._store, self._store.mirrors
        origins = (mirrors.position[slots], mirrors.clock_us[slots], horizons)
        targets, forecasts = mirrors.next_target, (quantiles, ended)
        issued = self._calibration.issue(store.slab.tensors, targets, slots, forecasts, origins, store.names)
        if issued is not None:
            self.pending.append(issued)
            store.touch_calibration(slots)

    def warm_up(self) -> None:
        """Run the kernels once on a state of their own: the first call in a process loads or compiles them."""
        self._calibration.warm_up(self._store.slab.shape("normalizer"))

    def corrected(self, slots: IntArray, quantiles: Float64, levels: Sequence[float]) -> Float64:
        """Return quantiles at `levels` that hold what these say, float64 [N, D, W]; see `Calibration.corrected`."""
        return self._calibration.corrected(self._store.slab.tensors, slots, quantiles, levels)

    def live(self, tensors: State, slot: int) -> tuple[LiveScores, ...]:
        """Return the live scores of one series."""
        return self._calibration.report(tensors, np.array([slot])).of(0)

    def report(self, first: int, behind: int) -> LiveReport:
        """Return the live scores of the resident series in the slots from `first` on, before `behind`."""
        return self._calibration.report(self._store.slab.tensors, self._store.used_slots(first, behind))
