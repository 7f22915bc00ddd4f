"""The Lightning module: forking-sequences loss along the streaming pass, truncated back-propagation.

Every step of a chunk is a forecast origin (Wen et al. 2017, "A Multi-Horizon Quantile Recurrent Forecaster"), all
encoded in one pass. The state is carried from chunk to chunk and detached between them.

Knows nothing of files, of checkpoints or of where the series come from.

Shapes: B lanes, T steps, D horizon steps, K origins of a lane, N = B · K, Q quantiles.
"""

import math
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from forecaster.config import TrainingConfig
from forecaster.evaluation import Backtest
from forecaster.model.heads import pinball_loss
from forecaster.model.seq2seq import Seq2Seq
from forecaster.model.state import State, detach
from forecaster.training.datamodule import Chunk

VALIDATION_METRICS = ("mase", "seasonal_naive_mase", "pinball", "coverage_80")


class ForecasterModule(pl.LightningModule):
    """Fits a `Seq2Seq`.

    Args:
        model: what is trained.
        config: the training configuration.
        validate: scores the model on the validation tail.
        time_share: tells which share of the time limit is used, 0 to 1; 0 without a limit.
        origin: what the training is made of; every checkpoint carries it.
    """

    levels: Tensor

    def __init__(
        self,
        model: Seq2Seq,
        config: TrainingConfig,
        *,
        validate: Callable[[Seq2Seq], Backtest],
        time_share: Callable[[], float],
        origin: dict[str, Any],
    ) -> None:
        super().__init__()
        self.model = model
        self._config, self._validate, self._time_share = config, validate, time_share
        self._origin = origin
        self._carried: State | None = None
        self._batch = 0
        self.register_buffer("levels", torch.tensor(model.config.quantile_levels), persistent=False)

    @property
    def progress(self) -> float:
        """The share of the training budget that is used, 0 to 1: of the epochs or of the time."""
        trainer = self.trainer
        epochs = trainer.current_epoch + self._batch / trainer.num_training_batches
        return min(max(epochs / self._config.max_epochs, self._time_share()), 1.0)

    def on_train_batch_start(self, batch: Chunk, batch_idx: int) -> None:
        """Set the learning rate for the budget that is used.

        Every epoch starts from its own random state, so that a resumed training draws what it would have.
        """
        self._batch = batch_idx
        if batch_idx == 0:
            torch.manual_seed(self._config.seed * 1_000_003 + self.trainer.current_epoch)
        rate = self._config.learning_rate * one_cycle(self.progress)
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = rate
        self.log("learning_rate", rate, on_step=False, on_epoch=True, batch_size=1)

    def training_step(self, batch: Chunk, batch_idx: int) -> Tensor | None:
        """Return the chunk's loss; None if nothing in it can be scored."""
        lanes, steps = batch.observations.values.shape
        state = self.model.initial_state(lanes) if batch.first or self._carried is None else self._carried
        stride = min(self._config.origin_stride, steps)
        at = torch.arange(int(torch.randint(stride, ())), steps, stride, device=self.device)
        state, total, count = self.loss(batch, state, at)
        self._carried = detach(state)
        if count == 0:
            return None
        loss = total / count
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=count)
        return loss

    def loss(self, batch: Chunk, state: State, at: Tensor) -> tuple[State, Tensor, int]:
        """Walk a chunk and score the forecasts after its steps `at`, int64 [K].

        Returns:
            The state after the chunk; the sum over scored pairs of origin and step of the pinball loss (mean
            over the quantiles) in MASE units; and the number of those pairs.
        """
        horizon = self.model.config.horizon
        seen_before = state["observed_count"][:, None]
        state, encoded = self.model.scan(state, batch.observations)
        origins = self.model.origins_of(encoded, at, horizon)
        ahead = torch.arange(1, horizon + 1, device=at.device)
        target = batch.future[:, at[:, None] + ahead].reshape(-1, horizon)  # [N, D]
        seen = seen_before + batch.observations.observed.cumsum(dim=1)[:, at]  # [B, K]
        enough = seen >= (self.model.config.min_history or 1)
        scored = torch.isfinite(target) & enough.reshape(-1, 1)

        level, unit = origins.statistics.level, origins.unit  # [N] each
        wanted = torch.where(scored, (target - level[:, None]) / unit[:, None], 0.0).float()
        weight = (unit / batch.units.repeat_interleave(len(at))).float()[:, None] * scored
        losses = pinball_loss(self.model.decode_scaled(origins), wanted, self.levels).mean(dim=-1)
        return state, (losses * weight).sum(), int(scored.sum())

    def validation_step(self, batch: int, batch_idx: int) -> None:
        """Score every origin of the validation tail."""
        metrics = self._validate(self.model).metrics()
        self.log_dict({f"val_{name}": metrics[name] for name in VALIDATION_METRICS}, batch_size=1)

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
