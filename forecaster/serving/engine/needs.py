"""What requests need of states, before anything is judged: whether all are at hand, what it costs to have them.

Reads lanes; changes nothing in them but which series are resident.
"""

import numpy as np

from forecaster.errors import FieldViolation, InvalidArgumentError
from forecaster.serving.lanes.lanes import Lanes
from forecaster.serving.states.idle_series import IdleRegister
from forecaster.serving.storage.records import IntArray
from forecaster.serving.work.observing import ObserveWork

_COLD_ROWS = 64  # that cost as much as to read a state back


def at_hand(lanes: Lanes, request: ObserveWork) -> bool:
    """Whether the states of all series of a request are in memory."""
    given = () if request.attributes is None else request.attributes.series_ids
    return all(name in lanes.of(name).store.resident for name in (*request.columns.series_ids, *given))


def row_costs(lanes: Lanes, idle: IdleRegister, request: ObserveWork) -> IntArray | None:
    """Return what the rows that are left of a request cost, in rows: more where a state has to be read back."""
    if not idle and not any(lane.store.has_cold for lane in lanes):
        return None
    series = request.columns.series[request.start :]
    away = np.array([name not in lanes.of(name).store.resident for name in request.columns.series_ids], bool)
    costs = np.ones(len(series), dtype=np.int64)
    first = np.unique(series, return_index=True)[1]
    costs[first[away[series[first]]]] = _COLD_ROWS
    return costs


def cost(lanes: Lanes, idle: IdleRegister, request: ObserveWork, count: int) -> int:
    """Return what the next rows of a request cost, in rows."""
    if count <= 0:
        return 0
    costs = row_costs(lanes, idle, request)
    return count if costs is None else int(costs[:count].sum())


def nobodys_attributes(lanes: Lanes, idle: IdleRegister, request: ObserveWork) -> InvalidArgumentError | None:
    """Return what is wrong with static covariates of a series that does not exist and is not being observed."""
    if request.attributes is None or request.start:
        return None
    observed = {request.columns.series_ids[i] for i in np.unique(request.columns.series).tolist()}
    for k, name in enumerate(request.attributes.series_ids):
        if name not in observed and lanes.of(name).store.bring([name])[0] < 0:
            idle.want([name])
            message = f"attributes[{k}]: no series {name!r}, and no observation of it in the request"
            return InvalidArgumentError(message, [FieldViolation(f"attributes[{k}].series_id", message)])
    return None
