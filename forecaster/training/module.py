"""The Lightning module: forking-sequences loss along the streaming pass, truncated back-propagation.

Every step of a chunk is a forecast origin (Wen et al. 2017, "A Multi-Horizon Quantile Recurrent Forecaster"), all
encoded in one pass. The state is carried from chunk to chunk and detached between them.

Shapes: B lanes, T steps, D horizon steps, N = B · K origins, Q quantiles.
"""

import math
from collections.abc import Callable, Sequence

import lightning.pytorch as pl
import torch
from torch import Tensor

from forecaster.config import TrainingConfig
from forecaster.data.windows import Series
from forecaster.evaluation import Backtest, rolling_origin
from forecaster.model.heads import pinball_loss
from forecaster.model.seq2seq import Seq2Seq
from forecaster.model.state import State, detach
from forecaster.training.datamodule import Chunk


class ForecasterModule(pl.LightningModule):
    """Fits a `Seq2Seq`.

    Args:
        model: what is trained.
        config: the training configuration.
        validation: the series with the validation tail.
        validation_time_us: the tail's first time.
        units: MASE's denominator for each series id.
        progress: tells how much of the training budget is used, 0 to 1; sets the learning rate.
    """

    def __init__(
        self,
        model: Seq2Seq,
        config: TrainingConfig,
        *,
        validation: Sequence[Series],
        validation_time_us: int,
        units: dict[str, float],
        progress: Callable[[], float],
    ) -> None:
        super().__init__()
        self.model = model
        self._config = config
        self._validation, self._validation_time_us, self._units = validation, validation_time_us, units
        self._progress = progress
        self._carried: State | None = None
        self.register_buffer("levels", torch.tensor(model.config.quantile_levels), persistent=False)
        self.latest_backtest: Backtest | None = None

    def training_step(self, batch: Chunk, batch_idx: int) -> Tensor | None:
        """Return the chunk's loss: mean pinball over origins, steps and quantiles, in MASE units."""
        n = batch.units.shape[0]
        state = self.model.initial_state(n) if batch.first or self._carried is None else self._carried
        counted = state["observed_count"][:, None]
        state, encoded = self.model.scan(state, batch.observations)
        self._carried = detach(state)
        horizon = self.model.config.horizon
        steps = batch.observations.values.shape[1]
        stride = min(self._config.origin_stride, steps)
        phase = int(torch.randint(stride, ()))
        at = torch.arange(phase, steps, stride, device=batch.units.device)
        origins = self.model.origins_of(encoded, at, horizon)
        scaled = self.model.decode_scaled(origins)
        level, scale, _, _ = origins.statistics
        ahead = torch.arange(1, horizon + 1, device=at.device)
        target = batch.future[:, at[:, None] + ahead].reshape(-1, horizon)
        counts = counted + batch.observations.observed.cumsum(dim=1)
        enough = counts[:, at] >= (self.model.config.min_history or 1)
        scored = torch.isfinite(target) & enough.reshape(-1, 1)
        wanted = torch.where(scored, (target - level[:, None]) / scale[:, None], 0.0).float()
        weight = (scale / batch.units.repeat_interleave(len(at))).float()[:, None] * scored
        losses = pinball_loss(scaled, wanted, self.levels).mean(dim=-1) * weight
        count = scored.sum()
        if count == 0:
            return None
        loss = losses.sum() / count
        self.log("train_loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=int(count))
        return loss

    def validation_step(self, batch: int, batch_idx: int) -> None:
        """Score every origin of the validation tail."""
        self.latest_backtest = rolling_origin(
            self.model, self._validation, first_time_us=self._validation_time_us, units=self._units
        )
        names = ("mase", "pinball", "skill", "coverage_80")
        metrics = self.latest_backtest.metrics()
        self.log_dict({f"val_{name}": metrics[name] for name in names}, prog_bar=True, batch_size=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW; the learning rate follows the budget used (see `on_train_batch_start`)."""
        return torch.optim.AdamW(
            self.model.parameters(), lr=self._config.learning_rate, weight_decay=self._config.weight_decay
        )

    def on_train_batch_start(self, batch: Chunk, batch_idx: int) -> None:
        """Set the learning rate: linear warm-up over 2 % of the budget, then a cosine down to 2 %."""
        rate = self._config.learning_rate * one_cycle(self._progress())
        for group in self.optimizers().param_groups:  # type: ignore[union-attr]
            group["lr"] = rate
        if batch_idx == 0:
            self.log("learning_rate", rate, on_step=False, on_epoch=True, batch_size=1)


def one_cycle(progress: float, *, warm_up: float = 0.02, floor: float = 0.02) -> float:
    """Return the factor of the peak learning rate at `progress` (0 to 1) of the budget."""
    if progress < warm_up:
        return max(progress / warm_up, floor)
    turn = min((progress - warm_up) / (1 - warm_up), 1.0)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * turn))
