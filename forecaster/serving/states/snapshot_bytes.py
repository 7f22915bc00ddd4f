"""A series' state and what the server keeps beside it as the bytes of a snapshot.

Knows state specs; knows nothing of storage or slots.

Shapes: N series.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from forecaster.model.state import State, StateSpec
from forecaster.serving.storage.records import IntArray

_BESIDE = 2  # int64 numbers before the state


@dataclass(frozen=True, slots=True)
class Packed:
    """What a snapshot holds.

    Args:
        state: [N, ...] by name.
        static_digest: 64 bits that tell the series' static covariates from others, 0 without any, int64 [N].
        touched_us: when it last advanced, microseconds since the Unix epoch, int64 [N].
    """

    state: State
    static_digest: IntArray
    touched_us: IntArray


class Packing:
    """To bytes and back.

    Args:
        spec: of the states.
    """

    def __init__(self, spec: StateSpec) -> None:
        self._spec = spec
        self.num_bytes = 8 * _BESIDE + spec.num_bytes

    def pack(self, packed: Packed) -> list[bytes]:
        """Return the bytes of each series."""
        beside = np.stack([packed.static_digest, packed.touched_us], axis=1).astype("<i8", copy=False)
        state = self._spec.pack(packed.state).numpy()
        whole = np.concatenate([beside.view(np.uint8).reshape(len(beside), -1), state], axis=1)
        joined, width = whole.tobytes(), self.num_bytes
        return [joined[start : start + width] for start in range(0, len(joined), width)]

    def unpack(self, parts: Sequence[bytes]) -> Packed:
        """Return what `pack` made bytes of; all of them are of `num_bytes`."""
        whole = np.frombuffer(b"".join(parts), np.uint8).reshape(len(parts), self.num_bytes)
        beside = whole[:, : 8 * _BESIDE].copy().view("<i8")
        state = self._spec.unpack(torch.from_numpy(whole[:, 8 * _BESIDE :].copy()))
        return Packed(state, beside[:, 0].astype(np.int64), beside[:, 1].astype(np.int64))
