"""Tensors in memory of their own that become longer in place: the system moves their pages, nothing is copied.

To copy the states of a million series would keep every request waiting for a second, and take their memory twice.
Knows nothing of what they hold.

Shapes: N rows.
"""

import contextlib
import mmap
import sys

import numpy as np
import torch
from torch import Tensor

from forecaster.model.state import TensorSpec

_CAN_MOVE = sys.platform == "linux"  # mremap(2)


class PagedTensor:
    """One tensor [N, ...] on the host.

    Args:
        spec: of a row.
    """

    def __init__(self, spec: TensorSpec) -> None:
        self._spec = spec
        self._memory: mmap.mmap | None = None
        self.tensor = torch.zeros((0, *spec.shape), dtype=spec.dtype)

    def grow(self, rows: int) -> Tensor:
        """Return the tensor with more rows, N in all; what the new ones hold is anything.

        While somebody else holds the tensor that was there before, that one stays as it is, and is copied. Raises
        MemoryError.
        """
        size = max(rows * self._spec.num_bytes, 1)
        if self._memory is not None and self._moved(size):
            self.tensor = self._view(self._memory, rows)
            return self.tensor
        before = self.tensor
        try:
            memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) if _CAN_MOVE else None
            self.tensor = self._view(memory, rows)
        except (OSError, RuntimeError) as error:  # torch's own
            raise MemoryError(f"no {size} bytes for {rows} states") from error
        self._memory = memory
        kept = min(rows, len(before))  # there may be more, of a growth that failed for another tensor
        self.tensor[:kept] = before[:kept]
        return self.tensor

    def _moved(self, size: int) -> bool:
        assert self._memory is not None
        before, self.tensor = self.tensor, torch.empty(0)  # it must not be held here either
        rows = len(before)
        del before
        with contextlib.suppress(BufferError, OSError):
            self._memory.resize(size)
            return True
        self.tensor = self._view(self._memory, rows)
        return False

    def _view(self, memory: mmap.mmap | None, rows: int) -> Tensor:
        if memory is None:
            return torch.empty((rows, *self._spec.shape), dtype=self._spec.dtype)
        # Through NumPy, which keeps the memory from being moved as long as any tensor on it is there.
        numbers = np.frombuffer(memory, np.uint8, rows * self._spec.num_bytes)
        return torch.from_numpy(numbers).view(self._spec.dtype).reshape(rows, *self._spec.shape)
