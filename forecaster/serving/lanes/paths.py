"""Whether a model can draw paths, and those that requests want, which differ in nothing but series, futures and seeds.

Shapes: N series of all requests, P paths.
"""

import hashlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from forecaster.errors import UnsupportedError
from forecaster.model.decoders.sampling import Paths
from forecaster.model.ensemble import Ensemble, Model
from forecaster.serving.lanes.lane import Lane
from forecaster.serving.storage.records import IntArray
from forecaster.serving.work.forecasting import Drawn, ForecastWork, Sampling, Search

_SEARCH_CELLS = 2_097_152  # series × beams × continuations of one beam search
_DRAW_CELLS = 4_194_304  # series × paths × steps of one drawing


def unsupported(drawing: Sampling | Search | None, model: Model) -> UnsupportedError | None:
    """Return what a model would raise, None if it can do it."""
    if drawing is not None and model.config.decoder != "recurrent":
        return UnsupportedError("this model forecasts each step for itself: paths need model.decoder=recurrent")
    if isinstance(drawing, Search) and model.config.head != "categorical":
        return UnsupportedError("beam search needs model.decoder=recurrent and model.head=categorical")
    if isinstance(drawing, Search) and isinstance(model, Ensemble):
        return UnsupportedError("beam search needs a single network: this model is an ensemble")
    return None


def series_seed(seed: int, series_id: str) -> int:
    """Return the seed of a series' paths: it depends on the request's seed and the series alone."""
    key = seed.to_bytes(8, "little", signed=True)
    return int.from_bytes(hashlib.blake2b(series_id.encode(), digest_size=8, key=key).digest(), "little", signed=True)


def draw(
    lane: Lane, parts: Sequence[tuple[ForecastWork, tuple[str, ...]]], slots: IntArray, future: Tensor | None
) -> Iterator[Drawn | None]:
    """Yield the paths of each request, None if it wants none or none of its series has any.

    Args:
        lane: of the states.
        parts: each request, and those of its series that can be forecast.
        slots: of these, all requests', int64 [N].
        future: what is known of the time ahead, float64 [N, D, F].
    """
    whole = _draw_together(lane, parts, slots, future) if len(slots) and parts[0][0].drawing is not None else None
    start = 0
    for _, series_ids in parts:
        rows = slice(start, start + len(series_ids))
        start = rows.stop
        if whole is None or not series_ids:
            yield None
            continue
        logs = None if whole.log_probabilities is None else whole.log_probabilities[rows].numpy()
        yield Drawn(whole.values[rows].numpy(), whole.lengths[rows].numpy(), logs)


def _draw_together(
    lane: Lane, parts: Sequence[tuple[ForecastWork, tuple[str, ...]]], slots: IntArray, future: Tensor | None
) -> Paths:
    horizon, drawing = parts[0][0].horizon, parts[0][0].drawing
    assert drawing is not None
    model, store = lane.model, lane.store
    seeds = torch.tensor([seed for part in parts for seed in _seeds(*part)], dtype=torch.int64)
    if isinstance(drawing, Search):
        at_once = _SEARCH_CELLS // (drawing.width * 2 * model.config.num_bins)
    else:
        at_once = _DRAW_CELLS // (drawing.paths * horizon)
    paths = []
    for low in range(0, len(slots), max(at_once, 1)):
        rows = slice(low, low + max(at_once, 1))
        state, ahead = store.gather(slots[rows]), None if future is None else future[rows]
        if isinstance(drawing, Search):
            count, width, power = drawing.paths, drawing.width, drawing.length_power
            paths.append(model.beam(state, horizon, paths=count, width=width, length_power=power, future=ahead))
        else:
            paths.append(model.sample(state, horizon, drawing.paths, seeds[rows], ahead))
    return padded(paths)


def _seeds(work: ForecastWork, series_ids: Sequence[str]) -> list[int]:
    drawing = work.drawing
    return [series_seed(drawing.seed, name) for name in series_ids] if isinstance(drawing, Sampling) else []


def padded(parts: Sequence[Paths]) -> Paths:
    """Return the paths of all parts; where a search found fewer than elsewhere, the others have a probability of 0."""
    most = max(part.lengths.shape[1] for part in parts)
    missing = [most - part.lengths.shape[1] for part in parts]
    pad = torch.nn.functional.pad
    logs = None
    if parts[0].log_probabilities is not None:
        known = [part.log_probabilities for part in parts if part.log_probabilities is not None]
        logs = torch.cat([pad(x, (0, n), value=-torch.inf) for x, n in zip(known, missing, strict=True)])
    return Paths(
        torch.cat([pad(part.values, (0, 0, 0, n)) for part, n in zip(parts, missing, strict=True)]),
        torch.cat([pad(part.lengths, (0, n)) for part, n in zip(parts, missing, strict=True)]),
        logs,
    )
