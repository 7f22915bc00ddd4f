"""Where a fold begins: with everything, with the windows of series, or with the snapshots of their states.

A series that has seen more than `replay_steps` steps is rebuilt from its last ones: hidden vectors and statistics
forget. Its window begins a whole number of memories (and periods of slow layers) after its start, so that the ring and
the clocks of layers stand as if all of it had been seen. A version that still has snapshots goes on from them.

Knows lanes and storage; knows nothing of the engine, of threads or of gRPC.

Shapes: N series of the census.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from forecaster.errors import StorageError
from forecaster.model.bundle import Bundle
from forecaster.serving.calibration.calibration import Calibration
from forecaster.serving.lanes.lane import Lane
from forecaster.serving.rebuilding.census import Census, memory_steps, windows
from forecaster.serving.rebuilding.fold import Fold
from forecaster.serving.rebuilding.row_filter import ALWAYS_US, RowFilter
from forecaster.serving.states.snapshot_bytes import Packed
from forecaster.serving.states.store import SeriesStore
from forecaster.serving.storage.contract import RETURNED, Journal, Snapshots
from forecaster.serving.storage.records import IntArray, Snapshot
from forecaster.serving.storage.volatile import VolatileSnapshots

_AT_ONCE = 1024


@dataclass(frozen=True, slots=True)
class Source:
    """What is folded, and how the states are to be kept.

    Args:
        journal: for this thread.
        calibration: of the version, if series have any.
        should_stop: asked at every record.
    """

    journal: Journal
    calibration: Calibration | None = None
    should_stop: Callable[[], bool] = lambda: False


def from_everything(bundle: Bundle, census: Census, source: Source) -> Fold:
    """Begin with all that journal and history have."""
    behind_us, offset = np.full(len(census), ALWAYS_US), np.zeros(len(census), dtype=np.int64)
    return _fold(_lane(bundle, VolatileSnapshots(), source), RowFilter(census, behind_us, offset), source)


def from_windows(
    bundle: Bundle, census: Census, source: Source, *, replay_steps: int, settled: Fold | None = None
) -> Fold:
    """Begin with each series' last steps.

    Args:
        bundle: of the version.
        census: the series, of the lane that has them now.
        source: see there.
        replay_steps: of a series at least, if it has seen so many.
        settled: has rebuilt some of the series up to the census already; they are taken over from it.
    """
    rows = RowFilter(census, *windows(census, bundle, replay_steps))
    lane = _lane(bundle, VolatileSnapshots(), source)
    if settled is not None:
        _take_over(settled, lane, rows)
    return _fold(lane, rows, source)


def from_snapshots(bundle: Bundle, census: Census, source: Source, *, replay_steps: int, snapshots: Snapshots) -> Fold:
    """Begin with the snapshots of that version; a series whose one is corrupted begins with its window.

    Raises StorageError if records behind the snapshots are gone.
    """
    through = snapshots.complete_through(bundle.fingerprint) or 0
    if through and (first := source.journal.first_sequence()) > through + 1:
        raise StorageError(f"snapshots hold records up to {through} and the journal begins with {first}")
    lane, rows = _lane(bundle, snapshots, source), RowFilter(census, *windows(census, bundle, replay_steps))
    lost = _adopt(lane, snapshots, census)
    rows.goes_on[:] = [name not in lost for name in census.names.tolist()]
    rows.behind_us[rows.goes_on], rows.offset[rows.goes_on] = ALWAYS_US, 0
    return _fold(lane, rows, source, since=0 if lost else through)


def from_amended(
    bundle: Bundle,
    census: Census,
    source: Source,
    *,
    replay_steps: int,
    first_us: IntArray,
    snapshots: tuple[Sequence[Snapshot], Packed | None] = ((), None),
) -> Fold:
    """Begin with series with late or corrected values before the first of these, int64 [N].

    From a snapshot of before it, if there is one; else with the last steps, and all from before it on. Where it is of
    before the series last started afresh, that may be another time from now on: everything counts.

    Args:
        bundle: of the version.
        census: of the series.
        source: see there.
        replay_steps: of a series at least.
        first_us: of each, the first time that is late or corrected.
        snapshots: of the version, whole ones, and what they hold.
    """
    grid, memory = bundle.grid, memory_steps(bundle)
    back = grid.index(first_us, census.clock_us) + 1
    behind_us, offset = windows(census, bundle, np.maximum(replay_steps, back + memory))
    whole = back >= census.position
    behind_us[whole], offset[whole] = ALWAYS_US, 0
    rows = RowFilter(census, behind_us, offset, only_known=True)
    lane = _lane(bundle, VolatileSnapshots(), source)
    _go_on(lane, rows, first_us, *snapshots)
    return Fold(lane, rows, source.journal, should_stop=source.should_stop, is_amended=True)


def _go_on(
    lane: Lane, rows: RowFilter, first_us: IntArray, snapshots: Sequence[Snapshot], packed: Packed | None
) -> None:
    """Let series go on from their snapshots, if these are of before what is late or corrected."""
    if packed is None:
        return
    places = np.array([rows.index[snapshot.series_id] for snapshot in snapshots], dtype=np.int64)
    clock_us, position = (packed.state[name].cpu().numpy() for name in ("time_us", "position"))
    kept = np.flatnonzero((clock_us < first_us[places]) & (position > 0))
    if not len(kept):
        return
    at, mine = torch.from_numpy(kept), places[kept]
    state = {tensor.name: packed.state[tensor.name][at] for tensor in lane.store.spec}
    names = [snapshots[k].series_id for k in kept.tolist()]
    lane.store.begin_turn()
    slots = lane.store.take(names, state, packed.static_digest[kept], packed.touched_us[kept])
    rows.goes_on[mine], rows.offset[mine], rows.behind_us[mine] = True, 0, clock_us[kept]
    rows.since[mine] = lane.store.mirrors.saved[slots] = [snapshots[k].sequence for k in kept.tolist()]


def _lane(bundle: Bundle, snapshots: Snapshots, source: Source) -> Lane:
    device = next(bundle.model.parameters()).device
    return Lane(bundle, "", SeriesStore(bundle, snapshots, device=device, calibration=source.calibration))


def _fold(lane: Lane, rows: RowFilter, source: Source, since: int = 0) -> Fold:
    return Fold(lane, rows, source.journal, since=since, should_stop=source.should_stop)


def _take_over(settled: Fold, lane: Lane, rows: RowFilter) -> None:
    """Take over what another fold has rebuilt up to the census, of series that belong here."""
    names: list[str] = settled.census.names.tolist()
    places = [place for place, name in enumerate(names) if name in rows.index]
    mine: IntArray = np.array([rows.index[names[place]] for place in places], dtype=np.int64)
    rows.settled[mine], rows.first_us[mine] = True, settled.rows.first_us[places]
    theirs = settled.lane.store
    resident = [names[place] for place in places if names[place] in theirs.resident]
    slots = np.array([theirs.resident[name] for name in resident], dtype=np.int64)
    digests, touched = theirs.mirrors.static_digest[slots], theirs.mirrors.touched_us[slots]
    lane.store.take(resident, theirs.gather_whole(slots), digests, touched)
    theirs.forget(resident)


def _adopt(lane: Lane, snapshots: Snapshots, census: Census) -> set[str]:
    """Take the states of snapshots; return the series whose one is corrupted, or is not there any more."""
    store, lost, names = lane.store, set[str](), census.names.tolist()
    store.on_lost = lost.update
    for start in range(0, len(names), _AT_ONCE):
        slots = store.bring(names[start : start + _AT_ONCE])
        absent = [names[start + k] for k in np.flatnonzero(slots < 0).tolist()]
        lost.update(snapshot.series_id for snapshot in snapshots.fetch(RETURNED, absent))
    store.retire()
    return lost
