"""A series' state as a flat dict of named tensors with a leading series axis, and as bytes.

Knows names, shapes and types; does not know what the numbers mean.

Shapes: B series; every tensor of a state is [B, ...].
"""

import operator
import threading
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy.typing as npt
import torch
from torch import Tensor

State = dict[str, Tensor]
_VIEWS: "weakref.WeakSet[Views]" = weakref.WeakSet()
_VIEWS_LOCK = threading.Lock()


class TensorSpec(NamedTuple):
    """One named tensor of a state: the shape of one series' part and its type."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        """Bytes that one series takes."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


class StateSpec(tuple[TensorSpec, ...]):
    """The tensors of a state, in the order in which they are packed into bytes."""

    __slots__ = ()

    @property
    def num_bytes(self) -> int:
        """Bytes of one series' state."""
        return sum(tensor.num_bytes for tensor in self)

    def zeros(self, n: int, device: torch.device | str = "cpu") -> State:
        """Return a state of `n` series filled with zeros."""
        return {t.name: torch.zeros((n, *t.shape), dtype=t.dtype, device=device) for t in self}

    def pack(self, state: State) -> Tensor:
        """Return the state as bytes, uint8 [B, num_bytes]; `unpack` gives it back bit for bit."""
        parts = []
        for tensor in self:
            value = state[tensor.name].detach().cpu().contiguous()
            parts.append(value.view(torch.uint8).reshape(value.shape[0], tensor.num_bytes))
        return torch.cat(parts, dim=1)

    def unpack(self, packed: Tensor) -> State:
        """Return the state of uint8 [B, num_bytes]; raises ValueError for another width."""
        if packed.dim() != 2 or packed.shape[1] != self.num_bytes:
            raise ValueError(f"a packed state is [B, {self.num_bytes}] bytes, not {tuple(packed.shape)}")
        state: State = {}
        parts = packed.split([tensor.num_bytes for tensor in self], dim=1)
        for tensor, part in zip(self, parts, strict=True):
            flat = part.contiguous().flatten().clone()  # a fresh allocation, so that view() is aligned
            state[tensor.name] = flat.view(tensor.dtype).reshape(packed.shape[0], *tensor.shape)
        return state


def select(state: State, rows: Tensor) -> State:
    """Return the state of the series `rows` (int64 [N]), in that order."""
    return {name: tensor.index_select(0, rows) for name, tensor in state.items()}


def detach(state: State) -> State:
    """Return the same state cut off from the graph that computed it (truncated back-propagation)."""
    return {name: tensor.detach() for name, tensor in state.items()}


class Views:
    """NumPy's views of some tensors of a slab, looked up again only when the slab has other tensors than before.

    To ask a tensor for its array takes longer than a compiled step of one series.

    Args:
        names: of the tensors, in order.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._held: tuple[list[Tensor], tuple[npt.NDArray[Any], ...]] = [], ()
        with _VIEWS_LOCK:
            _VIEWS.add(self)

    def of(self, tensors: State) -> tuple[npt.NDArray[Any], ...]:
        """Return the arrays of a slab's tensors, which lie on the CPU."""
        mine = [tensors[name] for name in self._names]
        held, arrays = self._held
        if len(held) != len(mine) or any(map(operator.is_not, mine, held)):
            arrays = tuple(tensor.numpy() for tensor in mine)
            self._held = mine, arrays
        return arrays

    def let_go(self) -> None:
        """Hold no tensor until the next look: one that somebody holds cannot grow in place; for any thread."""
        self._held = [], ()


def let_go_of_views() -> None:
    """Let all `Views` hold no tensor until their next look."""
    with _VIEWS_LOCK:
        for views in _VIEWS:
            views.let_go()
