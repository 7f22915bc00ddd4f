"""Beam search: the most probable paths of bins of a recurrent decoder with a categorical head.

Step by step each of the W best beginnings is continued by every bin, and the W best of all continuations are kept. A
path's probability is the product of its bins' probabilities (and, for series that end, of going on or ending after
each). With W = 1 it is the greedy path; with W as large as the number of all paths it is exhaustive.

Shapes: N origins, W width, P paths, D horizon steps, K bins.
"""

import torch
from torch import Tensor
from torch.nn import functional

from forecaster.model.decoders.decoder import DecoderInputs
from forecaster.model.decoders.recurrent_decoder import RecurrentDecoder
from forecaster.model.decoders.sampling import Paths
from forecaster.model.heads.discrete_heads import CategoricalHead


def beam_search(
    decoder: RecurrentDecoder,
    origins: DecoderInputs,
    horizon: int,
    *,
    paths: int,
    width: int,
    length_power: float = 0.0,
) -> Paths:
    """Return the most probable paths, the best first; values are the middles of their bins.

    Args:
        decoder: in evaluation mode, with a categorical head.
        origins: N.
        horizon: D, at most the origins'.
        paths: P, at most `width`; fewer if there are not so many.
        width: W.
        length_power: finished paths are ranked by log-probability / length to this power (Wu et al. 2016 without their
            constant); 0 ranks by the probability alone, which favours short ones.
    """
    head = decoder.readout.head
    assert isinstance(head, CategoricalHead)
    n = len(origins.context)
    plan = decoder.plan(origins)
    middles = head.values(origins.frame)[:, 0]  # [N, K]
    state, value = decoder.initial(plan, 1)
    score = torch.zeros(n, 1, dtype=torch.float64, device=value.device)
    values = torch.zeros(n, 1, 0, dtype=torch.float64, device=value.device)
    lengths = torch.zeros(n, 1, dtype=torch.int64, device=value.device)
    over = torch.zeros(n, 1, dtype=torch.bool, device=value.device)
    for k in range(horizon):
        state, parameters, ending = decoder.step(plan, k, state, value)
        grown = _continued(score, parameters.double(), ending, over)  # [N, W, 2 K]: going on, then ending
        long = lengths + ~over
        ranked = grown / (long.clamp_min(1)[..., None].double() ** length_power)
        count = min(width, int((grown > -torch.inf).flatten(1).sum(dim=1).max()))
        best = ranked.flatten(1).topk(count, dim=1).indices  # [N, W]
        beam, choice = best // grown.shape[-1], best % grown.shape[-1]
        bins = middles.shape[-1]
        score = grown.flatten(1).gather(1, best)
        was_over = over.gather(1, beam)
        value = middles.gather(1, choice % bins)
        values = torch.cat([values.gather(1, beam[..., None].expand(-1, -1, k)), value[..., None]], dim=2)
        lengths = long.gather(1, beam)
        over = was_over | (choice >= bins)
        rows = (torch.arange(n, device=beam.device)[:, None] * grown.shape[1] + beam).flatten()
        state = {name: tensor.index_select(0, rows) for name, tensor in state.items()}
    order = (score / lengths.double() ** length_power).argsort(dim=1, descending=True, stable=True)[:, :paths]
    return Paths(
        values.gather(1, order[..., None].expand(-1, -1, horizon)), lengths.gather(1, order), score.gather(1, order)
    )


def _continued(score: Tensor, bins: Tensor, ending: Tensor | None, over: Tensor) -> Tensor:
    """Return the log-probabilities of every continuation, -inf for what is none, [N, W, 2 K].

    A path that is over has one continuation, itself, counted as its first bin.
    """
    going, stopping = torch.zeros_like(score), torch.full_like(score, -torch.inf)
    if ending is not None:
        going, stopping = functional.logsigmoid(-ending.double()), functional.logsigmoid(ending.double())
    grown = torch.cat([bins + going[..., None], bins + stopping[..., None]], dim=-1) + score[..., None]
    itself = torch.full_like(grown, -torch.inf)
    itself[..., 0] = score
    return torch.where(over[..., None], itself, grown)
