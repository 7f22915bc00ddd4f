"""States as bytes."""

import pytest
import torch

from forecaster.model.state import StateSpec, TensorSpec

SPEC = StateSpec(
    [
        TensorSpec("hidden", (2, 3), torch.float32),
        TensorSpec("flags", (5,), torch.bool),
        TensorSpec("clock", (), torch.int64),
        TensorSpec("ring", (7,), torch.float64),
    ]
)


def test_a_state_survives_bytes_bit_for_bit() -> None:
    state = {
        "hidden": torch.randn(4, 2, 3),
        "flags": torch.rand(4, 5) > 0.5,
        "clock": torch.randint(-(2**62), 2**62, (4,)),
        "ring": torch.randn(4, 7, dtype=torch.float64),
    }
    state["ring"][0, 0] = float("nan")
    packed = SPEC.pack(state)
    assert packed.shape == (4, SPEC.num_bytes)
    back = SPEC.unpack(packed)
    for name, tensor in state.items():
        assert back[name].dtype == tensor.dtype
        assert back[name].numpy().tobytes() == tensor.numpy().tobytes()


def test_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[B, 93\] bytes"):
        SPEC.unpack(torch.zeros(2, 92, dtype=torch.uint8))
