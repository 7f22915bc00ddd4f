"""Slots: what is put in comes out, growth keeps it, a freed slot comes back fresh."""

import itertools
import sys

import pytest
import torch

from forecaster.model.state import StateSpec, TensorSpec
from forecaster.serving.engine.engine import Engine
from forecaster.serving.states.paged import PagedTensor
from forecaster.serving.states.slab import Slab
from forecaster.serving.storage.volatile import VolatileStorage
from tests.unit.serving.folding import BUNDLE, columns

SPEC = StateSpec([TensorSpec("x", (3,), torch.float32), TensorSpec("n", (), torch.int64)])


def test_states_survive_growth() -> None:
    slab = Slab(SPEC)
    slots = slab.allocate(700)
    state = {"x": torch.randn(700, 3), "n": torch.arange(700)}
    slab.scatter(torch.from_numpy(slots), state)
    more = slab.allocate(5000)
    assert len({*slots, *more}) == 5700 <= slab.capacity
    back = slab.gather(torch.from_numpy(slots))
    assert torch.equal(back["x"], state["x"])
    assert torch.equal(back["n"], state["n"])
    assert not slab.gather(torch.from_numpy(more))["x"].any()


def test_a_released_slot_comes_back_fresh() -> None:
    slab = Slab(SPEC)
    slots = slab.allocate(slab.capacity or 1024)
    slab.scatter(torch.from_numpy(slots[:1]), {"x": torch.ones(1, 3), "n": torch.tensor([4])})
    slab.release(slots[:1])
    assert slab.allocate(1).tolist() == slots[:1].tolist()
    assert not slab.gather(torch.from_numpy(slots[:1]))["n"].any()


def test_gather_gives_a_copy() -> None:
    slab = Slab(SPEC)
    slots = torch.from_numpy(slab.allocate(2))
    slab.gather(slots)["x"] += 1
    assert not slab.gather(slots)["x"].any()


@pytest.mark.parametrize("at_once", [1, 300, 5000])
def test_it_takes_no_more_than_half_as_much_again(at_once: int) -> None:
    """Past the first two blocks; what growth leaves free is a quarter at most, and a block."""
    slab = Slab(SPEC)
    for used in itertools.islice(itertools.count(at_once, at_once), 30_000 // at_once):
        slab.reserve(at_once)
        assert used <= slab.capacity <= max(1.25 * used + 1024, 2048)
        assert slab.capacity <= 1.5 * used or used < 4096
    assert {len(tensor) for tensor in slab.tensors.values()} == {slab.capacity}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux moves pages")
def test_whoever_looked_at_the_states_lets_them_grow_in_place() -> None:
    """The compiled kernels keep views of all tensors between two turns."""
    engine = Engine(BUNDLE, VolatileStorage())
    slab = engine.lanes.active.store.slab
    for hour in range(3):
        engine.observe([columns([(f"s{k}", hour, 1.0) for k in range(300)])])
    before = [one._memory for one in slab._paged.values()]
    engine.observe([columns([(f"t{k}", 1, 1.0) for k in range(3000)])])
    engine.observe([columns([(f"{name}{k}", 3, 2.0) for name in "st" for k in range(300)])])
    assert slab.capacity >= 3300
    assert [one._memory for one in slab._paged.values()] == before


def test_growth_that_fails_half_way_can_be_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """One tensor is longer then; whoever holds it does not matter."""
    slab = Slab(SPEC)
    slots = torch.from_numpy(slab.allocate(1024))
    slab.scatter(slots, {"x": torch.ones(1024, 3), "n": torch.arange(1024)})
    grow = PagedTensor.grow

    def failing(paged: PagedTensor, rows: int) -> torch.Tensor:
        if paged is slab._paged["n"]:
            raise MemoryError
        return grow(paged, rows)

    monkeypatch.setattr(PagedTensor, "grow", failing)
    with pytest.raises(MemoryError):
        slab.reserve(4000)
    monkeypatch.undo()
    held = dict(slab.tensors)
    assert slab.capacity == 1024
    slab.reserve(1)
    assert {len(tensor) for tensor in slab.tensors.values()} == {slab.capacity}
    assert torch.equal(slab.gather(slots)["n"], torch.arange(1024))
    assert slab.gather(slots)["x"].eq(1).all()
    assert len(held["n"]) == 1024
