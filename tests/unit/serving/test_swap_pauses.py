"""How long the engine's thread is kept by a swap: a short while, however many series are cold."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from forecaster.serving import swap as swap_module
from forecaster.serving.cold import ColdStates
from forecaster.serving.packing import Packed
from forecaster.serving.records import Snapshot
from forecaster.serving.volatile_storage import VolatileStorage
from tests.unit.serving.swapping import Fleet, make_bundle, run, walk

A, B = make_bundle(1), make_bundle(2)


def test_cold_series_are_looked_at_together(monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked: list[int] = []
    unpack = ColdStates.unpack

    def counted(self: ColdStates, snapshots: Sequence[Snapshot]) -> Packed:
        unpacked.append(len(snapshots))
        return unpack(self, snapshots)

    async def scenario() -> None:
        fleet = Fleet(VolatileStorage(), {"1": A}, max_resident=5)
        async with fleet.running():
            for k in range(20):
                await fleet.observe([(f"s{k}", hour, 1.0, ()) for hour in range(k + 3)])
            monkeypatch.setattr(ColdStates, "unpack", counted)
            names = ["nobody", *(f"s{k}" for k in reversed(range(20)))]
            found = await fleet.batcher.call(lambda: fleet.engine.lanes.active.store.standing(names))
            assert found.exists.tolist() == [False, *(True,) * 20]
            expected = np.arange(23, 2, -1)
            for counts in (found.position, found.observed_count, found.clock_us // 3_600_000_000 + 1):
                np.testing.assert_array_equal(counts[1:], expected[1:])
            assert unpacked == [15]  # at once
            assert len(fleet.engine.lanes.active.store.resident) == 5  # nobody was made resident for it

    run(scenario)


def test_as_many_series_move_at_once_as_take_a_short_while(monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[int] = []
    move = swap_module.move

    def slow(engine: Any, staging: Any, moving: Any, source: Any, target: Any, into_next: bool) -> None:
        before = len(target.store)
        move(engine, staging, moving, source, target, into_next)
        moved.append(len(target.store) - before)
        time.sleep(0.002 * moved[-1])

    async def scenario() -> None:
        fleet = Fleet(VolatileStorage(), {"1": A, "2": B})
        async with fleet.running():
            await fleet.observe([row for k in range(400) for row in walk(f"s{k}", range(3), k)])
            monkeypatch.setattr(swap_module, "move", slow)
            await fleet.swap("2")
            await fleet.check()
            assert sum(moved) == 400
            assert max(moved[:1]) > 50
            assert max(moved[4:]) <= 16  # two of these would take a good while

    run(scenario)
