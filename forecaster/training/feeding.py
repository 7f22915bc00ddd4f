"""What a recurrent decoder is fed in training, as the training goes on; and what feeding it itself costs.

Teacher forcing never shows the decoder its own errors, which is all that it sees when it forecasts (exposure bias).
Scheduled sampling (Bengio et al. 2015) moves from the one to the other.

Shapes: K origins of a lane.
"""

import math

import torch
from torch import Tensor

from forecaster.config import TrainingConfig
from forecaster.model.decoders.recurrent_decoder import RecurrentDecoder
from forecaster.model.seq2seq import Seq2Seq
from forecaster.model.state import State
from forecaster.training.datamodule import Chunk
from forecaster.training.objective import chunk_loss

_INVERSE_SIGMOID = 10.0  # k of k / (k + exp(i / k)), over 100 steps i


def teacher_share(config: TrainingConfig, progress: float) -> float:
    """Return the chance of the actual value at `progress` (0 to 1) of the training budget.

    Constant: the configured share. Linear: from 1 to the share. Inverse sigmoid: from nearly 1 to the share, slowly at
    first and at the end.
    """
    if config.feeding == "teacher":
        return 1.0
    if config.feeding == "free":
        return 0.0
    share = config.feeding_share
    if config.feeding_schedule == "constant":
        return share
    if config.feeding_schedule == "linear":
        return 1.0 - (1.0 - share) * progress
    k = _INVERSE_SIGMOID
    return share + (1.0 - share) * k / (k + math.exp(100.0 * progress / k))


def exposure(model: Seq2Seq, batch: Chunk, state: State, at: Tensor) -> dict[str, float]:
    """Return the losses of a chunk fed with actual values and with the decoder's own, and the gap between them.

    Empty for a direct decoder, which is fed nothing.
    """
    if not isinstance(model.decoder, RecurrentDecoder):
        return {}
    with torch.no_grad():
        taught, free = (float(chunk_loss(model, batch, state, at, share).mean) for share in (1.0, 0.0))
    return {"teacher_forced_loss": taught, "free_running_loss": free, "exposure_gap": free - taught}
