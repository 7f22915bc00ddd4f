"""Forecasts of the usual requests, quantiles without assumptions or paths, all that are alike in one pass.

A turn may have a message for each of a hundred series: what is done for each message is a slice.

Shapes: N series of all requests, U different ones, D horizon steps, Q trained levels, W wanted ones.
"""

import bisect
import functools
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from forecaster.errors import (
    FencedError,
    ForecasterError,
    InvalidArgumentError,
    LimitReachedError,
    StateLostError,
    StorageError,
    TooLittleHistoryError,
    UnsupportedError,
)
from forecaster.serving.lanes.description import unknown
from forecaster.serving.lanes.lane import Lane
from forecaster.serving.storage.records import IntArray
from forecaster.serving.telemetry import told
from forecaster.serving.work.forecasting import Forecasts, ForecastWork

Float64 = npt.NDArray[np.float64]
_DECODE_CELLS = 262_144  # series × steps of one decode
NONE: Mapping[str, ForecasterError] = MappingProxyType({})


def kind(work: ForecastWork) -> tuple[int, tuple[float, ...], bool] | None:
    """Return what requests have to have in common to be answered together here, None for those of another kind."""
    return (work.horizon, work.levels, work.calibrated) if not work.futures and work.drawing is None else None


def forecast_alike(
    lane: Lane, requests: Sequence[ForecastWork], broken: Mapping[str, ForecasterError] = NONE
) -> list[Forecasts]:
    """Forecast requests of one kind together; `broken` are series that have just started afresh."""
    horizon, levels = requests[0].horizon, requests[0].levels
    names = [name for request in requests for name in request.series_ids]
    slots, unread = brought(lane, [request.series_ids for request in requests])
    failed = failures(lane, names, slots, requests[0]) | unread
    if broken:
        failed |= {at: broken[name] for at, name in enumerate(names) if name in broken}
    kept = slots[[at not in failed for at in range(len(names))]] if failed else slots
    place = None
    distinct = kept
    if len(set(names)) < len(names):
        distinct, place = np.unique(kept, return_inverse=True)
    trained = lane.model.config.quantile_levels
    whole, ended, sound = _decoded(lane, distinct, horizon)
    if sound is not None:
        return forecast_alike(lane, requests, {**broken, **lane.restart(distinct[~sound])})
    if requests[0].calibrated and lane.scoring is not None:  # without it all have failed
        quantiles = lane.scoring.corrected(distinct, whole, levels)
    else:
        quantiles = interpolated(whole, trained, levels)
    median, origins = whole[..., trained.index(0.5)], lane.store.mirrors.clock_us[distinct]
    shown = ended if lane.model.config.end_of_sequence else None
    answers, at, row = [], 0, 0
    for request in requests:
        ids = request.series_ids
        mine: dict[str, ForecasterError] = {}
        if failed:
            mine = {names[k]: failed[k] for k in range(at, at + len(ids)) if k in failed}
            ids = tuple(name for name in ids if name not in mine)
        rows = slice(row, row + len(ids)) if place is None else place[row : row + len(ids)]
        at, row = at + len(request.series_ids), row + len(ids)
        ends = None if shown is None else shown[rows]
        answers.append(Forecasts(ids, origins[rows], median[rows], quantiles[rows], mine, ends, None, (lane.version,)))
    return answers


def uncalibrated(lane: Lane, request: ForecastWork | None) -> UnsupportedError | None:
    """Return what is wrong with a request for corrected quantiles where there are none."""
    if request is None or not request.calibrated or lane.scoring is not None:
        return None
    device = lane.store.slab.device
    return UnsupportedError(f"options.calibrated: states on {device} are not calibrated, ask without it")


def brought(lane: Lane, requests: Sequence[Sequence[str]]) -> tuple[IntArray, dict[int, ForecasterError]]:
    """Return the slots of all requests' series, -1 without one, and why states cannot be had, by position.

    Raises FencedError.
    """
    names = [name for ids in requests for name in ids]
    found: ForecasterError
    try:
        return lane.store.bring(names), {}
    except FencedError:
        raise
    except LimitReachedError as error:
        if len(requests) > 1:  # too many at once: some may fit
            return _joined([brought(lane, [ids]) for ids in requests])
        found = error
    except StateLostError as error:  # the others are as they were
        lost = {at: error for at, name in enumerate(names) if name in error.series_ids}
        if not lost:
            raise
        rest, failed = brought(lane, [[name for at, name in enumerate(names) if at not in lost]])
        kept = [at for at in range(len(names)) if at not in lost]
        slots = np.full(len(names), -1, dtype=np.int64)
        slots[kept] = rest
        return slots, lost | {kept[at]: why for at, why in failed.items()}
    except StorageError as error:  # what it refuses one series that is not in memory, it would refuse each
        found = told(error)
    slots = np.array([lane.store.resident.get(name, -1) for name in names], dtype=np.int64)
    return slots, dict.fromkeys(np.flatnonzero(slots < 0).tolist(), found)


def _joined(
    parts: Sequence[tuple[IntArray, dict[int, ForecasterError]]],
) -> tuple[IntArray, dict[int, ForecasterError]]:
    starts = np.cumsum([0, *(len(slots) for slots, _ in parts)]).tolist()
    failed = {start + at: e for start, (_, errors) in zip(starts, parts, strict=False) for at, e in errors.items()}
    return np.concatenate([slots for slots, _ in parts]), failed


def failures(lane: Lane, names: Sequence[str], slots: IntArray, request: ForecastWork) -> dict[int, ForecasterError]:
    """Return why series cannot be forecast as a request asks for, by position."""
    config = lane.model.config
    trained, levels = config.quantile_levels, request.levels
    if request.horizon > config.horizon or not trained[0] <= levels[0] <= levels[-1] <= trained[-1]:
        reason = f"version {lane.version} of the model has another horizon or other levels than the one before"
        return dict.fromkeys(range(len(names)), InvalidArgumentError(reason))
    if (error := uncalibrated(lane, request)) is not None:
        return dict.fromkeys(range(len(names)), error)
    needed = config.min_history or 1
    if not len(lane.store.mirrors.observed_count):
        return dict(enumerate(unknown(lane, names)))
    counts = lane.store.mirrors.observed_count[slots]
    missing = np.flatnonzero(slots < 0).tolist()
    failed: dict[int, ForecasterError] = dict(zip(missing, unknown(lane, [names[at] for at in missing]), strict=True))
    for at in np.flatnonzero((slots >= 0) & (counts < needed)).tolist():
        failed[at] = TooLittleHistoryError(f"series {names[at]!r} has {counts[at]} values; a forecast needs {needed}")
    return failed


def interpolated(quantiles: Float64, trained: tuple[float, ...], wanted: tuple[float, ...]) -> Float64:
    """Return the quantiles at the `wanted` levels, [..., W], linear between the trained ones [..., Q]."""
    if wanted == trained:
        return quantiles
    left, right, share = _neighbours(trained, wanted)
    if share is None:
        return quantiles[..., left]
    low = quantiles[..., left]
    return low + share * (quantiles[..., right] - low)


@functools.lru_cache(maxsize=256)
def _neighbours(trained: tuple[float, ...], wanted: tuple[float, ...]) -> tuple[IntArray, IntArray, Float64 | None]:
    """Return for each wanted level the trained ones around it, and how far from the left one it is, 0 to 1.

    None instead of the latter if all of them are trained ones.
    """
    right = np.array([bisect.bisect_left(trained, level) for level in wanted], dtype=np.int64)
    known = np.array(trained)
    exact = known[right] == np.array(wanted)
    left = np.where(exact, right, right - 1)
    gap = np.where(exact, 1.0, known[right] - known[left])
    return left, right, None if exact.all() else np.where(exact, 0.0, (np.array(wanted) - known[left]) / gap)


def finite(quantiles: Float64) -> npt.NDArray[np.bool_] | None:
    """Return of which of N forecasts [N, D, Q] all numbers are finite, bool [N]; None if all of them are, as a rule."""
    numbers = np.isfinite(quantiles)
    if numbers.all():
        return None
    return np.asarray(numbers.all(axis=(1, 2)))


def _decoded(lane: Lane, slots: IntArray, horizon: int) -> tuple[Float64, Float64, npt.NDArray[np.bool_] | None]:
    """Return trained quantiles [U, D, Q], probabilities of having ended [U, D], and which are finite (None: all).

    Those that are will be scored.
    """
    store, trained = lane.store, lane.model.config.quantile_levels
    if not len(slots):
        return np.zeros((0, horizon, len(trained))), np.zeros((0, horizon)), None
    at_once = max(_DECODE_CELLS // horizon, 1)
    parts = [
        lane.stepper.forecast(store.slab.tensors, slots[low : low + at_once], horizon)
        for low in range(0, len(slots), at_once)
    ]
    quantiles, ended = parts[0] if len(parts) == 1 else map(np.concatenate, zip(*parts, strict=True))
    sound = finite(quantiles)
    if lane.scoring is not None:
        horizons = np.full(len(slots), horizon)
        given = (slots, quantiles, ended, horizons)
        lane.scoring.issue(*(given if sound is None else (part[sound] for part in given)))
    return quantiles, ended, sound
