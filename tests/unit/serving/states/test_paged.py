"""Tensors that grow in place keep what they hold, wherever their pages go, and what others hold of them stays."""

import mmap
import pathlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from forecaster.model.state import TensorSpec
from forecaster.serving.states import paged
from forecaster.serving.states.paged import PagedTensor

PAGE = mmap.PAGESIZE


@given(
    st.lists(st.integers(1, 3 * PAGE), min_size=1, max_size=6),
    st.sampled_from([(), (3,), (2, 5), (0,)]),
    st.sampled_from([torch.float32, torch.int64, torch.bool]),
    st.lists(st.booleans(), min_size=6, max_size=6),
)
def test_growth_keeps_everything(
    steps: list[int], shape: tuple[int, ...], dtype: torch.dtype, are_held: list[bool]
) -> None:
    tensor, rows = PagedTensor(TensorSpec("x", shape, dtype)), 0
    held: list[tuple[torch.Tensor, torch.Tensor]] = []  # what somebody else holds, and what it was
    expected = torch.zeros((0, *shape), dtype=dtype)
    for step, is_held in zip(steps, are_held, strict=False):
        rows += step
        grown = tensor.grow(rows)
        assert grown.shape == (rows, *shape)
        assert torch.equal(grown[: len(expected)], expected)
        grown[len(expected) :] = torch.randint(0, 2, (step, *shape)).to(dtype)
        expected = grown.clone()
        if is_held:
            held.append((grown, expected))
        del grown
        assert all(torch.equal(one, then) for one, then in held)


@pytest.mark.skipif(not paged._CAN_MOVE, reason="only Linux moves pages")
def test_pages_are_moved_not_copied() -> None:
    """What was never touched takes no memory, also behind growth: a copy would touch it."""

    def resident() -> int:
        return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * PAGE

    tensor = PagedTensor(TensorSpec("x", (1024,), torch.float32))
    tensor.grow(1000)
    before = resident()
    for rows in (20_000, 60_000, 200_000):  # 800 MB
        tensor.grow(rows)[-1] = 1.0
    assert resident() - before < 100 << 20
    assert tensor.tensor[[19_999, 59_999, 199_999]].eq(1.0).all()


def test_without_room_it_stays_as_it_was() -> None:
    tensor = PagedTensor(TensorSpec("x", (), torch.float64))
    tensor.grow(1000)[:] = 3.0
    with pytest.raises(MemoryError):
        tensor.grow(2**55)
    assert tensor.tensor.eq(3.0).all()
    assert tensor.grow(2000)[:1000].eq(3.0).all()


def test_where_pages_cannot_be_moved_it_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paged, "_CAN_MOVE", False)
    tensor = PagedTensor(TensorSpec("x", (2,), torch.float32))
    tensor.grow(10)[:] = 5.0
    assert tensor.grow(30)[:10].eq(5.0).all()
