"""Forecasts of a micro-batch of requests: all that are alike in one pass.

A turn may have a message for each of a hundred series: what is done for each message is a slice. Reads states and
changes none of them. Knows nothing of messages or journals.

Shapes: N series that can be forecast, of all requests of a group, U different ones (N of them with futures), D horizon
steps, Q trained levels, W wanted ones, F known-future covariates.
"""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from forecaster.data.grid import Grid
from forecaster.errors import ForecasterError, InvalidArgumentError
from forecaster.serving.lanes.forecastable import Failures, forecastable
from forecaster.serving.lanes.known_future import known_ahead
from forecaster.serving.lanes.lane import Lane
from forecaster.serving.lanes.paths import draw
from forecaster.serving.lanes.quantile_levels import Float64, interpolated
from forecaster.serving.storage.records import IntArray
from forecaster.serving.work.forecasting import Forecasts, ForecastWork, Sampling

_DECODE_CELLS = 262_144  # series × steps of one decode
_NONE: Mapping[str, ForecasterError] = MappingProxyType({})


def forecast(lane: Lane, requests: Sequence[ForecastWork]) -> list[Forecasts]:
    """Forecast a micro-batch of requests: those that differ in nothing but series, futures and seeds together."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for at, request in enumerate(requests):
        groups.setdefault(_kind(request), []).append(at)
    answers: dict[int, Forecasts] = {}
    # A series is scored once: one that knew what lies ahead goes before one that did not, a longer before a shorter.
    for kind in groups if len(groups) == 1 else sorted(groups, key=lambda kind: kind[:2]):
        members = groups[kind]
        answers.update(zip(members, _forecast_alike(lane, [requests[at] for at in members]), strict=True))
    return [answers[at] for at in range(len(requests))]


def _kind(work: ForecastWork) -> tuple[object, ...]:
    """Return what requests have in common that are answered together."""
    drawing = work.drawing.paths if isinstance(work.drawing, Sampling) else work.drawing  # seeds are a series' own
    flags = (work.calibrated, work.hypothetical, work.awaits_corrections)
    return not work.futures, -work.horizon, work.levels, flags, drawing


@torch.inference_mode()
def _forecast_alike(
    lane: Lane, requests: Sequence[ForecastWork], broken: Mapping[str, ForecasterError] = _NONE
) -> list[Forecasts]:
    """Forecast requests of one kind together; `broken` are series that have just started afresh."""
    first, config = requests[0], lane.model.config
    names = [name for request in requests for name in request.series_ids]
    slots, failed = forecastable(lane, requests)
    if broken:
        failed |= {at: broken[name] for at, name in enumerate(names) if name in broken}
    future = _future(lane, requests, slots, failed) if first.futures else None
    if failed:
        kept = [at for at in range(len(names)) if at not in failed]
        slots, future = slots[kept], None if future is None else future[kept]
    distinct, place = slots, None
    if future is None and len(set(names)) < len(names):
        distinct, place = np.unique(slots, return_inverse=True)

    whole, ended = _decoded(lane, distinct, first.horizon, future)
    sound = _finite(whole)
    if not first.hypothetical:
        _issue(lane, distinct, whole, ended, sound)
    if sound is not None:  # what is known of the future is clipped: the states are to blame
        return _forecast_alike(lane, requests, {**broken, **lane.restart(np.unique(distinct[~sound]))})
    if first.calibrated and lane.scoring is not None:  # without it all have failed
        quantiles = lane.scoring.corrected(distinct, whole, first.levels)
    else:
        quantiles = interpolated(whole, config.quantile_levels, first.levels)
    median, origins = whole[..., config.quantile_levels.index(0.5)], lane.store.mirrors.clock_us[distinct]
    parts = list(_parts(requests, names, failed))
    drawn = draw(lane, [(request, ids) for request, ids, _ in parts], slots, future)

    answers, row = [], 0
    for (_, ids, failures), paths in zip(parts, drawn, strict=True):
        rows = slice(row, row + len(ids)) if place is None else place[row : row + len(ids)]
        row += len(ids)
        ends = ended[rows] if config.end_of_sequence else None
        answers.append(
            Forecasts(ids, origins[rows], median[rows], quantiles[rows], failures, ends, paths, (lane.version,))
        )
    return answers


def _future(lane: Lane, requests: Sequence[ForecastWork], slots: IntArray, failed: Failures) -> Tensor | None:
    """Return what is known of the time ahead, [N, D, F], failed ones too; notes whose times are off the grid."""
    names = tuple(covariate.name for covariate in lane.model.covariates.future)
    if not names or len(failed) == len(slots):
        return None
    grid, ahead, start = Grid(lane.model.step_us), [], 0
    for request in requests:
        clocks = lane.store.mirrors.clock_us[slots[start : start + len(request.series_ids)]]
        known, off_grid = known_ahead(request, clocks, grid, names)
        ahead.append(known)
        for at in np.flatnonzero(off_grid).tolist():
            what = f"a future covariate is off the grid of {request.series_ids[at]!r}"
            failed.setdefault(start + at, InvalidArgumentError(what))
        start += len(request.series_ids)
    return torch.from_numpy(np.concatenate(ahead))


def _parts(
    requests: Sequence[ForecastWork], names: Sequence[str], failed: Failures
) -> Iterator[tuple[ForecastWork, tuple[str, ...], dict[str, ForecasterError]]]:
    """Yield each request, those of its series that can be forecast, and why the others cannot."""
    start = 0
    for request in requests:
        ids, failures = request.series_ids, dict[str, ForecasterError]()
        if failed:
            failures = {names[at]: failed[at] for at in range(start, start + len(ids)) if at in failed}
            ids = tuple(name for name in ids if name not in failures)
        start += len(request.series_ids)
        yield request, ids, failures


def _decoded(lane: Lane, slots: IntArray, horizon: int, future: Tensor | None) -> tuple[Float64, Float64]:
    """Return trained quantiles [U, D, Q], and probabilities of having ended [U, D]."""
    tensors, model = lane.store.slab.tensors, lane.model
    if not len(slots):
        return np.zeros((0, horizon, len(model.config.quantile_levels))), np.zeros((0, horizon))
    parts, at_once = [], max(_DECODE_CELLS // horizon, 1)
    for low in range(0, len(slots), at_once):
        some = slots[low : low + at_once]
        if future is None:
            parts.append(lane.stepper.forecast(tensors, some, horizon))
        else:
            rows = torch.from_numpy(some).to(lane.store.slab.device)
            prediction = lane.stepper.predict(tensors, rows, horizon, future[low : low + at_once])
            parts.append((prediction.quantiles.cpu().numpy(), prediction.ended.cpu().numpy()))
    if len(parts) == 1:
        return parts[0]
    quantiles, ended = map(np.concatenate, zip(*parts, strict=True))
    return quantiles, ended


def _finite(quantiles: Float64) -> npt.NDArray[np.bool_] | None:
    """Return of which of U forecasts [U, D, Q] all numbers are finite, bool [U]; None if all of them are, as a rule."""
    numbers = np.isfinite(quantiles)
    if numbers.all():
        return None
    return np.asarray(numbers.all(axis=(1, 2)))


def _issue(
    lane: Lane, slots: IntArray, quantiles: Float64, ended: Float64, sound: npt.NDArray[np.bool_] | None
) -> None:
    """Let forecasts be scored when their time comes, those that are finite; of two of a series the first."""
    if lane.scoring is None or not len(slots):
        return
    rows = np.arange(len(slots)) if sound is None else np.flatnonzero(sound)
    _, firsts = np.unique(slots[rows], return_index=True)
    if len(firsts) < len(rows):
        rows = rows[firsts]
    whole = len(rows) == len(slots)  # as a rule: nothing is copied
    issued = (slots, quantiles, ended) if whole else (slots[rows], quantiles[rows], ended[rows])
    lane.scoring.issue(*issued, np.full(len(rows), quantiles.shape[1]))
