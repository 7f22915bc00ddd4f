"""The Lightning module: the streaming pass, chunk by chunk, and what is learnt from each.

The state is carried from chunk to chunk and detached between them: truncated back-propagation through time.

Knows nothing of files, of checkpoints or of where the series come from.

Shapes: B lanes, K origins of a lane.
"""

import math
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from forecaster.config import TrainingConfig
from forecaster.evaluation.rolling import Backtest
from forecaster.model.covariates import with_attributes
from forecaster.model.seq2seq import Seq2Seq
from forecaster.model.state import State, detach
from forecaster.training.datamodule import Chunk
from forecaster.training.feeding import exposure, teacher_share
from forecaster.training.gradients import gradient_norms
from forecaster.training.objective import Loss, chunk_loss
from forecaster.training.processes.ranks import Group

VALIDATION_METRICS = ("mase", "seasonal_naive_mase", "pinball", "coverage_80")


class ForecasterModule(pl.LightningModule):
    """Fits a `Seq2Seq`.

    Args:
        model: what is trained.
        config: the training configuration.
        validate: scores the model on the validation tail.
        time_share: tells which share of the time limit is used, 0 to 1; 0 without a limit.
        origin: what the training is made of; every checkpoint carries it.
        group: the processes that train together, each on series of its own.
    """

    def __init__(
        self,
        model: Seq2Seq,
        config: TrainingConfig,
        *,
        validate: Callable[[Seq2Seq], Backtest],
        time_share: Callable[[], float],
        origin: dict[str, Any],
        group: Group | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self._group = group or Group()
        self._config, self._validate, self._time_share = config, validate, time_share
        self._origin = origin
        self._carried: State | None = None
        self.progress = 0.0  # the share of the training budget that is used, 0 to 1: of the epochs or of the time
        self._scored = 0
        self._probe: tuple[Chunk, State] | None = None
        self.gradient_norms: list[float] = []  # by lag, of the last epoch; see `training.gradient_lags`

    def on_train_batch_start(self, batch: Chunk, batch_idx: int) -> None:
        """Set the learning rate for the budget that is used.

        Every epoch starts from its own random state, so that a resumed training draws what it would have.
        """
        self.progress = self._progress(batch_idx)
        if batch_idx == 0:
            rank = self._group.place.rank
            torch.manual_seed((self._config.seed * 1_000_003 + self.trainer.current_epoch) ^ (rank << 48))
        rate = self._config.learning_rate * one_cycle(self.progress)
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = rate
        self.log("learning_rate", rate, on_step=False, on_epoch=True, batch_size=1)

    def _progress(self, batch_idx: int) -> float:
        trainer = self.trainer
        epochs = (trainer.current_epoch + batch_idx / trainer.num_training_batches) / self._config.max_epochs
        time = self._group.from_first(self._time_share()) if self._config.max_seconds else 0.0
        return min(max(epochs, time), 1.0)

    def training_step(self, batch: Chunk, batch_idx: int) -> Tensor | None:
        """Return the chunk's loss; None if nothing in it can be scored.

        Among several processes each returns its part of the whole chunk's loss, times their number: the gradients'
        mean, which is what they step with, is then the gradient of the whole.
        """
        state = self._state_before(batch)
        loss = chunk_loss(self.model, batch, state, self._origins(batch), teacher_share(self._config, self.progress))
        self._carried = detach(loss.state)
        if loss.count > 0:
            self._probe = (batch, state)
        if self._group.place.is_alone:
            if loss.count == 0:
                return None
            self.log("train_loss", loss.mean, on_step=False, on_epoch=True, batch_size=loss.count)
            return loss.mean
        return self._part_of_the_whole(loss)

    def _part_of_the_whole(self, loss: Loss) -> Tensor:
        beside = loss.beside * loss.count  # weighs as much as what was scored beside it
        own = torch.stack([loss.total.double(), beside.double(), beside.new_tensor(loss.count).double()])
        total, besides, count = self._group.add_up(own).tolist()
        self._scored = int(count)
        if count > 0:
            mean = (total + besides) / count
            self.log("train_loss", mean, on_step=False, on_epoch=True, batch_size=self._scored)
        # Not all weights are in every chunk's graph, but all processes wait for each other's gradients of all of them.
        everything = torch.stack([weights.sum() for weights in self.model.parameters()]).sum()
        part: Tensor = (loss.total + beside) * (self._group.place.size / max(count, 1.0)) + 0.0 * everything
        return part

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Leave the weights alone where no process could score anything."""
        if not self._group.place.is_alone and self._scored == 0:
            optimizer.zero_grad(set_to_none=True)

    def _state_before(self, batch: Chunk) -> State:
        if not batch.first and self._carried is not None:
            return self._carried
        return with_attributes(self.model.initial_state(len(batch.units)), batch.numbers, batch.codes)

    def _origins(self, batch: Chunk) -> Tensor:
        """Return every so many steps of a chunk, from a random one on, int64 [K]."""
        steps = batch.observations.values.shape[1]
        stride = min(self._config.origin_stride, steps)
        return torch.arange(int(torch.randint(stride, ())), steps, stride, device=self.device)

    def on_train_epoch_end(self) -> None:
        """Measure, if asked for, how the gradient fades with the steps it goes back."""
        if self._config.gradient_lags and self._probe is not None and self._group.place.is_first:
            self.gradient_norms = gradient_norms(self.model, *self._probe)

    def validation_step(self, batch: int, batch_idx: int) -> None:
        """Score every origin of the validation tail."""
        metrics = self._validate(self.model).metrics()
        self.log_dict({f"val_{name}": metrics[name] for name in VALIDATION_METRICS}, batch_size=1)
        if self._probe is not None:
            chunk, state = self._probe
            at = torch.arange(0, chunk.observations.values.shape[1], self._config.origin_stride, device=self.device)
            self.log_dict(exposure(self.model, chunk, state, at), batch_size=1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write down what the training is made of."""
        checkpoint["forecaster"] = self._origin

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW; the learning rate follows the budget used (see `on_train_batch_start`)."""
        return torch.optim.AdamW(
            self.model.parameters(), lr=self._config.learning_rate, weight_decay=self._config.weight_decay
        )


def one_cycle(progress: float, *, warm_up: float = 0.02, floor: float = 0.02) -> float:
    """Return the factor of the peak learning rate at `progress` (0 to 1) of the budget.

    Linear warm-up over 2 % of the budget, then a cosine down to 2 % of the peak.
    """
    if progress < warm_up:
        return max(progress / warm_up, floor)
    turn = min((progress - warm_up) / (1 - warm_up), 1.0)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * turn))
