"""Which series a lane has, where the window of each begins that another version rebuilds it from, what states remember.

Knows lanes; knows nothing of journals.

Shapes: N series.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from forecaster.model.bundle import Bundle
from forecaster.model.inputs.memory import unroll
from forecaster.serving.lanes.lane import Lane
from forecaster.serving.states.buckets import BUCKETS, bucket
from forecaster.serving.storage.contract import Snapshots, in_batches
from forecaster.serving.storage.records import Columns, IntArray

_SNAPSHOTS_AT_ONCE = 2048
EARLIEST_US = -(2**62)  # the clock of a series of which everything counts


@dataclass(frozen=True, slots=True)
class Census:
    """The series of a lane at one record.

    Args:
        sequence: of the record.
        names: object [N].
        buckets: int64 [N].
        clock_us: int64 [N].
        position: int64 [N].
        within: the buckets that it is of, bool [1024].
        deletions: that the journal may not tell of, because they are erased beside, sequence and series; there may be
            more at any time, each of them before the next record.
    """

    sequence: int
    names: np.ndarray
    buckets: IntArray
    clock_us: IntArray
    position: IntArray
    within: np.ndarray
    deletions: Sequence[tuple[int, str]] = ()

    def __len__(self) -> int:
        return len(self.names)

    def of(self, moving: np.ndarray) -> "Census":
        """Return those whose buckets are marked, bool [1024]."""
        return dataclasses.replace(self.at(np.flatnonzero(moving[self.buckets])), within=moving)

    def at(self, rows: IntArray) -> "Census":
        """Return those at some places, of the same buckets."""
        parts = (self.names[rows], self.buckets[rows], self.clock_us[rows], self.position[rows])
        return Census(self.sequence, *parts, self.within, self.deletions)


def take_census(
    source: Lane,
    snapshots: Snapshots,
    check_going: Callable[[], None],
    residents: tuple[dict[str, int], IntArray, IntArray],
    sequence: int,
    deletions: Sequence[tuple[int, str]],
) -> Census:
    """Return all series of a lane, resident and cold.

    Args:
        source: the lane.
        snapshots: for this thread.
        check_going: called now and then; raises if this is to end.
        residents: the store's inventory.
        sequence: as of which it was taken.
        deletions: see `Census`.
    """
    slots, clock_us, position = residents
    at = np.fromiter(slots.values(), np.int64, len(slots))
    names, clocks, positions = list(slots), [clock_us[at]], [position[at]]
    for batch in in_batches(snapshots.read(source.bundle.fingerprint), _SNAPSHOTS_AT_ONCE):
        check_going()
        cold = [snapshot for snapshot in batch if snapshot.series_id not in slots]
        whole = [snapshot for snapshot in cold if source.store.cold.can_unpack(snapshot)]
        broken = [snapshot.series_id for snapshot in cold if not source.store.cold.can_unpack(snapshot)]
        names += [*(snapshot.series_id for snapshot in whole), *broken]
        if whole:
            packed = source.store.cold.unpack(whole)
            clocks.append(packed.state["time_us"].numpy())
            positions.append(packed.state["position"].numpy())
        clocks.append(np.full(len(broken), EARLIEST_US))  # of those everything counts
        positions.append(np.zeros(len(broken), dtype=np.int64))
    buckets = np.fromiter(map(bucket, names), np.int64, len(names))
    every = np.array(names, dtype=object)
    clock_us, position = np.concatenate(clocks), np.concatenate(positions)
    return Census(sequence, every, buckets, clock_us, position, np.ones(BUCKETS, dtype=bool), deletions)


def windows(census: Census, bundle: Bundle, replay_steps: int | IntArray) -> tuple[IntArray, IntArray]:
    """Return the time behind which each series' rows count, and the steps before that: int64 [N] each.

    They count from so many steps on at least, of each or of all.
    """
    config = bundle.model.config
    memory = memory_steps(bundle)
    period = math.lcm(memory, *(config.layer_periods or ()))
    steps = np.maximum(replay_steps, memory + 1)
    offset = np.maximum(census.position - steps, 0) // period * period
    # What stands at 0 has just started afresh, for it was broken: another version begins with what came before.
    counted = np.where(census.position > 0, census.position - offset, steps)
    first_us = bundle.grid.time(census.clock_us, 1 - counted)
    return np.where(offset > 0, first_us, first_us - 1), offset


def memory_steps(bundle: Bundle) -> int:
    """Return how many values a state remembers."""
    return int({tensor.name: tensor.shape for tensor in bundle.model.state_spec}["ring"][0])


def ring_rows(source: Lane, names: tuple[str, ...]) -> tuple[Columns, IntArray]:
    """Return what the states of N series remember as rows, and how many values each has seen, int64 [N]."""
    source.store.begin_turn()
    state = source.store.gather(source.store.bring(names))
    past = unroll(state["ring"].cpu(), state["ring_observed"].cpu(), state["position"].cpu())
    memory = past.values.shape[1]
    back = np.arange(memory)[::-1]
    times = source.bundle.grid.time(state["time_us"].cpu().numpy()[:, None], -back)
    there = back < state["position"].cpu().numpy()[:, None]
    values = torch.where(past.observed, past.values, torch.nan).numpy()
    series = np.broadcast_to(np.arange(len(names), dtype=np.int32)[:, None], there.shape)
    return Columns(names, series[there], times[there], values[there]), state["observed_count"].cpu().numpy()
