"""One request's forecasts from those of its parts, which different versions, or turns, have made.

Shapes: N series.
"""

from collections.abc import Sequence

import numpy as np
import torch

from forecaster.model.decoders.sampling import Paths
from forecaster.serving.lanes.paths import padded
from forecaster.serving.storage.records import IntArray
from forecaster.serving.work.forecasting import Drawn, Forecasts, ForecastWork


def joined(request: ForecastWork, parts: Sequence[tuple[IntArray, Forecasts]]) -> Forecasts:
    """Return one request's forecasts from those of its parts, in the request's order.

    Args:
        request: whole.
        parts: the places of their series in the request, int64, and the forecasts.
    """
    if len(parts) == 1:
        return parts[0][1]
    answers = [answer for _, answer in parts]
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
        _joined_paths([answer.drawn for answer in answers if answer.drawn is not None], order),
        tuple(versions[i] for i in order),
    )


def _joined_paths(parts: Sequence[Drawn], order: IntArray) -> Drawn | None:
    """Return the paths of several parts as one, in an order of their series; None without any part."""
    if not parts:
        return None
    paths = []
    for part in parts:
        log = None if part.log_probabilities is None else torch.from_numpy(part.log_probabilities)
        paths.append(Paths(torch.from_numpy(part.values), torch.from_numpy(part.lengths), log))
    values, lengths, logs = padded(paths)
    at = torch.from_numpy(order)
    return Drawn(values[at].numpy(), lengths[at].numpy(), None if logs is None else logs[at].numpy())
