"""Forecasts of a micro-batch of requests: the quantiles of all of them together, paths by group of like requests.

Reads states and changes none of them. Knows nothing of messages or journals.

Shapes: N series, R rows to decode (a series without and with each of its futures), D horizon steps, Q quantiles,
F known-future covariates, P paths, M and L as in `work`.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from forecaster.errors import ForecasterError
from forecaster.model.seq2seq import Prediction
from forecaster.serving.lanes.asked import Asked, ask
from forecaster.serving.lanes.lane import Lane
from forecaster.serving.lanes.paths import draw, joined_paths
from forecaster.serving.lanes.plain_forecasts import NONE, finite, forecast_alike, interpolated, kind
from forecaster.serving.storage.records import IntArray
from forecaster.serving.work.forecasting import Forecasts, ForecastWork

_DECODE_CELLS = 262_144  # series × steps of one decode
_NO_SLOTS = np.zeros(0, dtype=np.int64)


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
    asked = [ask(lane, request, broken) for request in requests]
    predictions = _predict(lane, asked)
    if len(slots := _not_finite(lane, asked, predictions)):
        return _forecast(lane, requests, {**broken, **lane.restart(slots)})
    quantiles = [_levels(lane, one, prediction) for one, prediction in zip(asked, predictions, strict=True)]
    drawn = draw(lane, asked)
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
    names = [name for answer in answers for name in answer.series_ids]
    place = {name: at for at, name in enumerate(request.series_ids)}
    order = np.argsort([place[name] for name in names], kind="stable")
    each = (answer.versions * (1 if len(answer.versions) > 1 else len(answer.series_ids)) for answer in answers)
    versions = [version for part in each for version in part]
    ended = [np.zeros_like(answer.median) if answer.ended is None else answer.ended for answer in answers]
    return Forecasts(
        tuple(names[i] for i in order),
        np.concatenate([answer.origin_us for answer in answers])[order],
        np.concatenate([answer.median for answer in answers])[order],
        np.concatenate([answer.quantiles for answer in answers])[order],
        {name: error for answer in answers for name, error in answer.failures.items()},
        None if all(answer.ended is None for answer in answers) else np.concatenate(ended)[order],
        joined_paths([answer.drawn for answer in answers if answer.drawn is not None], order),
        tuple(versions[i] for i in order),
    )


def _not_finite(lane: Lane, asked: Sequence[Asked], predictions: Sequence[Prediction]) -> IntArray:
    """Return the slots of series whose forecasts are not finite: what is known of the future is clipped."""
    found = [_NO_SLOTS]
    for one, prediction in zip(asked, predictions, strict=True):
        if (sound := finite(prediction.quantiles.numpy())) is not None:
            found.append(one.slots[~sound])
    return np.unique(np.concatenate(found)) if len(found) > 1 else _NO_SLOTS


def _predict(lane: Lane, asked: Sequence[Asked]) -> list[Prediction]:
    """Return each request's prediction, [N, D, …]; a series that several want without a future is decoded once."""
    if len(asked) == 1:
        one = asked[0]
        prediction = _decoded(lane, one.slots, one.work.horizon, one.future)
        _issue(lane, one, prediction)
        return [prediction]
    plain = np.unique(np.concatenate([_NO_SLOTS, *(request.slots for request in asked if request.future is None)]))
    parts, places, start = [plain], [], len(plain)
    for one in asked:
        if one.future is None:
            places.append(np.searchsorted(plain, one.slots))
        else:
            places.append(np.arange(start, start + len(one.slots)))
            parts.append(one.slots)
            start += len(one.slots)
    slots = np.concatenate(parts)
    horizon = max(request.work.horizon for request in asked)
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


def _levels(lane: Lane, one: Asked, prediction: Prediction) -> npt.NDArray[np.float64]:
    """Return the quantiles that were asked for, [N, D, W]."""
    if one.work.calibrated and lane.scoring is not None:
        return lane.scoring.corrected(one.slots, prediction.quantiles.numpy(), one.work.levels)
    return interpolated(prediction.quantiles.numpy(), lane.model.config.quantile_levels, one.work.levels)


def _issue(lane: Lane, one: Asked, prediction: Prediction) -> None:
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
