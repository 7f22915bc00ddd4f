"""The states of the resident series: a slab of memory, and mirrors of what the host has to know of each slot.

Knows slots; knows nothing of snapshots, or of who becomes resident and who has to leave.

Shapes: N series.
"""

import time
from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt
import torch

from forecaster.model.bundle import Bundle
from forecaster.model.state import State, StateSpec
from forecaster.serving.calibration.calibration import Calibration
from forecaster.serving.states.mirrors import Mirrors
from forecaster.serving.states.slab import Slab
from forecaster.serving.storage.records import IntArray


class Residents:
    """The resident series of one model version.

    Args:
        bundle: the model whose states these are.
        max_resident: of the slab.
        device: of the slab.
        calibration: whose tensors stand beside the model's; None for none.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        max_resident: int = 2**62,
        device: torch.device | str = "cpu",
        calibration: Calibration | None = None,
    ) -> None:
        self._model_names = [tensor.name for tensor in bundle.model.state_spec]
        self._memory: int = {tensor.name: tensor.shape for tensor in bundle.model.state_spec}["ring"][0]
        self.calibration = calibration
        self.spec = StateSpec([*bundle.model.state_spec, *(calibration.spec if calibration else ())])
        self._max_resident = max_resident
        self.slab = Slab(self.spec, device, max_slots=max_resident)
        self.mirrors = Mirrors()
        self._slots: dict[str, int] = {}

    @property
    def memory(self) -> int:
        """How many values a state remembers."""
        return self._memory

    @property
    def max_resident(self) -> int:
        """The most series that may be resident."""
        return self._max_resident

    @property
    def resident(self) -> dict[str, int]:
        """The resident series and their slots; to be read only."""
        return self._slots

    def count_on(self, slots: IntArray, position: IntArray, observed_count: IntArray) -> None:
        """Set how many steps series have seen, and how many of them had a value, int64 [N] each."""
        counts = {"position": torch.from_numpy(position), "observed_count": torch.from_numpy(observed_count)}
        self.slab.scatter(torch.from_numpy(slots).to(self.slab.device), counts)
        self.mirrors.position[slots], self.mirrors.observed_count[slots] = position, observed_count

    def gather(self, slots: IntArray) -> State:
        """Return a copy of the model's states in `slots`."""
        rows = torch.from_numpy(slots).to(self.slab.device)
        return {name: self.slab.tensors[name].index_select(0, rows) for name in self._model_names}

    def gather_whole(self, slots: IntArray) -> State:
        """Return a copy of the states in `slots`, the calibration's tensors among them."""
        return self.slab.gather(torch.from_numpy(slots).to(self.slab.device))

    def clear(self, slots: IntArray, keep: Collection[str]) -> None:
        """Let series start afresh, but for some tensors."""
        rows = torch.from_numpy(slots).to(self.slab.device)
        for name, tensor in self.slab.tensors.items():
            if name not in keep:
                tensor[rows] = 0
        self.mirrors.clear(slots)

    def stand_at(self, slots: IntArray, clock_us: IntArray) -> None:
        """Set the time of the last step of series that have seen none, int64 [N]."""
        self.slab.scatter(torch.from_numpy(slots).to(self.slab.device), {"time_us": torch.from_numpy(clock_us)})
        self.mirrors.clock_us[slots] = clock_us

    def restart(self, slots: IntArray, keep: Collection[str]) -> None:
        """Let series start afresh behind their last step, but for some tensors: they stand where they stood."""
        clocks = self.mirrors.clock_us[slots]
        self.clear(slots, {*keep, "time_us"})
        self.mirrors.clock_us[slots], self.mirrors.dirty[slots] = clocks, True

    def broken(self, slots: IntArray) -> IntArray:
        """Return those of the slots whose states hold numbers that are not finite."""
        if not len(slots):
            return slots
        state = self.gather_whole(slots)
        sound = np.ones(len(slots), dtype=bool)
        for tensor in state.values():
            if tensor.is_floating_point():
                sound &= torch.isfinite(tensor).reshape(len(slots), -1).all(dim=1).cpu().numpy()
        return slots[~sound]

    def refresh_targets(self, slots: IntArray) -> None:
        """Take over which step the forecasts of some series wait for next."""
        if self.calibration is not None:
            self.mirrors.next_target[slots] = self.calibration.next_target(self.slab.tensors, slots)

    def touch_calibration(self, slots: IntArray) -> None:
        """Note that the calibration of some series is newer than their snapshots."""
        self.mirrors.dirty[slots] = True

    def names(self, slots: IntArray) -> list[str]:
        """Return the series in `slots`, all in use."""
        return self.mirrors.ids[slots].tolist()  # type: ignore[no-any-return]

    def used_slots(self, first: int, behind: int) -> IntArray:
        """Return the slots that are in use, from `first` on and before `behind`."""
        return first + np.flatnonzero(self.mirrors.used[first:behind])

    def scatter(self, slots: IntArray, state: State) -> None:
        """Put states into `slots`, all different, and the mirrors with them."""
        self.slab.scatter(torch.from_numpy(slots).to(self.slab.device), state)
        self.mirrors.stand(slots, *(state[name].cpu().numpy() for name in ("time_us", "position", "observed_count")))

    def advanced(self, slots: IntArray, clock_us: IntArray, steps: IntArray, observed: IntArray) -> None:
        """Note that the states in `slots` were advanced in place: their clocks, and the steps and values seen since."""
        self.mirrors.clock_us[slots] = clock_us
        self.mirrors.position[slots] += steps
        self.mirrors.observed_count[slots] += observed
        self.changed(slots)

    def changed(self, slots: IntArray) -> None:
        """Note that the states in `slots` are newer than their snapshots."""
        self.mirrors.dirty[slots] = True
        self.mirrors.touched_us[slots] = time.time_ns() // 1000

    def set_static(self, slots: IntArray, static: State, digests: Sequence[int]) -> None:
        """Put the tensors of static covariates into `slots`, all different; nothing else of the states changes."""
        self.slab.scatter(torch.from_numpy(slots).to(self.slab.device), static)
        self.mirrors.static_digest[slots] = digests
        self.mirrors.dirty[slots] = True

    def stands(self, slots: IntArray) -> IntArray:
        """Return the record of which each slot's snapshot is, 0 without one, int64 [N]."""
        return self.mirrors.saved[slots]

    def dirty(self) -> IntArray:
        """Return the slots whose snapshots are older than their states."""
        return np.flatnonzero(self.mirrors.dirty)

    def count_dirty(self) -> int:
        """Return how many snapshots are older than their states; any thread may ask."""
        return int(np.count_nonzero(self.mirrors.dirty))

    def held(self, slots: IntArray, steps_back: IntArray) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
        """Look up remembered values.

        Args:
            slots: int64 [N].
            steps_back: before each slot's clock, 0 or more, int64 [N].

        Returns:
            Whether the memory reaches that far, bool [N], and the value, NaN where missing, float64 [N].
        """
        position = self.mirrors.position[slots]
        reached = steps_back < np.minimum(self._memory, position)
        index = torch.from_numpy((position - 1 - steps_back) % self._memory).to(self.slab.device)
        rows = torch.from_numpy(slots).to(self.slab.device)
        values = torch.where(self.slab.peek("ring_observed", rows, index), self.slab.peek("ring", rows, index), np.nan)
        return reached, values.cpu().numpy()
