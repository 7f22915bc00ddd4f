"""One process' part of a search: it takes a trial, trains, says how it went, and takes the next.

Knows how a trial becomes a training and a run; how trials are shared is `pipelines.tuning.study`'s.
"""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
import polars as pl
from optuna.exceptions import OptunaError, UpdateFinishedTrialError
from optuna.trial import Trial
from sqlalchemy.exc import SQLAlchemyError

from forecaster.config import Config, TrainerConfig
from forecaster.data.windows import Series
from forecaster.errors import ForecasterError, UnavailableError
from forecaster.training.callbacks import Epoch, Reporter, progress_on
from forecaster.training.fit import FitResult, fit
from forecaster.training.inspection import settle
from forecaster.training.run.run import Run
from forecaster.training.run.tracking import track
from pipelines.context import Context
from pipelines.tuning.run import TuningRun
from pipelines.tuning.space import SearchSpace
from pipelines.tuning.study import RUN, Trials, sign_of_life

# What other options may do better than: the data or the options do not suffice, or torch or Lightning gives up.
_ITS_OWN_FAULT = (ForecasterError, ValueError, ArithmeticError, RuntimeError, MemoryError)
_ELSEWHERE = (UnavailableError, UpdateFinishedTrialError)  # a store is away, or the trial is another process' now


class Search:
    """The trials that this process takes.

    Args:
        config: what is searched around, with the ingested data.
        context: why it runs.
        space: what varies.
        frame: the rows before the backtest's window.
        series: the series in them.
        run: where it is shown.
        trials: of the study.
    """

    def __init__(
        self,
        config: Config,
        context: Context,
        space: SearchSpace,
        frame: pl.DataFrame,
        series: Sequence[Series],
        run: TuningRun,
        trials: Trials,
    ) -> None:
        self._config, self._context, self._space = config, context, space
        self._frame, self._series = frame, series
        self._run, self._trials = run, trials

    def run_all(self) -> None:
        """Take trials until there are none to take."""
        while (trial := self._trials.take()) is not None:
            try:
                with sign_of_life(trial):
                    self._run_one(trial)
            except UpdateFinishedTrialError:
                self._say(f"trial {trial.number} was given to another process: this one was silent for too long")
            except BaseException:
                with contextlib.suppress(OptunaError, SQLAlchemyError, OSError):
                    self._trials.leave(trial)
                raise

    def _run_one(self, trial: Trial) -> None:
        values = self._space.suggest(trial)
        self._say(f"trial {trial.number}: {told(values)}")
        tags = self._run.tags_of_trial(trial.number)
        with track(self._config, trigger=self._context.trigger, name=f"trial {trial.number}", tags=tags) as run:
            trial.set_user_attr(RUN, run.run_id)
            state, note, value = self._judged(trial, values, run)
        self._run.trial_ended(trial.number, run.run_id, state, note, value)
        self._say(f"trial {trial.number} {state}: {note}")

    def _judged(self, trial: Trial, values: Mapping[str, Any], run: Run) -> tuple[str, str, float | None]:
        """Train, and end the trial; return what it came to, why, and its value if it is complete."""
        try:
            result = self._trained(trial, values, run)
        except optuna.TrialPruned as cut:
            self._trials.cut_short(trial)
            return "cut short", str(cut), None
        except _ITS_OWN_FAULT as error:
            if isinstance(error, _ELSEWHERE):
                raise
            reason = " ".join(str(error).split()) or type(error).__name__
            self._trials.fail(trial, reason)
            return "failed", reason, None
        backtest = result.backtest
        run.log_metrics({**backtest.metrics(), "training_seconds": result.seconds, "updates": float(result.updates)})
        if not self._trials.complete(trial, backtest.mase):
            raise UpdateFinishedTrialError
        note = f"validation MASE {backtest.mase:.3f}, seasonal naive {backtest.seasonal_naive_mase:.3f}"
        return "complete", note, backtest.mase

    def _trained(self, trial: Trial, values: Mapping[str, Any], run: Run) -> FitResult:
        try:
            config = settle(self._space.config(values), self._series)
        except ForecasterError:
            run.log_params(values)
            raise
        # A trial is one process, and leaves nothing but its figures.
        training = dataclasses.replace(config.training, checkpoint_dir=None, resume=False, start_from="scratch")
        config = dataclasses.replace(config, training=training, trainer=TrainerConfig())
        run.log_config(config)
        run.log_data(self._frame, self._series)
        callbacks, write_line = progress_on(self._context.stream, training.max_epochs)
        reporters = [write_line, run.report, _stopping(trial, training.max_epochs)]
        return fit(self._series, config, reporters=reporters, callbacks=callbacks)

    def _say(self, line: str) -> None:
        self._context.stream.write(f"{line}\n")


def told(values: Mapping[str, Any]) -> str:
    """Return options and their values for people."""
    shown = (f"{name}={f'{value:.3g}' if isinstance(value, float) else value}" for name, value in values.items())
    return ", ".join(shown)


def _stopping(trial: Trial, max_epochs: int) -> Reporter:
    """Return what tells the study of every epoch, and ends a training that is worse than the others were.

    An exception is how a reporter ends a training: Lightning gives signals and threads back on its way up.
    """

    def report(epoch: Epoch) -> None:
        trial.report(epoch.val_mase, epoch.number)
        if epoch.number < max_epochs and trial.should_prune():
            raise optuna.TrialPruned(
                f"MASE {epoch.val_mase:.3f} after epoch {epoch.number} was worse than the median of the trials before"
            )

    return report
