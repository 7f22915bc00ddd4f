"""What is said of series: where they stand, how good their forecasts have been, or why there is nothing to say.

Reads states and changes none of them, but for those that have to be folded again.
"""

import time
from collections.abc import Sequence

from forecaster.errors import SeriesNotFoundError, StateLostError
from forecaster.model.state import State
from forecaster.serving.lanes.lane import Lane
from forecaster.serving.work.series import LiveScores, SeriesInfo


def describe(lane: Lane, series_ids: Sequence[str]) -> dict[str, SeriesInfo]:
    """Return what is known of those of the series that there are; cold ones stay cold if they are whole."""
    store = lane.store
    found: dict[str, SeriesInfo] = {}
    for name in series_ids:
        if (slot := store.resident.get(name, -1)) >= 0:
            mirrors = (
                store.mirrors.clock_us,
                store.mirrors.position,
                store.mirrors.observed_count,
                store.mirrors.touched_us,
            )
            known = tuple(int(mirror[slot]) for mirror in mirrors)
            found[name] = _info(lane, name, known, store.slab.tensors, slot)
    cold = [name for name in series_ids if name not in found]
    for name, packed in (store.cold.peek(cold) if cold else {}).items():
        state = packed.state
        numbers = (state["time_us"], state["position"], state["observed_count"], packed.touched_us)
        found[name] = _info(lane, name, tuple(int(number[0]) for number in numbers), state, 0)
    if lost := store.cold.lost([name for name in cold if name not in found]):
        store.begin_turn()
        try:
            store.bring(lost)
        except StateLostError as error:
            known_lost = [name for name in lost if name in error.series_ids]
            found |= {name: SeriesInfo.lost(name, lane.version, str(error)) for name in known_lost}
        found |= describe(lane, [name for name in lost if name in store.resident])
    return found


def _info(lane: Lane, series_id: str, known: tuple[int, ...], tensors: State, slot: int) -> SeriesInfo:
    clock_us, length, observed, touched_us = known
    live = _live(lane, tensors, slot)
    return SeriesInfo(series_id, clock_us, length, observed, time.time() - touched_us / 1e6, lane.version, live)


def _live(lane: Lane, tensors: State, slot: int) -> tuple[LiveScores, ...]:
    return () if lane.scoring is None else lane.scoring.live(tensors, slot)


def unknown(lane: Lane, series_ids: Sequence[str]) -> list[SeriesNotFoundError]:
    """Return what is said of series that have no state: of idle ones, how they get one again."""
    idle = {idle_series.series_id: idle_series for idle_series in lane.idle.among(series_ids)} if lane.idle else {}

    def why(name: str) -> str:
        return idle[name].explained() if name in idle else f"no series {name!r}: observe it first"

    return [SeriesNotFoundError(why(name), [name]) for name in series_ids]
