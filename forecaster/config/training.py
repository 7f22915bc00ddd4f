"""How a model is fitted, and where its runs are kept."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from forecaster.config.checks import require, require_model_name, require_types

Feeding = Literal["teacher", "scheduled", "free"]
Schedule = Literal["constant", "linear", "inverse_sigmoid"]
StartFrom = Literal["scratch", "champion"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """How the model is fitted.

    Args:
        max_epochs: epochs at the most; an epoch is one pass over all series, or several over few.
        max_seconds: wall-clock limit of the fitting; left out, none.
        patience: epochs without a better validation loss before it stops, 0 to never stop for that; left out, 6.
        validation_steps: the last steps of the data, held out to choose the epoch; left out, 14 horizons, or a
            fifth of the longest series if that is less.
        holdout: keep the tail for choosing the epoch; without, it is learnt from too and the last epoch is kept.
        min_updates: updates of the weights in an epoch, at the least; few series are passed over and over.
        series_per_batch: series, or lanes of long series, in one batch, of all processes together.
        chunk_steps: steps between two updates of the weights; the carried state is detached there (truncated
            back-propagation through time). null walks whole lanes: full back-propagation.
        origin_stride: score the forecasts of every so many steps of a chunk, from a random one on.
        learning_rate: the peak of the one-cycle schedule.
        weight_decay: AdamW's.
        gradient_clip_norm: clip the gradient's global norm to this.
        average_decay: decay of the running average of the weights that is kept as the model.
        seed: of every random choice.
        threads: torch threads; null is torch's own choice, far slower as soon as another process is busy.
        feeding: what a recurrent decoder is fed in training: the actual value before (teacher), its own (free), or
            one or the other by chance (scheduled; Bengio et al. 2015).
        feeding_schedule: how the chance of the actual value falls over the training: constant, linear or
            inverse_sigmoid.
        feeding_share: that chance: throughout (constant), or at the end (linear, inverse_sigmoid).
        gradient_lags: measure, every epoch, how the gradient of the loss fades with the steps it goes back.
        device: cpu or cuda.
        checkpoint_dir: where checkpoints go; left out, a temporary folder.
        resume: continue from the last checkpoint in `checkpoint_dir`.
        start_from: fresh weights (scratch), or those of the champion if it is of the same architecture.
    """

    max_epochs: int = 6
    max_seconds: float | None = None
    patience: int | None = None
    validation_steps: int | None = None
    holdout: bool = True
    min_updates: int = 60
    series_per_batch: int = 32
    chunk_steps: int | None = 84
    origin_stride: int = 8
    learning_rate: float = 1e-2
    weight_decay: float = 1e-4
    gradient_clip_norm: float = 1.0
    average_decay: float = 0.98
    seed: int = 1
    threads: int | None = 1
    feeding: Feeding = "teacher"
    feeding_schedule: Schedule = "linear"
    feeding_share: float = 0.0
    gradient_lags: bool = False
    device: Literal["cpu", "cuda"] = "cpu"
    checkpoint_dir: str | None = None
    resume: bool = False
    start_from: StartFrom = "scratch"

    def __post_init__(self) -> None:
        require_types(self, "training")
        for name in ("max_epochs", "min_updates", "series_per_batch", "origin_stride"):
            require(getattr(self, name) >= 1, f"training.{name}", getattr(self, name), "1 or more")
        require(self.patience is None or self.patience >= 0, "training.patience", self.patience, "0 or more")
        ok = self.chunk_steps is None or self.chunk_steps >= 1
        require(ok, "training.chunk_steps", self.chunk_steps, "1 or more, or null")
        literals = (("feeding", Feeding), ("feeding_schedule", Schedule), ("start_from", StartFrom))
        for name, choices in ((name, get_args(literal)) for name, literal in literals):
            require(getattr(self, name) in choices, f"training.{name}", getattr(self, name), " or ".join(choices))
        require(0 <= self.feeding_share <= 1, "training.feeding_share", self.feeding_share, "0 to 1")
        positive = ("learning_rate", "gradient_clip_norm")
        for name in positive:
            value = getattr(self, name)
            require(value > 0 and math.isfinite(value), f"training.{name}", value, "a positive number")
        require(0 <= self.average_decay < 1, "training.average_decay", self.average_decay, "0 or more and below 1")
        require(self.weight_decay >= 0, "training.weight_decay", self.weight_decay, "0 or more")
        ok = self.max_seconds is None or self.max_seconds > 0
        require(ok, "training.max_seconds", self.max_seconds, "a positive number of seconds")
        ok = self.validation_steps is None or self.validation_steps >= 1
        require(ok, "training.validation_steps", self.validation_steps, "1 or more")
        require(self.threads is None or self.threads >= 1, "training.threads", self.threads, "1 or more")
        ok = not self.resume or self.checkpoint_dir is not None
        require(ok, "training.resume", self.resume, "it together with training.checkpoint_dir")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerConfig:
    """How many processes train together.

    Args:
        devices: processes on this machine, each with a part of the series; the batches are as large as with one.
        strategy: auto (one process), or ddp (several, whose gradients are averaged).
        num_nodes: machines, started by torchrun or the like on each. `training.checkpoint_dir` has to be shared then.
    """

    devices: int = 1
    strategy: Literal["auto", "ddp"] = "auto"
    num_nodes: int = 1

    def __post_init__(self) -> None:
        require_types(self, "trainer")
        for name in ("devices", "num_nodes"):
            require(getattr(self, name) >= 1, f"trainer.{name}", getattr(self, name), "1 or more")
        require(self.strategy in ("auto", "ddp"), "trainer.strategy", self.strategy, "auto or ddp")
        alone = self.devices == self.num_nodes == 1
        require(alone or self.strategy == "ddp", "trainer.strategy", self.strategy, "ddp with several processes")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackingConfig:
    """Where runs and registered models are kept.

    Args:
        uri: MLflow's tracking store.
        artifacts: folder or URL of the artifacts; left out, a folder `mlartifacts` beside a SQLite store, the
            choice of the server otherwise.
        experiment: the experiment's name.
        model: the registered model's name.
    """

    uri: str = "sqlite:///mlflow.db"
    artifacts: str | None = None
    experiment: str = "forecaster"
    model: str = "forecaster"

    def __post_init__(self) -> None:
        require_types(self, "tracking")
        for name in ("uri", "experiment"):
            require(bool(getattr(self, name)), f"tracking.{name}", getattr(self, name), "a name")
        require_model_name(self.model, "tracking.model")
