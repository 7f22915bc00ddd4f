"""Which of the series of some requests can be forecast as they ask for, and why the others cannot.

Shapes: N series of all requests.
"""

from collections.abc import Sequence

import numpy as np

from forecaster.errors import (
    FencedError,
    ForecasterError,
    InvalidArgumentError,
    LimitReachedError,
    RefoldingError,
    StateLostError,
    StorageError,
    TooLittleHistoryError,
    UnsupportedError,
)
from forecaster.serving.lanes.description import unknown
from forecaster.serving.lanes.lane import Lane
from forecaster.serving.lanes.paths import unsupported
from forecaster.serving.storage.records import IntArray
from forecaster.serving.telemetry import told
from forecaster.serving.work.forecasting import ForecastWork

Failures = dict[int, ForecasterError]  # by the series' position


def forecastable(lane: Lane, requests: Sequence[ForecastWork]) -> tuple[IntArray, Failures]:
    """Return the slots of requests that differ in nothing but series and futures, int64 [N], and why some have none.

    Raises FencedError.
    """
    names = [name for request in requests for name in request.series_ids]
    slots, unread = _brought(lane, [request.series_ids for request in requests])
    return slots, _failures(lane, names, slots, requests[0]) | unread


def uncalibrated(lane: Lane, request: ForecastWork | None) -> UnsupportedError | None:
    """Return what is wrong with a request for corrected quantiles where there are none."""
    if request is None or not request.calibrated or lane.scoring is not None:
        return None
    device = lane.store.slab.device
    return UnsupportedError(f"options.calibrated: states on {device} are not calibrated, ask without it")


def _brought(lane: Lane, requests: Sequence[Sequence[str]]) -> tuple[IntArray, Failures]:
    """Return the slots of all requests' series, -1 without one, and why states cannot be had."""
    names = [name for ids in requests for name in ids]
    refusal: ForecasterError
    try:
        return lane.store.bring(names), {}
    except FencedError:
        raise
    except LimitReachedError as error:
        if len(requests) > 1:  # too many at once: some may fit
            return _joined([_brought(lane, [ids]) for ids in requests])
        refusal = error
    except StateLostError as error:  # the others are as they were
        lost = {at: error for at, name in enumerate(names) if name in error.series_ids}
        if not lost:
            raise
        rest, failed = _brought(lane, [[name for at, name in enumerate(names) if at not in lost]])
        kept = [at for at in range(len(names)) if at not in lost]
        slots = np.full(len(names), -1, dtype=np.int64)
        slots[kept] = rest
        return slots, lost | {kept[at]: why for at, why in failed.items()}
    except StorageError as error:  # what it refuses one series that is not in memory, it would refuse each
        refusal = told(error)
    slots = np.array([lane.store.resident.get(name, -1) for name in names], dtype=np.int64)
    return slots, dict.fromkeys(np.flatnonzero(slots < 0).tolist(), refusal)


def _joined(parts: Sequence[tuple[IntArray, Failures]]) -> tuple[IntArray, Failures]:
    starts = np.cumsum([0, *(len(slots) for slots, _ in parts)]).tolist()
    failed = {start + at: e for start, (_, errors) in zip(starts, parts, strict=False) for at, e in errors.items()}
    return np.concatenate([slots for slots, _ in parts]), failed


def _failures(lane: Lane, names: Sequence[str], slots: IntArray, request: ForecastWork) -> Failures:
    """Return why series cannot be forecast as a request asks for, which was checked against another version."""
    config = lane.model.config
    trained, levels = config.quantile_levels, request.levels
    everything: ForecasterError | None
    if request.horizon > config.horizon or not trained[0] <= levels[0] <= levels[-1] <= trained[-1]:
        reason = f"version {lane.version} of the model has another horizon or other levels than the one before"
        everything = InvalidArgumentError(reason)
    else:
        everything = uncalibrated(lane, request) or unsupported(request.drawing, lane.model)
    if everything is not None:
        return dict.fromkeys(range(len(names)), everything)
    needed = config.min_history or 1
    if not len(lane.store.mirrors.observed_count):
        return dict(enumerate(unknown(lane, names)))
    counts = lane.store.mirrors.observed_count[slots]
    missing = np.flatnonzero(slots < 0).tolist()
    failed: Failures = dict(zip(missing, unknown(lane, [names[at] for at in missing]), strict=True))
    if request.awaits_corrections and lane.amended:
        late = set(lane.amended.among(names))
        what = "has late or corrected values and is being folded again: come again, or ask without await_corrections"
        failed |= {at: RefoldingError(f"series {name!r} {what}") for at, name in enumerate(names) if name in late}
    for at in np.flatnonzero((slots >= 0) & (counts < needed)).tolist():
        failed[at] = TooLittleHistoryError(f"series {names[at]!r} has {counts[at]} values; a forecast needs {needed}")
    return failed
