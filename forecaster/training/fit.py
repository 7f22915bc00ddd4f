"""Fit a model to series: split off a validation tail, train, keep the best epoch's averaged weights.

One call, from series to bundle. The same series, configuration and seed give the same model, whether or not the
training was interrupted and resumed between epochs (as long as no time limit cuts it).

Knows nothing of files of data, of MLflow or of registered models.
"""

import contextlib
import datetime as dt
import pathlib
import pickle
import signal
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint, Timer

from forecaster.config import Config, TrainingConfig, to_dict
from forecaster.data.windows import Series
from forecaster.errors import ConfigError
from forecaster.evaluation import Backtest, rolling_origin
from forecaster.model.bundle import Bundle
from forecaster.model.inputs import memory_steps
from forecaster.model.seq2seq import Seq2Seq
from forecaster.threads import torch_threads
from forecaster.training.callbacks import Epoch, History, Reporter, StopEarly, quiet_lightning
from forecaster.training.datamodule import SeriesDataModule
from forecaster.training.inspection import covariates_of, settle
from forecaster.training.module import ForecasterModule
from forecaster.training.split import Split, split

_BEST, _LAST = "best", "last"
_FULL_STEPS = 84  # an eighth of a lane that is walked as one chunk
_ORIGIN = "forecaster"  # a checkpoint's entry that says what it was made of


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult:
    """A fitted model and how it came about.

    Args:
        bundle: the model of the best epoch.
        backtest: of that model on the validation tail.
        validation_time_us: the tail's first time.
        history: the epochs, also those before a resume.
        seconds: wall-clock time of the training, also that before a resume.
        updates: of the weights.
        stopped_by: what ended it: all epochs done, patience lost, or the time limit.
        gradient_norms: of the last epoch by lag, relative to lag 0; empty unless `training.gradient_lags`.
    """

    bundle: Bundle
    backtest: Backtest
    validation_time_us: int
    history: tuple[Epoch, ...]
    seconds: float
    updates: int
    stopped_by: Literal["epochs", "patience", "time"]
    gradient_norms: tuple[float, ...] = ()

    @property
    def stopped_early(self) -> bool:
        """Whether it ended before the last epoch."""
        return self.stopped_by != "epochs"

    @property
    def best_epoch(self) -> Epoch:
        """The epoch whose weights were kept."""
        return min(self.history, key=lambda epoch: epoch.val_mase)


def fit(
    series: Sequence[Series],
    config: Config,
    *,
    reporters: Sequence[Reporter] = (),
    callbacks: Sequence[pl.Callback] = (),
) -> FitResult:
    """Train a model on series.

    Args:
        series: whole histories on a regular grid, in one segment or more each.
        config: data (frequency, gaps), model and training are used.
        reporters: called with every epoch's figures.
        callbacks: Lightning's, such as a progress bar.

    Raises:
        DataError: the series do not suffice.
        ConfigError: the device is not there, the checkpoint is another training's, or the training diverged.
    """
    settings = config.training
    _require_device(settings)
    with quiet_lightning(), torch_threads(settings.threads), _folder(settings) as folder:
        pl.seed_everything(settings.seed, verbose=False)
        config = settle(config, series)
        memory = memory_steps(config.model.season_lengths or ())
        lane_steps = max(2 * memory, 8 * (settings.chunk_steps or _FULL_STEPS))
        parts = split(series, config.model, settings, warm_up_steps=lane_steps)
        model = Seq2Seq(config.model, config.data.step_us, covariates_of(config, parts.training))
        resume_from = _checkpoint_to_resume(folder, settings, _origin(model, parts))
        training = _Training(model, parts, settings, folder, reporters)
        training.run(lane_steps, callbacks, resume_from)
        best = _best_model(folder / f"{_BEST if settings.holdout else _LAST}.ckpt", model)
        return FitResult(
            bundle=Bundle.of(best, frequency=config.data.frequency, max_gap_steps=config.data.max_gap_steps),
            backtest=_validate(best, parts),
            validation_time_us=parts.validation_time_us,
            history=tuple(training.history.epochs),
            seconds=training.timer.time_elapsed(),
            updates=training.history.epochs[-1].updates,
            stopped_by=training.stopped_by,
            gradient_norms=training.gradient_norms,
        )


class _Training:
    """The trainer's parts, wired: what watches it, what stops it, and what it keeps on disk."""

    def __init__(
        self,
        model: Seq2Seq,
        parts: Split,
        settings: TrainingConfig,
        folder: pathlib.Path,
        reporters: Sequence[Reporter],
    ) -> None:
        self._parts, self._settings, self._folder = parts, settings, folder
        limit = settings.max_seconds
        self.timer = timer = Timer(dt.timedelta(seconds=limit) if limit else None, verbose=False)
        self.history = History(timer, reporters)
        self._patience = StopEarly("val_mase", patience=settings.patience)
        # Functions, not bound methods: weight averaging copies the module deeply, and with it what it holds.
        self._module = ForecasterModule(
            model,
            settings,
            validate=lambda averaged: _validate(averaged, parts),
            time_share=lambda: timer.time_elapsed() / limit if limit else 0.0,
            origin=_origin(model, parts),
        )

    def run(self, lane_steps: int, callbacks: Sequence[pl.Callback], resume_from: pathlib.Path | None) -> None:
        """Train until the budget or the patience is used up."""
        settings, units = self._settings, self._parts.units
        trainer = pl.Trainer(
            accelerator="gpu" if settings.device == "cuda" else "cpu",
            devices=1,
            max_epochs=settings.max_epochs,
            gradient_clip_val=settings.gradient_clip_norm,
            gradient_clip_algorithm="norm",
            callbacks=[*self._callbacks(), *callbacks],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            reload_dataloaders_every_n_epochs=1,
            default_root_dir=self._folder,
        )
        data = SeriesDataModule(
            self._parts.training,
            [units[one.unique_id] for one in self._parts.training],
            settings,
            horizon=self._module.model.config.horizon,
            spec=self._module.model.covariates,
            lane_steps=lane_steps,
        )
        with _interruptible(trainer):
            trainer.fit(self._module, data, ckpt_path=resume_from, weights_only=True)

    def _callbacks(self) -> list[pl.Callback]:
        folder = self._folder
        return [
            self.timer,
            EMAWeightAveraging(self._settings.device, decay=self._settings.average_decay, use_buffers=False),
            self.history,
            self._patience,
            ModelCheckpoint(folder, _BEST, monitor="val_mase", enable_version_counter=False),
            ModelCheckpoint(folder, _LAST, enable_version_counter=False),
        ]

    @property
    def gradient_norms(self) -> tuple[float, ...]:
        """How the gradient fades by lag, if that was measured."""
        return tuple(self._module.gradient_norms)

    @property
    def stopped_by(self) -> Literal["epochs", "patience", "time"]:
        """What ended the training."""
        if self._patience.exhausted:
            return "patience"
        return "epochs" if self.history.epochs[-1].number >= self._settings.max_epochs else "time"


def _validate(model: Seq2Seq, parts: Split) -> Backtest:
    return rolling_origin(model, parts.validation, first_time_us=parts.validation_time_us, units=parts.units)


def _origin(model: Seq2Seq, parts: Split) -> dict[str, Any]:
    """Return what two trainings must share for one to continue the other."""
    return {
        "model": to_dict(model.config),
        "step_us": model.step_us,
        "covariates": model.covariates.to_dict(),
        "data": parts.digest(),
    }


def _best_model(path: pathlib.Path, trained: Seq2Seq) -> Seq2Seq:
    """Return the averaged weights of the best epoch in a fresh model."""
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    best = Seq2Seq(trained.config, trained.step_us, trained.covariates)
    best.load_state_dict({name.removeprefix("model."): x for name, x in checkpoint["state_dict"].items()})
    if not all(torch.isfinite(weights).all() for weights in best.state_dict().values()):
        raise ConfigError("the training diverged: lower --training.learning_rate")
    return best.eval()


def _checkpoint_to_resume(
    folder: pathlib.Path, settings: TrainingConfig, origin: dict[str, Any]
) -> pathlib.Path | None:
    """Return the checkpoint to continue from, or None after removing those of an earlier training."""
    last = folder / f"{_LAST}.ckpt"
    if not settings.resume:
        for name in (_BEST, _LAST):
            (folder / f"{name}.ckpt").unlink(missing_ok=True)
        return None
    if not last.exists():
        return None
    try:
        made_of = torch.load(last, map_location="cpu", weights_only=True)[_ORIGIN]
    except (OSError, RuntimeError, LookupError, EOFError, pickle.UnpicklingError) as error:
        raise ConfigError(f"training.resume: {last} is not a whole checkpoint of a training") from error
    if other := [name for name in origin if origin[name] != made_of.get(name)]:
        raise ConfigError(
            f"training.resume: {last} was made with another {' and '.join(other)}; train without --training.resume"
        )
    return last


def _require_device(settings: TrainingConfig) -> None:
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("training.device='cuda' is not available on this machine: use cpu")


@contextlib.contextmanager
def _folder(settings: TrainingConfig) -> Iterator[pathlib.Path]:
    """Give the checkpoints' folder; without a configured one it lives as long as the training."""
    if settings.checkpoint_dir is not None:
        folder = pathlib.Path(settings.checkpoint_dir)
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="forecaster-") as name:
        yield pathlib.Path(name)


@contextlib.contextmanager
def _interruptible(trainer: pl.Trainer) -> Iterator[None]:
    """Let Ctrl-C be a KeyboardInterrupt, which Lightning turns into sys.exit(1) with SIGINT ignored from then on."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if trainer.interrupted and isinstance(error.__context__, KeyboardInterrupt):
            signal.signal(signal.SIGINT, handler)
            raise KeyboardInterrupt from None
        raise
