"""How long the engine's thread is kept by a swap: a short while, however many series are cold."""

import contextlib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from forecaster.errors import StorageError
from forecaster.serving.rebuilding import row_filter as row_filter_module
from forecaster.serving.states import buckets as buckets_module
from forecaster.serving.states.buckets import BUCKETS, Grouped, bucket
from forecaster.serving.states.cold import ColdStates
from forecaster.serving.states.snapshot_bytes import Packed
from forecaster.serving.storage.records import Snapshot
from forecaster.serving.storage.volatile import VolatileStorage
from forecaster.serving.swap import swap as swap_module
from tests.unit.serving.folding import walk
from tests.unit.serving.swapping import A, B, Fleet, run


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

    def slow(engine: Any, fold: Any, moving: Any, source: Any, target: Any, into_next: bool) -> None:
        before = len(target.store)
        move(engine, fold, moving, source, target, into_next)
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


def test_ids_are_found_by_their_buckets() -> None:
    names = [f"s{k}" for k in range(5000)]
    grouped, marked = Grouped(), np.random.default_rng(1).random(BUCKETS) < 0.2
    grouped.add(names)
    grouped.add(names[:100])
    assert sorted(grouped.of(marked)) == sorted(name for name in names if marked[bucket(name)])
    grouped.discard([*names[::2], "nobody"])
    assert sorted(grouped.of(marked)) == sorted(name for name in names[1::2] if marked[bucket(name)])
    assert grouped.of(np.zeros(BUCKETS, dtype=bool)) == []


def test_a_move_looks_at_no_more_of_the_series_that_began_than_it_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a journal they are known by having begun; each move looks for those of its buckets."""
    hashed, moves, is_moving, began = [0], [0], [False], 0

    def counted(series_id: str) -> int:
        hashed[0] += is_moving[0]
        return bucket(series_id)

    def watched(*values: Any) -> None:
        moves[0], is_moving[0] = moves[0] + 1, True
        move(*values)
        is_moving[0] = False

    move = swap_module.move
    monkeypatch.setattr(swap_module, "move", watched)
    monkeypatch.setattr(swap_module, "_MOVED_AT_FIRST", 1)
    monkeypatch.setattr(swap_module, "_MOST_MOVED", 1)
    for module in (buckets_module, row_filter_module):
        monkeypatch.setattr(module, "bucket", counted)

    async def scenario() -> None:
        fleet = Fleet(VolatileStorage(), {"1": A, "2": B})

        async def begin_many() -> None:
            nonlocal began
            if fleet.engine.lanes.active.store.begun is not None and not began:
                began = 300
                await fleet.observe([(f"n{k}", 0, 1.0, ()) for k in range(began)])

        async with fleet.running():
            await fleet.observe([(f"s{k}", 0, 1.0, ()) for k in range(100)])
            await fleet.swap("2", hook=begin_many)
            await fleet.check()
            assert fleet.seen == {"2"}
            assert began == 300
            assert moves[0] > 20
            assert hashed[0] < 5 * 400  # each of them a few times, and not in every move

    run(scenario)


@pytest.mark.parametrize("fails", [False, True])
def test_who_began_is_noted_only_while_a_version_is_replaced(fails: bool) -> None:
    noted: list[bool] = []
    failures = iter([StorageError("the disk is full")] if fails else [])

    async def scenario() -> None:
        fleet = Fleet(VolatileStorage(), {"1": A, "2": B})
        first = fleet.engine.lanes.active

        async def look() -> None:
            noted.append(first.store.begun is not None)
            if fleet.engine.lanes.moved.any() and (error := next(failures, None)):
                raise error

        async with fleet.running():
            await fleet.observe([row for k in range(100) for row in walk(f"s{k}", range(3), k)])
            assert first.store.begun is None
            with pytest.raises(StorageError) if fails else contextlib.nullcontext():
                await fleet.swap("2", hook=look)
            assert True in noted
            assert fleet.engine.lanes.next is None
            assert (fleet.engine.lanes.active is first) is fails
            assert first.store.begun is None
            assert fleet.engine.lanes.active.store.begun is None
            await fleet.observe([("new", 0, 1.0, ())])
            await fleet.check()

    run(scenario)
