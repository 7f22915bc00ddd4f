"""The ring buffer of a series' last M raw values with their observed-mask.

The value of step n lies in slot n mod M, so that a step writes one slot. A scan works on the buffer laid
out in time order with the new values behind it: `extended[:, M + t]` is the value of the scan's step t.

Knows nothing of what the values are for.

Shapes: B series, T steps, M memory.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Extended(NamedTuple):
    """The memory in time order followed by the new steps: float64 and bool [B, M + T]."""

    values: Tensor
    observed: Tensor


def unroll(ring: Tensor, ring_observed: Tensor, position: Tensor) -> Extended:
    """Return the ring in time order, oldest first, [B, M].

    Args:
        ring: float64 [B, M].
        ring_observed: bool [B, M].
        position: steps seen so far, int64 [B].
    """
    memory = ring.shape[1]
    slots = (position[:, None] + torch.arange(memory, device=ring.device)) % memory
    return Extended(ring.gather(1, slots), ring_observed.gather(1, slots))


def extend(past: Extended, values: Tensor, observed: Tensor) -> Extended:
    """Return `past` [B, M] followed by `values` and `observed` [B, T]; unobserved values become zero."""
    values = torch.where(observed, values, 0.0)
    return Extended(torch.cat([past.values, values], 1), torch.cat([past.observed, observed], 1))


def roll_up(extended: Extended, position: Tensor, lengths: Tensor, memory: int) -> Extended:
    """Return the ring after `lengths` steps (int64 [B]) of `extended` [B, M + T], as [B, M] by slot.

    Slot s holds the latest step n below position + lengths with n mod M = s.
    """
    end = (position + lengths)[:, None] - 1
    slots = torch.arange(memory, device=position.device)[None, :]
    index = end - (end - slots) % memory - position[:, None] + memory
    return Extended(extended.values.gather(1, index), extended.observed.gather(1, index))
