"""What a training tells while it runs: the history of its epochs, lines or a progress bar, and quiet otherwise.

Knows Lightning's hooks; knows nothing of MLflow, of series or of the loss.
"""

import contextlib
import dataclasses
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

import lightning.pytorch as pl
from lightning.pytorch.callbacks import EarlyStopping, Timer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from forecaster.training.module import ForecasterModule


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """The figures of one epoch.

    Args:
        number: 1 for the first.
        train_loss: what is minimised: the head's mean loss (of quantiles: pinball in MASE units) and what is learnt
            beside it.
        val_mase: of the averaged weights, like every validation figure.
        val_seasonal_naive_mase: the seasonal naive on the same pairs.
        val_pinball: in MASE units.
        val_coverage_80: share of actual values inside the central 80 % interval.
        learning_rate: the mean.
        seconds: since the training began.
        updates: of the weights, since the training began.
        teacher_forced_loss: of a chunk fed with actual values; None unless the decoder is recurrent, like the next two.
        free_running_loss: of the same chunk fed with what the decoder said before.
        exposure_gap: the second less the first.
    """

    number: int
    train_loss: float
    val_mase: float
    val_seasonal_naive_mase: float
    val_pinball: float
    val_coverage_80: float
    learning_rate: float
    seconds: float
    updates: int
    teacher_forced_loss: float | None = None
    free_running_loss: float | None = None
    exposure_gap: float | None = None

    def figures(self) -> dict[str, float]:
        """Return the curves' values by name, without those that there are none of."""
        values = dataclasses.asdict(self)
        return {name: values[name] for name in _CURVES if values[name] is not None}

    def line(self, max_epochs: int) -> str:
        """Return the epoch as a line for people."""
        naive = f"(seasonal naive {self.val_seasonal_naive_mase:.3f})"
        figures = f"train_loss {self.train_loss:.3f}  val_mase {self.val_mase:.3f} {naive}"
        return f"epoch {self.number}/{max_epochs}  {figures}  {self.seconds:.0f} s"


_EXPOSURE = ("teacher_forced_loss", "free_running_loss", "exposure_gap")
_CURVES = tuple(f.name for f in dataclasses.fields(Epoch) if f.name not in ("number", "seconds", "updates"))
Reporter = Callable[[Epoch], None]


class History(pl.Callback):
    """Collects the epochs, across a resume too, and hands each to the reporters.

    Args:
        timer: tells the seconds since the training began.
        reporters: called with every new epoch.
    """

    def __init__(self, timer: Timer, reporters: Sequence[Reporter] = ()) -> None:
        self.epochs: list[Epoch] = []
        self._timer, self._reporters = timer, reporters

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the epoch that ends."""
        found: dict[str, Tensor] = trainer.callback_metrics
        named = [name for name in _CURVES if name in found or name not in _EXPOSURE]
        epoch = Epoch(
            number=trainer.current_epoch + 1,
            seconds=self._timer.time_elapsed(),
            updates=trainer.global_step,
            **{name: float(found.get(name, float("nan"))) for name in named},
        )
        self.epochs.append(epoch)
        for report in self._reporters:
            report(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return the epochs as plain values for a checkpoint."""
        return {"epochs": [dataclasses.asdict(epoch) for epoch in self.epochs]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the epochs before the checkpoint over."""
        self.epochs = [Epoch(**epoch) for epoch in state_dict["epochs"]]


class StopEarly(EarlyStopping):
    """Early stopping that stays stopped: a training that had lost patience does not train on when resumed."""

    @property
    def exhausted(self) -> bool:
        """Whether the patience is used up."""
        return self.wait_count >= self.patience

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop at once if the checkpoint says so."""
        trainer.should_stop = trainer.should_stop or self.exhausted


class ProgressBar(pl.Callback):
    """A bar over the training budget on a terminal; the epochs' lines scroll above it.

    Args:
        stream: the terminal.
        max_epochs: the budget, for the description.
    """

    def __init__(self, stream: TextIO, max_epochs: int) -> None:
        self._max_epochs = max_epochs
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
        times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        self._bar = Progress(*columns, *times, console=Console(file=stream), transient=True)
        self._task = self._bar.add_task("training", total=1.0, start=False)

    def report(self, epoch: Epoch) -> None:
        """Write the epoch's line above the bar."""
        self._bar.console.print(epoch.line(self._max_epochs), highlight=False)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the bar."""
        self._bar.start_task(self._task)
        self._bar.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar."""
        assert isinstance(pl_module, ForecasterModule)
        described = f"epoch {trainer.current_epoch + 1}/{self._max_epochs}"
        self._bar.update(self._task, completed=pl_module.progress, description=described)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the bar away."""
        self._bar.stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the terminal back."""
        self._bar.stop()


def progress_on(stream: TextIO, max_epochs: int) -> tuple[list[pl.Callback], Reporter]:
    """Return the callbacks and the reporter that show progress: a bar on a terminal, lines otherwise."""
    if stream.isatty():
        bar = ProgressBar(stream, max_epochs)
        return [bar], bar.report

    def write_line(epoch: Epoch) -> None:
        stream.write(epoch.line(max_epochs) + "\n")
        stream.flush()

    return [], write_line


@contextlib.contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence what Lightning says of itself; errors and other warnings still come through."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        for message in (
            ".*does not have many workers.*",  # the chunks are views of arrays in memory
            ".*`IterableDataset` has `__len__` defined.*",  # it is exact: one process reads
            ".*`training_step` returned `None`.*",  # a chunk in which nothing can be scored
            ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",  # Lightning 2.6 with torch 2.13
            ".*Checkpoint directory .* exists and is not empty.*",  # on purpose, see `fit`
            ".*recommended to use `self.log.*sync_dist=True.*",  # what is logged is the same in every process
        ):
            warnings.filterwarnings("ignore", message=message)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
