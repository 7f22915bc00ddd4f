"""Forecasts of a micro-batch of requests: the quantiles of all of them together, paths by group of like requests.

Reads states and changes none of them. Knows nothing of messages or journals.

Shapes: N series, R rows to decode (a series without and with each of its futures), D horizon steps, Q quantiles,
F known-future covariates, P paths, M and L as in `work`.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from forecaster.errors import ForecasterError, InvalidArgumentError
from forecaster.model.decoders.sampling import Paths
from forecaster.model.seq2seq import Prediction
from forecaster.serving.lanes.drawing import unsupported
from forecaster.serving.lanes.lane import Lane
from forecaster.serving.lanes.plain_forecasts import (
    NONE,
    brought,
    failures,
    finite,
    forecast_alike,
    interpolated,
    kind,
)
from forecaster.serving.storage.records import IntArray
from forecaster.serving.work.work import Drawn, Forecasts, ForecastWork, Futures, Sampling, Search

_DECODE_CELLS = 262_144  # series × steps of one decode
_SEARCH_CELLS = 2_097_152  # series × beams × continuations of one beam search
_DRAW_CELLS = 4_194_304  # series × paths × steps of one drawing
_NO_SLOTS = np.zeros(0, dtype=np.int64)


@dataclass(slots=True)
class _Asked:
    """One request: the series that can be forecast, and their futures, float64 [N, D, F]."""

    work: ForecastWork
    failed: dict[str, ForecasterError]
    series_ids: tuple[str, ...]
    slots: IntArray
    future: Tensor | None


def forecast(lane: Lane, requests: Sequence[ForecastWork]) -> list[Forecasts]:
    """Forecast a micro-batch of requests: those that are alike together."""
    groups: dict[object, list[int]] = {}
    for at, request in enumerate(requests):
        groups.setdefault(kind(request), []).append(at)
    answers: dict[int, Forecasts] = {}
    for which, members in groups.items():
        mine = [requests[at] for at in members]
        answers.update(zip(members, (_forecast if which is None else forecast_alike)(lane, mine), strict=True))
    return [answers[at] for at in range(len(requests))]


@torch.inference_mode()
def _forecast(
    lane: Lane, requests: Sequence[ForecastWork], broken: Mapping[str, ForecasterError] = NONE
) -> list[Forecasts]:
    """Forecast requests with futures or paths; of `broken` series there are no forecasts."""
    model, store = lane.model, lane.store
    trained = model.config.quantile_levels
    asked = [_ask(lane, request, broken) for request in requests]
    predictions = _predict(lane, asked)
    if len(slots := _not_finite(lane, asked, predictions)):
        return _forecast(lane, requests, {**broken, **lane.restart(slots)})
    quantiles = [_levels(lane, one, prediction) for one, prediction in zip(asked, predictions, strict=True)]
    drawn = _draw(lane, asked)
    return [
        Forecasts(
            one.series_ids,
            store.mirrors.clock_us[one.slots],
            prediction.quantiles[..., trained.index(0.5)].numpy(),
            quantiles[at],
            one.failed,
            prediction.ended.numpy() if model.config.end_of_sequence else None,
            drawn.get(at),
            (lane.version,),
        )
        for at, (one, prediction) in enumerate(zip(asked, predictions, strict=True))
    ]


def joined(request: ForecastWork, parts: Sequence[tuple[IntArray, Forecasts]]) -> Forecasts:
    """Return one request's forecasts from those of its parts, in the request's order.

    Args:
        request: whole.
        parts: the places of their series in the request, int64, and the forecasts.
    """
    if len(parts) == 1:
        return parts[0][1]
    answers = [one for _, one in parts]
    names = [name for one in answers for name in one.series_ids]
    place = {name: at for at, name in enumerate(request.series_ids)}
    order = np.argsort([place[name] for name in names], kind="stable")
    each = (one.versions * (1 if len(one.versions) > 1 else len(one.series_ids)) for one in answers)
    versions = [version for part in each for version in part]
    ended = [np.zeros_like(one.median) if one.ended is None else one.ended for one in answers]
    return Forecasts(
        tuple(names[i] for i in order),
        np.concatenate([one.origin_us for one in answers])[order],
        np.concatenate([one.median for one in answers])[order],
        np.concatenate([one.quantiles for one in answers])[order],
        {name: error for one in answers for name, error in one.failures.items()},
        None if all(one.ended is None for one in answers) else np.concatenate(ended)[order],
        _joined_paths([one.drawn for one in answers if one.drawn is not None], order),
        tuple(versions[i] for i in order),
    )


def _joined_paths(parts: Sequence[Drawn], order: IntArray) -> Drawn | None:
    if not parts:
        return None
    found = []
    for one in parts:
        log = None if one.log_probabilities is None else torch.from_numpy(one.log_probabilities)
        found.append(Paths(torch.from_numpy(one.values), torch.from_numpy(one.lengths), log))
    values, lengths, logs = _joined(found)
    at = torch.from_numpy(order)
    return Drawn(values[at].numpy(), lengths[at].numpy(), None if logs is None else logs[at].numpy())


def series_seed(seed: int, series_id: str) -> int:
    """Return the seed of a series' paths: it depends on the request's seed and the series alone."""
    key = seed.to_bytes(8, "little", signed=True)
    return int.from_bytes(hashlib.blake2b(series_id.encode(), digest_size=8, key=key).digest(), "little", signed=True)


def _not_finite(lane: Lane, asked: Sequence[_Asked], predictions: Sequence[Prediction]) -> IntArray:
    """Return the slots of series whose forecasts are not finite: what is known of the future is clipped."""
    found = [_NO_SLOTS]
    for one, prediction in zip(asked, predictions, strict=True):
        if (sound := finite(prediction.quantiles.numpy())) is not None:
            found.append(one.slots[~sound])
    return np.unique(np.concatenate(found)) if len(found) > 1 else _NO_SLOTS


def _ask(lane: Lane, work: ForecastWork, broken: Mapping[str, ForecasterError]) -> _Asked:
    model, store = lane.model, lane.store
    slots, unread = brought(lane, [work.series_ids])
    missing = failures(lane, work.series_ids, slots, work) | unread
    failed = {work.series_ids[at]: error for at, error in missing.items()}
    failed |= {name: broken[name] for name in work.series_ids if name in broken}
    if (error := unsupported(work.drawing, model)) is not None:  # of a request that was checked against another version
        failed = dict.fromkeys(work.series_ids, error)
    future = None
    names = tuple(one.name for one in model.covariates.future)
    if work.futures and names:
        clocks = store.mirrors.clock_us[slots]
        future, off_grid = _ahead(work, clocks, model.step_us, names)
        for series_id in (work.series_ids[at] for at in np.flatnonzero(off_grid)):
            failed.setdefault(series_id, InvalidArgumentError(f"a future covariate is off the grid of {series_id!r}"))
    kept = [at for at, series_id in enumerate(work.series_ids) if series_id not in failed]
    return _Asked(
        work,
        failed,
        tuple(work.series_ids[at] for at in kept),
        slots[kept],
        None if future is None else torch.from_numpy(future[kept]),
    )


def _ahead(
    work: ForecastWork, clocks: npt.NDArray[np.int64], step_us: int, names: tuple[str, ...]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Return known-future covariates step by step ahead of the clocks, [N, D, F], and whose times are off the grid."""
    ahead = np.full((len(work.series_ids), work.horizon, len(names)), np.nan)
    off_grid = np.zeros(len(work.series_ids), dtype=bool)
    for futures in (one.with_covariates(names) for one in work.futures):
        since, rest = np.divmod(clocks[futures.series] + step_us - futures.first_us, step_us)
        off_grid[futures.series] |= futures.timed & (rest != 0)
        ahead[futures.series] = _laid_over(ahead[futures.series], futures, np.where(futures.timed, since, 0))
    return ahead, off_grid


def _laid_over(
    ahead: npt.NDArray[np.float64], futures: Futures, first: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Return [M, D, F] with the futures' values over it; `first` is what of them is at the first step, int64 [M]."""
    given = futures.values.shape[1]
    if given == 0:
        return ahead
    index = first[:, None] + np.arange(ahead.shape[1])  # [M, D]
    values = futures.values[np.arange(len(first))[:, None], index.clip(0, given - 1)]
    known = ((index >= 0) & (index < given))[..., None] & np.isfinite(values)
    return np.where(known, values, ahead)


def _predict(lane: Lane, asked: Sequence[_Asked]) -> list[Prediction]:
    """Return each request's prediction, [N, D, …]; a series that several want without a future is decoded once."""
    if len(asked) == 1:
        one = asked[0]
        prediction = _decoded(lane, one.slots, one.work.horizon, one.future)
        _issue(lane, one, prediction)
        return [prediction]
    plain = np.unique(np.concatenate([_NO_SLOTS, *(one.slots for one in asked if one.future is None)]))
    parts, places, start = [plain], [], len(plain)
    for one in asked:
        if one.future is None:
            places.append(np.searchsorted(plain, one.slots))
        else:
            places.append(np.arange(start, start + len(one.slots)))
            parts.append(one.slots)
            start += len(one.slots)
    slots = np.concatenate(parts)
    horizon = max(one.work.horizon for one in asked)
    future = None
    if len(slots) > len(plain):
        future = torch.full((len(slots), horizon, len(lane.model.covariates.future)), torch.nan, dtype=torch.float64)
        for one, place in zip(asked, places, strict=True):
            if one.future is not None:
                future[torch.from_numpy(place), : one.work.horizon] = one.future
    whole = _decoded(lane, slots, horizon, future)
    predictions = [
        Prediction(*(part[torch.from_numpy(place), : one.work.horizon] for part in whole))
        for one, place in zip(asked, places, strict=True)
    ]
    # A series is scored once: one that knew what lies ahead goes before one that did not, a longer before a shorter.
    order = sorted(range(len(asked)), key=lambda at: (asked[at].future is None, -asked[at].work.horizon))
    for at in order:
        _issue(lane, asked[at], predictions[at])
    return predictions


def _levels(lane: Lane, one: _Asked, prediction: Prediction) -> npt.NDArray[np.float64]:
    """Return the quantiles that were asked for, [N, D, W]."""
    if one.work.calibrated and lane.scoring is not None:
        return lane.scoring.corrected(one.slots, prediction.quantiles.numpy(), one.work.levels)
    return interpolated(prediction.quantiles.numpy(), lane.model.config.quantile_levels, one.work.levels)


def _issue(lane: Lane, one: _Asked, prediction: Prediction) -> None:
    """Let the forecasts of a request be scored, unless they rest on assumptions."""
    if lane.scoring is None or not len(one.slots) or one.work.hypothetical:
        return
    horizons = np.full(len(one.slots), one.work.horizon)
    parts = (one.slots, prediction.quantiles.numpy(), prediction.ended.numpy(), horizons)
    sound = finite(parts[1])
    lane.scoring.issue(*(parts if sound is None else (part[sound] for part in parts)))


def _decoded(lane: Lane, slots: IntArray, horizon: int, future: Tensor | None) -> Prediction:
    model = lane.model
    if not len(slots):
        shape = (0, horizon)
        return Prediction(torch.zeros((*shape, len(model.config.quantile_levels))), torch.zeros(shape))
    at_once = max(_DECODE_CELLS // horizon, 1)
    tensors, device = lane.store.slab.tensors, lane.store.slab.device
    rows = torch.from_numpy(slots).to(device)
    parts = [
        lane.stepper.predict(
            tensors, rows[low : low + at_once], horizon, None if future is None else future[low : low + at_once]
        )
        for low in range(0, len(slots), at_once)
    ]
    return Prediction(*(torch.cat(fields).cpu() for fields in zip(*parts, strict=True)))


def _draw(lane: Lane, asked: Sequence[_Asked]) -> dict[int, Drawn]:
    """Return the paths of the requests that want some, by position."""
    groups: dict[object, list[int]] = {}
    for at, one in enumerate(asked):
        drawing = one.work.drawing
        if drawing is None or not len(one.slots):
            continue
        same = drawing.paths if isinstance(drawing, Sampling) else drawing  # seeds are a series' own
        groups.setdefault((same, one.work.horizon, one.future is None), []).append(at)
    drawn: dict[int, Drawn] = {}
    for members in groups.values():
        found = _draw_together(lane, [asked[at] for at in members])
        start = 0
        for at in members:
            rows = slice(start, start + len(asked[at].slots))
            start = rows.stop
            values, lengths, logs = (None if part is None else part[rows].numpy() for part in found)
            assert values is not None
            assert lengths is not None
            drawn[at] = Drawn(values, lengths, logs)
    return drawn


def _draw_together(lane: Lane, group: Sequence[_Asked]) -> Paths:
    """Return the paths of all series of requests that differ in nothing but series, futures and seeds."""
    horizon, drawing = group[0].work.horizon, group[0].work.drawing
    assert drawing is not None
    model, store = lane.model, lane.store
    slots = np.concatenate([one.slots for one in group])
    futures = [one.future for one in group if one.future is not None]
    future = torch.cat(futures) if futures else None
    seeds = torch.tensor([seed for one in group for seed in _seeds(one)], dtype=torch.int64)
    if isinstance(drawing, Search):
        at_once = _SEARCH_CELLS // (drawing.width * 2 * model.config.num_bins)
    else:
        at_once = _DRAW_CELLS // (drawing.paths * horizon)
    parts = []
    for low in range(0, len(slots), max(at_once, 1)):
        rows = slice(low, low + max(at_once, 1))
        state, ahead = store.gather(slots[rows]), None if future is None else future[rows]
        if isinstance(drawing, Search):
            paths, width, power = drawing.paths, drawing.width, drawing.length_power
            parts.append(model.beam(state, horizon, paths=paths, width=width, length_power=power, future=ahead))
        else:
            parts.append(model.sample(state, horizon, drawing.paths, seeds[rows], ahead))
    return _joined(parts)


def _seeds(one: _Asked) -> list[int]:
    drawing = one.work.drawing
    return [series_seed(drawing.seed, name) for name in one.series_ids] if isinstance(drawing, Sampling) else []


def _joined(parts: Sequence[Paths]) -> Paths:
    """Return the paths of all parts; where a search found fewer than elsewhere, the others have a probability of 0."""
    most = max(part.lengths.shape[1] for part in parts)
    missing = [most - part.lengths.shape[1] for part in parts]
    pad = torch.nn.functional.pad
    logs = None
    if parts[0].log_probabilities is not None:
        found = [part.log_probabilities for part in parts if part.log_probabilities is not None]
        logs = torch.cat([pad(x, (0, n), value=-torch.inf) for x, n in zip(found, missing, strict=True)])
    return Paths(
        torch.cat([pad(part.values, (0, 0, 0, n)) for part, n in zip(parts, missing, strict=True)]),
        torch.cat([pad(part.lengths, (0, n)) for part, n in zip(parts, missing, strict=True)]),
        logs,
    )
