"""Paths drawn from a recurrent decoder, and random numbers that depend on nothing but their seed and place.

Shapes: N origins, P paths, D horizon steps, Q quantiles.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from forecaster.model.decoders.decoder import DecoderInputs
from forecaster.model.decoders.recurrent_decoder import RecurrentDecoder

_ODD = 0x9E3779B97F4A7C15 - 2**64  # 2⁶⁴ divided by the golden ratio, as a signed number
_MIX = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)
_PATHS_AT_ONCE = 16_384


class Paths(NamedTuple):
    """Possible futures.

    Args:
        values: float64 [N, P, D]; what lies behind a path's length means nothing.
        lengths: steps of each path, int64 [N, P]: D unless the series ends.
        log_probabilities: float64 [N, P]; None for samples, which all weigh the same.
    """

    values: Tensor
    lengths: Tensor
    log_probabilities: Tensor | None = None


def uniforms(seeds: Tensor, paths: int, steps: int, *, stream: int) -> Tensor:
    """Return numbers in (0, 1), float64 [N, P, steps], for int64 seeds [N] and a stream, such as 0.

    They are SplitMix64 (Steele et al. 2014) of seed and place, so that a series' numbers depend neither on the batch
    nor on how many steps are asked for.
    """
    place = torch.arange(1, paths * steps + 1, device=seeds.device).reshape(steps, paths).T
    state = _mixed(_mixed(seeds * _ODD) + stream * _ODD)[:, None, None] + place * _ODD
    return ((_mixed(state) >> 12 & (2**52 - 1)).double() + 0.5) / 2**52  # with a bit more the largest would be 1


def stratified(drawn: Tensor) -> Tensor:
    """Return the numbers [N, P, steps] moved so that at every step each P-th part of (0, 1) holds one (McKay et al.
    1979, "Latin hypercube"): the middle of it, in the order of the numbers drawn.

    A hundred independent numbers have their median between 0.4 and 0.6, and all series share them.
    """
    ranks = drawn.argsort(dim=1).argsort(dim=1)
    return (ranks.double() + 0.5) / drawn.shape[1]


def quantiles_of(paths: Paths, levels: Tensor) -> Tensor:
    """Return the quantiles at `levels` [Q] of the paths that still go on at each step, [N, D, Q].

    Where none does they are those of all paths.

    Of n values the one of rank i (from 0) is the quantile at (i + ½) / n (Hazen's plotting position); numpy's and
    torch's default, i / (n - 1), would make intervals narrower.
    """
    steps = torch.arange(paths.values.shape[-1], device=paths.values.device)
    going = steps < paths.lengths[..., None]
    going |= ~going.any(dim=1, keepdim=True)
    ordered = torch.where(going, paths.values, torch.inf).sort(dim=1).values  # [N, P, D]
    count = going.sum(dim=1)[..., None]
    rank = (levels * count - 0.5).clamp_min(0.0).minimum(count - 1.0)  # [N, D, Q]
    low = rank.floor().long()
    columns = ordered.transpose(1, 2)
    left, right = columns.gather(-1, low), columns.gather(-1, (low + 1).minimum(count - 1))
    return torch.lerp(left, right, rank - low)


def _mixed(z: Tensor) -> Tensor:
    z = (z ^ (z >> 30 & (2**34 - 1))) * _MIX[0]
    z = (z ^ (z >> 27 & (2**37 - 1))) * _MIX[1]
    return z ^ (z >> 31 & (2**33 - 1))


def sample_paths(
    decoder: RecurrentDecoder, origins: DecoderInputs, paths: int, seeds: Tensor, *, even: bool = False
) -> Paths:
    """Return paths drawn value by value, each fed to the next step (ancestral sampling).

    Args:
        decoder: in evaluation mode.
        origins: N.
        paths: P.
        seeds: of each origin, int64 [N]; the same seed gives the same paths.
        even: draw `stratified` numbers: the paths of a series are then not independent of each other, but cover each
            step's distribution far more evenly.
    """
    n, horizon = origins.seasonal.shape[:2]
    at_once = max(_PATHS_AT_ONCE // paths, 1)
    parts = [
        _sample(decoder, origins.rows(slice(low, low + at_once)), paths, seeds[low : low + at_once], even)
        for low in range(0, n, at_once)
    ]
    if not parts:
        return Paths(torch.zeros(0, paths, horizon, dtype=torch.float64), torch.zeros(0, paths, dtype=torch.int64))
    return Paths(torch.cat([part.values for part in parts]), torch.cat([part.lengths for part in parts]))


def _sample(decoder: RecurrentDecoder, origins: DecoderInputs, paths: int, seeds: Tensor, even: bool) -> Paths:
    horizon = origins.seasonal.shape[1]
    drawn, ends = (uniforms(seeds, paths, horizon, stream=stream) for stream in (0, 1))
    if even:
        drawn, ends = stratified(drawn), stratified(ends)
    frame, head = origins.frame, decoder.readout.head

    def choose(k: int, parameters: Tensor, ending: Tensor | None) -> Tensor:
        return head.sample(parameters, drawn[..., k], frame)

    decoded, values = decoder.rollout(origins, paths, choose)
    lengths = torch.full(values.shape[:2], horizon, device=values.device)
    if decoded.ending is not None:
        over = ends < decoded.ending.double().sigmoid()  # [N, P, D]
        first = torch.where(over, torch.arange(1, horizon + 1, device=values.device), horizon)
        lengths = first.amin(dim=-1)
    return Paths(values, lengths)
