"""The resident states of all series: one preallocated tensor for each name, one slot for each series.

Knows shapes and slots; does not know series ids or what the numbers mean.

Shapes: C capacity, N slots asked for; a state is [N, ...] by name.
"""

import torch
from torch import Tensor

from forecaster.model.state import State, StateSpec

_BLOCK = 1024


class Slab:
    """Slots of equal size with a free list; grows in blocks, never shrinks.

    Args:
        spec: the tensors of one state.
        device: where they lie.
    """

    def __init__(self, spec: StateSpec, device: torch.device | str = "cpu") -> None:
        self._spec = spec
        self._tensors = spec.zeros(0, device)
        self._capacity = 0
        self._free: list[int] = []

    @property
    def capacity(self) -> int:
        """Slots that are allocated, used or free."""
        return self._capacity

    def allocate(self, n: int) -> list[int]:
        """Take `n` slots; their state is all zeros, which is a fresh series."""
        if len(self._free) < n:
            self._grow(n - len(self._free))
        slots = [self._free.pop() for _ in range(n)]
        rows = torch.tensor(slots, dtype=torch.int64)
        for tensor in self._tensors.values():
            tensor[rows] = 0
        return slots

    def release(self, slots: list[int]) -> None:
        """Give slots back; whoever holds them still must not use them."""
        self._free.extend(slots)

    def gather(self, slots: Tensor) -> State:
        """Return a copy of the states in `slots`, int64 [N]."""
        return {name: tensor.index_select(0, slots) for name, tensor in self._tensors.items()}

    def shape(self, name: str) -> torch.Size:
        """Return the shape of one series' part of a tensor."""
        return self._tensors[name].shape[1:]

    def peek(self, name: str, slots: Tensor, index: Tensor) -> Tensor:
        """Return single elements of one tensor, [N]: those at `index` (int64 [N]) of `slots` (int64 [N])."""
        return self._tensors[name][slots, index]

    def scatter(self, slots: Tensor, state: State) -> None:
        """Put `state` [N, ...], or some tensors of it, into `slots`, int64 [N], all different."""
        for name, tensor in state.items():
            self._tensors[name].index_copy_(0, slots, tensor)

    def _grow(self, needed: int) -> None:
        block = max(_BLOCK, self._capacity // 4, needed)
        block = -(-block // _BLOCK) * _BLOCK
        for spec in self._spec:
            # resize_ keeps the rows that are there; one tensor at a time, so that the peak stays low
            self._tensors[spec.name].resize_((self._capacity + block, *spec.shape))
        self._free.extend(range(self._capacity + block - 1, self._capacity - 1, -1))
        self._capacity += block
