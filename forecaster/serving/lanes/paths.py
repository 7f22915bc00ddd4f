"""The paths that requests want drawn or searched for, by groups of requests that are alike.

Shapes: N series, D horizon steps, P paths.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch

from forecaster.model.decoders.sampling import Paths
from forecaster.serving.lanes.asked import Asked
from forecaster.serving.lanes.lane import Lane
from forecaster.serving.storage.records import IntArray
from forecaster.serving.work.forecasting import Drawn, Sampling, Search

_SEARCH_CELLS = 2_097_152  # series × beams × continuations of one beam search
_DRAW_CELLS = 4_194_304  # series × paths × steps of one drawing


def joined_paths(parts: Sequence[Drawn], order: IntArray) -> Drawn | None:
    """Return the paths of several parts as one, in an order of their series; None without any part."""
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


def draw(lane: Lane, asked: Sequence[Asked]) -> dict[int, Drawn]:
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


def _draw_together(lane: Lane, group: Sequence[Asked]) -> Paths:
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


def _seeds(one: Asked) -> list[int]:
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
