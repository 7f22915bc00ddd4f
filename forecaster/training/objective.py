"""What a training minimises: the loss of a chunk's forecasts, from every scored origin of one streaming pass.

Every step of a chunk can be a forecast origin (Wen et al. 2017, "A Multi-Horizon Quantile Recurrent Forecaster"), all
encoded in one pass.

Knows the model and a chunk; knows nothing of Lightning, of optimisers or of epochs.

Shapes: B lanes, T steps, D horizon steps, K origins of a lane, N = B · K, F known-future covariates.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from forecaster.model.decoders.decoder import Decoded, DecoderInputs
from forecaster.model.decoders.recurrent_decoder import RecurrentDecoder
from forecaster.model.inputs.observations import Observations
from forecaster.model.seq2seq import Seq2Seq
from forecaster.model.state import State
from forecaster.training.datamodule import Chunk

_HIDDEN_SHARE = 0.1  # of the origins whose known future is hidden, so that a forecast without one makes sense
_HIDDEN_COVARIATES = 0.05  # of the series and chunks in which a covariate is hidden from the encoder, likewise


@dataclass(frozen=True, slots=True)
class Loss:
    """The loss of a chunk.

    Args:
        state: after the chunk.
        total: the sum over scored pairs of origin and step; pinball losses are in MASE units.
        count: of those pairs.
        beside: what is learnt beside the values: when a series ends, a readout. Zero if there is nothing.
    """

    state: State
    total: Tensor
    count: int
    beside: Tensor

    @property
    def mean(self) -> Tensor:
        """The loss to minimise."""
        return self.total / max(self.count, 1) + self.beside


def chunk_loss(model: Seq2Seq, batch: Chunk, state: State, at: Tensor, teacher_share: float = 1.0) -> Loss:
    """Walk a chunk and score the forecasts after some of its steps.

    Args:
        model: in training mode some covariates, and the known future of some origins, are hidden from it.
        batch: the chunk.
        state: before it.
        at: the origins' steps, int64 [K].
        teacher_share: the chance that a recurrent decoder is fed the actual value before a step, and not its own.
    """
    horizon = model.config.horizon
    seen_before = state["observed_count"][:, None]
    state, encoded = model.scan(state, _observations(model, batch))
    ahead = at[:, None] + torch.arange(1, horizon + 1, device=at.device)  # [K, D]
    origins = model.origins_of(encoded, at, horizon, _future(model, batch, ahead))
    target = batch.future[:, ahead].reshape(-1, horizon)  # [N, D]
    seen = seen_before + batch.observations.observed.cumsum(dim=1)[:, at]  # [B, K]
    enough = (seen >= (model.config.min_history or 1)).reshape(-1, 1)
    scored = torch.isfinite(target) & enough
    decoded = _decoded(model, origins, target, teacher_share)
    frame, head = origins.frame, model.decoder.readout.head
    losses = head.loss(decoded.parameters, torch.where(scored, target, frame.level), frame)
    weight = scored * _weight(head.error_power, origins.unit / batch.units.repeat_interleave(len(at)))[:, None]
    beside = model.auxiliary_loss(encoded, batch.observations) / max(int(batch.observations.observed.sum()), 1)
    if decoded.ending is not None:
        beside = beside + _ending_loss(decoded.ending, batch, ahead, enough)
    return Loss(state, (losses * weight).sum(), int(scored.sum()), beside)


def _decoded(model: Seq2Seq, origins: DecoderInputs, target: Tensor, teacher_share: float) -> Decoded:
    if teacher_share >= 1 or not isinstance(model.decoder, RecurrentDecoder):
        return model.teacher_forced(origins, target)
    frame, head = origins.frame, model.decoder.readout.head

    def choose(k: int, parameters: Tensor, ending: Tensor | None) -> Tensor:
        """Return the actual value of a step, or one drawn from what the decoder says of it."""
        uniform = torch.rand(parameters.shape[:2], dtype=torch.float64, device=target.device)
        own = head.sample(parameters.detach(), uniform.clamp(1e-6, 1 - 1e-6), frame)
        actual = target[:, k : k + 1]
        taught = (torch.rand(own.shape, device=own.device) < teacher_share) & torch.isfinite(actual)
        return torch.where(taught, actual, own)

    decoded, _ = model.decoder.rollout(origins, 1, choose)
    return Decoded(decoded.parameters[:, 0], None if decoded.ending is None else decoded.ending[:, 0])


def _weight(error_power: int, unit: Tensor) -> Tensor:
    """Return what a pair's loss is multiplied by, float32 [N], so that errors weigh as in MASE, or squared.

    A unit that only one change was seen of may be a thousandth of the later ones: in it, the squared error of one
    origin outweighs all others of a chunk.

    Args:
        error_power: the head's.
        unit: of each origin, in MASE's denominators of its series, float64 [N].
    """
    return (unit if error_power < 2 else unit.clamp_max(1.0)).pow(error_power).float()


def _observations(model: Seq2Seq, batch: Chunk) -> Observations:
    """Return the chunk's observations; in training some series miss a covariate, or all of them, throughout it."""
    covariates = batch.observations.covariates
    if not model.training or covariates is None:
        return batch.observations
    one, every = (torch.rand(len(covariates), 1, size, device=covariates.device) for size in (covariates.shape[-1], 1))
    hidden = (one < _HIDDEN_COVARIATES / 2) | (every < _HIDDEN_COVARIATES / 2)
    return batch.observations._replace(covariates=covariates.masked_fill(hidden, math.nan))


def _future(model: Seq2Seq, batch: Chunk, ahead: Tensor) -> Tensor | None:
    """Return the known-future covariates behind every origin, float64 [N, D, F]."""
    if not model.covariates.future:
        return None
    future = batch.covariates[:, ahead, len(model.covariates.past) :].flatten(0, 1)
    if model.training:
        hidden = torch.rand(len(future), device=future.device) < _HIDDEN_SHARE
        future = future.masked_fill(hidden[:, None, None], math.nan)
    return future


def _ending_loss(ending: Tensor, batch: Chunk, ahead: Tensor, enough: Tensor) -> Tensor:
    """Return the mean cross-entropy of going on or ending, over the steps up to the last one known of a series."""
    stops = batch.stops[:, None, None]
    known = (ahead <= stops).reshape(ending.shape) & enough
    over = ((ahead == stops) & batch.ended[:, None, None]).reshape(ending.shape)
    losses = functional.binary_cross_entropy_with_logits(ending, over.float(), reduction="none")
    return (losses * known).sum() / known.sum().clamp_min(1)
