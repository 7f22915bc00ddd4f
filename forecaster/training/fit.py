"""Fit a model to series: split off a validation tail, train, keep the best epoch's averaged weights.

One call, from series to bundle. The same series, configuration and seed give the same model, whether or not the
training was interrupted and resumed between epochs (as long as no time limit cuts it).

Knows nothing of files of data, of MLflow or of registered models.
"""

import contextlib
import datetime as dt
import pathlib
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint, Timer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from forecaster.config import Config, TrainingConfig, to_dict
from forecaster.config.training import StartFrom
from forecaster.data.windows import Series
from forecaster.errors import ConfigError
from forecaster.evaluation.rolling import Backtest, Shared, rolling_origin
from forecaster.interrupts import EXIT_ON_SIGTERM
from forecaster.model.bundle import Bundle
from forecaster.model.inputs.inputs import memory_steps
from forecaster.model.seq2seq import Seq2Seq
from forecaster.threads import torch_threads
from forecaster.training.callbacks import Epoch, History, Reporter, StopEarly, quiet_lightning
from forecaster.training.checkpoints import BEST, LAST, best_model, checkpoint_folder, checkpoint_to_resume
from forecaster.training.datamodule import SeriesDataModule
from forecaster.training.inspection import covariates_of, settle
from forecaster.training.module import ForecasterModule
from forecaster.training.processes.place import Place, place_of
from forecaster.training.processes.ranks import Group, gathered
from forecaster.training.split import Split, split
from forecaster.training.warm_start import Start, begin

_FULL_STEPS = 84  # an eighth of a lane that is walked as one chunk
_PATIENCE = 6  # epochs, unless the configuration says how many


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
        started_from: scratch, or champion if the weights of an earlier model were the beginning.
    """

    bundle: Bundle
    backtest: Backtest
    validation_time_us: int
    history: tuple[Epoch, ...]
    seconds: float
    updates: int
    stopped_by: Literal["epochs", "patience", "time"]
    gradient_norms: tuple[float, ...] = ()
    started_from: StartFrom = "scratch"

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
    start: Start | None = None,
) -> FitResult:
    """Train a model on series, in one process or, as `trainer` says, in several.

    Args:
        series: whole histories on a regular grid, in one segment or more each.
        config: data (frequency, gaps), model, training and trainer are used.
        reporters: called with every epoch's figures.
        callbacks: Lightning's, such as a progress bar.
        start: an earlier model to begin from, if its architecture is the same.

    Raises:
        DataError: the series do not suffice.
        ConfigError: the device is not there, the checkpoint is another training's, or the training diverged.
        UnavailableError: another process that trained with this one failed.
    """
    place = place_of(config.trainer)
    _require_device(config.training, place)
    with quiet_lightning(), torch_threads(config.training.threads), gathered(place, follow, series, config) as group:
        result = _fit(series, config, group, reporters, callbacks, start)
        assert result is not None, "the others call `follow`"
        return result


def follow(series: Sequence[Series], config: Config, group: Group) -> None:
    """Train with the first process, which alone calls `fit`, as one of the others; raises what `fit` raises."""
    with quiet_lightning(), torch_threads(config.training.threads):
        _fit(series, config, group)


def _fit(
    series: Sequence[Series],
    config: Config,
    group: Group,
    reporters: Sequence[Reporter] = (),
    callbacks: Sequence[pl.Callback] = (),
    start: Start | None = None,
) -> FitResult | None:
    settings = config.training
    with checkpoint_folder(settings, group) as folder:
        pl.seed_everything(settings.seed, verbose=False)
        config = settle(config, series)
        memory = memory_steps(config.model.season_lengths or ())
        lane_steps = max(2 * memory, 8 * (settings.chunk_steps or _FULL_STEPS))
        parts = split(series, config.model, settings, warm_up_steps=lane_steps)
        model, started_from = begin(config, covariates_of(config, parts.training), start, group)
        origin = _origin(model, parts)
        if not group.agree(origin):
            raise ConfigError("the processes that train together have read different data")
        resume_from = checkpoint_to_resume(folder, settings, origin, group)
        training = _Training(model, parts, settings, folder, reporters, group)
        training.run(lane_steps, callbacks, resume_from)
        if not group.place.is_first:
            return None
        best = best_model(folder / f"{BEST if settings.holdout else LAST}.ckpt", model)
        return FitResult(
            bundle=Bundle.of(best, frequency=config.data.frequency, max_gap_steps=config.data.max_gap_steps),
            backtest=_validate(best, parts),
            validation_time_us=parts.validation_time_us,
            history=tuple(training.history.epochs),
            seconds=training.timer.time_elapsed(),
            updates=training.history.epochs[-1].updates,
            stopped_by=training.stopped_by,
            gradient_norms=training.gradient_norms,
            started_from=started_from,
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
        group: Group,
    ) -> None:
        self._parts, self._settings, self._folder, self._group = parts, settings, folder, group
        alone = group.place.is_alone
        self._mine = None if alone else group.share(parts.training)
        shared = None if alone else Shared(group.share(parts.validation), group.add_up)
        limit = settings.max_seconds
        self.timer = timer = Timer(dt.timedelta(seconds=limit) if limit else None, verbose=False)
        self.history = History(timer, reporters)
        patience = _PATIENCE if settings.patience is None else settings.patience or settings.max_epochs
        self._patience = StopEarly("val_mase", patience=patience)
        # Functions, not bound methods: weight averaging copies the module deeply, and with it what it holds.
        self._module = ForecasterModule(
            model,
            settings,
            validate=lambda averaged: _validate(averaged, parts, shared),
            time_share=lambda: timer.time_elapsed() / limit if limit else 0.0,
            origin=_origin(model, parts),
            group=group,
        )

    def run(self, lane_steps: int, callbacks: Sequence[pl.Callback], resume_from: pathlib.Path | None) -> None:
        """Train until the budget or the patience is used up."""
        settings, units = self._settings, self._parts.units
        trainer = pl.Trainer(
            accelerator="gpu" if settings.device == "cuda" else "cpu",
            devices=self._group.place.local_size,
            num_nodes=self._group.place.nodes,
            strategy=self._group.strategy(),
            use_distributed_sampler=False,
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
            [units[one_series.unique_id] for one_series in self._parts.training],
            settings,
            horizon=self._module.model.config.horizon,
            spec=self._module.model.covariates,
            lane_steps=lane_steps,
            mine=self._mine,
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
            ModelCheckpoint(folder, BEST, monitor="val_mase", enable_version_counter=False),
            ModelCheckpoint(folder, LAST, enable_version_counter=False),
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


def _validate(model: Seq2Seq, parts: Split, shared: Shared | None = None) -> Backtest:
    first_us, units = parts.validation_time_us, parts.units
    return rolling_origin(model, parts.validation, first_time_us=first_us, units=units, shared=shared)


def _origin(model: Seq2Seq, parts: Split) -> dict[str, Any]:
    """Return what two trainings must share for one to continue the other."""
    return {
        "model": to_dict(model.config),
        "step_us": model.step_us,
        "covariates": model.covariates.to_dict(),
        "data": parts.digest(),
    }


def _require_device(settings: TrainingConfig, place: Place) -> None:
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("training.device='cuda' is not available on this machine: use cpu")
    if settings.device == "cuda" and (count := torch.cuda.device_count()) < place.local_size:
        raise ConfigError(
            f"training.device='cuda' needs {place.local_size} GPUs, one for each process; there are {count}"
        )


@contextlib.contextmanager
def _interruptible(trainer: pl.Trainer) -> Iterator[None]:
    """Let Ctrl-C be a KeyboardInterrupt, which Lightning turns into sys.exit(1) with SIGINT ignored from then on.

    And let SIGTERM be an exit status that says so: Lightning ends the loops by an exception that exits with 0.
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SIGTERMException:
        raise SystemExit(EXIT_ON_SIGTERM) from None
    except SystemExit as error:
        if trainer.interrupted and isinstance(error.__context__, KeyboardInterrupt):
            signal.signal(signal.SIGINT, handler)
            raise KeyboardInterrupt from None
        raise
