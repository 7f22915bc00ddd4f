"""The resident states: one preallocated tensor for each name, one slot for each resident series.

Knows shapes and slots; does not know series ids or what the numbers mean.

Shapes: C capacity, N slots asked for; a state is [N, ...] by name.
"""

import numpy as np
import torch
from torch import Tensor

from forecaster.model.state import State, StateSpec, TensorSpec, let_go_of_views
from forecaster.serving.states.paged import PagedTensor
from forecaster.serving.storage.records import IntArray

_BLOCK = 1024


class Slab:
    """Slots of equal size with a free list; grows in blocks, never shrinks.

    Args:
        spec: the tensors of one state.
        device: where they lie.
        max_slots: never allocate more.
    """

    def __init__(self, spec: StateSpec, device: torch.device | str = "cpu", *, max_slots: int = 2**62) -> None:
        self._spec, self._max_slots = spec, max_slots
        self.tensors: State = spec.zeros(0, device)
        self.device = torch.device(device)
        self._paged = (
            {tensor_spec.name: PagedTensor(tensor_spec) for tensor_spec in spec} if self.device.type == "cpu" else {}
        )
        self._capacity = 0
        self._free: list[int] = []

    @property
    def capacity(self) -> int:
        """Slots that are allocated, used or free."""
        return self._capacity

    def allocate(self, n: int) -> IntArray:
        """Take `n` slots, int64 [N]; their state is all zeros, which is a fresh series."""
        slots = self.reserve(n)
        rows = torch.from_numpy(slots).to(self.device)
        for tensor in self.tensors.values():
            tensor[rows] = 0
        return slots

    def reserve(self, n: int) -> IntArray:
        """Take `n` slots, int64 [N], whose state is anything: whoever takes them fills them."""
        if len(self._free) < n:
            self._grow(n - len(self._free))
        slots = self._free[len(self._free) - n :]
        del self._free[len(self._free) - n :]
        return np.array(slots[::-1], dtype=np.int64)

    def release(self, slots: IntArray) -> None:
        """Give slots back; whoever holds them still must not use them."""
        self._free.extend(slots.tolist())

    def gather(self, slots: Tensor) -> State:
        """Return a copy of the states in `slots`, int64 [N]."""
        return {name: tensor.index_select(0, slots) for name, tensor in self.tensors.items()}

    def shape(self, name: str) -> torch.Size:
        """Return the shape of one series' part of a tensor."""
        return self.tensors[name].shape[1:]

    def peek(self, name: str, slots: Tensor, index: Tensor) -> Tensor:
        """Return single elements of one tensor, [N]: those at `index` (int64 [N]) of `slots` (int64 [N])."""
        return self.tensors[name][slots, index]

    def scatter(self, slots: Tensor, state: State) -> None:
        """Put `state` [N, ...], or some tensors of it, into `slots`, int64 [N], all different."""
        for name, tensor in state.items():
            self.tensors[name].index_copy_(0, slots, tensor.to(self.device))

    def _grow(self, needed: int) -> None:
        block = max(_BLOCK, self._capacity // 4, needed)
        block = max(min(-(-block // _BLOCK) * _BLOCK, self._max_slots - self._capacity), needed)
        let_go_of_views()
        for spec in self._spec:  # one tensor at a time, so that the peak stays low
            self.tensors[spec.name] = self._grown(spec, self._capacity + block)
        self._free.extend(range(self._capacity + block - 1, self._capacity - 1, -1))
        self._capacity += block

    def _grown(self, spec: TensorSpec, rows: int) -> Tensor:
        if spec.name in self._paged:
            del self.tensors[spec.name]  # so that nobody holds it and it need not be copied
            try:
                return self._paged[spec.name].grow(rows)
            except BaseException:
                self.tensors[spec.name] = self._paged[spec.name].tensor
                raise
        grown = torch.empty((rows, *spec.shape), dtype=spec.dtype, device=self.device)
        grown[: self._capacity] = self.tensors[spec.name]
        return grown
