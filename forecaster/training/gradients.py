"""How far back the loss is felt: the norm of its gradient by the steps between a hidden vector and the origin.

Gradients that vanish or explode over time (Bengio et al. 1994; Goodfellow et al. 2016, section 10.7) show as a line
that falls or rises.

Shapes: B lanes, T steps, D horizon steps, L layers, H hidden.
"""

import math

import torch
from torch import Tensor

from forecaster.model.decoders.decoder import DecoderInputs
from forecaster.model.seq2seq import Seq2Seq
from forecaster.model.state import State
from forecaster.training.datamodule import Chunk


def gradient_norms(model: Seq2Seq, batch: Chunk, state: State) -> list[float]:
    """Return for each lag the norm of the gradient of the loss after a chunk's last step, with respect to the hidden
    vectors (and an LSTM's cells) so many steps before; relative to that of lag 0. Empty if nothing can be scored there.

    Args:
        model: its gradients are left as they are.
        batch: T steps.
        state: before them.
    """
    steps, horizon = batch.observations.values.shape[1], model.config.horizon
    target = batch.future[:, steps : steps + horizon]
    if not torch.isfinite(target).any():
        return []
    training, _ = model.training, model.eval()  # no dropout: another one at every step would hide what is asked for
    carried = [tensor.name for tensor in model.encoder.state_spec()]
    vectors: list[Tensor] = []  # of each step, one after the other
    with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):  # cuDNN has no gradients in evaluation
        for t in range(steps):
            state = model.scan(state, batch.observations.part(slice(t, t + 1)))[0]
            vectors += [state[name] for name in carried]
        loss = _loss(model, model.origins_at(state, horizon), target)
        found = torch.autograd.grad(loss, vectors, allow_unused=True)
    model.train(training)
    each = [0.0 if one is None else float(one.norm()) for one in found]
    norms = [math.hypot(*each[t : t + len(carried)]) for t in range(0, len(each), len(carried))][::-1]
    return [norm / norms[0] for norm in norms] if norms[0] > 0 else []


def _loss(model: Seq2Seq, origins: DecoderInputs, target: Tensor) -> Tensor:
    frame = origins.frame
    scored = torch.isfinite(target)
    decoded = model.teacher_forced(origins, target)
    losses = model.decoder.readout.head.loss(decoded.parameters, torch.where(scored, target, frame.level), frame)
    return (losses * scored).sum() / scored.sum()
