"""A training from file to champion: read, inspect, fit, track, register.

`forecaster train` and `python -m pipelines train` both call `train`.

Knows the order of the steps; knows nothing of how any of them works.
"""

import datetime as dt
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

import polars as pl

from forecaster.config import Config, DataConfig
from forecaster.data.report import inspect_frame
from forecaster.data.schema import read_frame
from forecaster.data.windows import Series, to_segments
from forecaster.errors import ConfigError, DataError
from forecaster.imports import without_collections

if TYPE_CHECKING:
    from forecaster.registry import RegisteredModel
    from forecaster.training.fit import FitResult


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a training left behind.

    Args:
        run_id: MLflow's.
        model: the registered version.
        fit: the model and how it was fitted.
        refusal: why it is not the champion, empty if it is.
    """

    run_id: str
    model: "RegisteredModel"
    fit: "FitResult"
    refusal: str

    @property
    def is_champion(self) -> bool:
        """Whether the version became the champion."""
        from forecaster.registry import CHAMPION

        return CHAMPION in self.model.aliases

    def line(self) -> str:
        """Return the outcome as a line for people."""
        backtest = self.fit.backtest
        what = "is the champion" if self.is_champion else f"{self.refusal}, so it is not the champion"
        how = "" if self.is_champion else f"; serve it all the same with --serving.alias {self.model.version}"
        return (
            f"{self.model.name} version {self.model.version} {what}: MASE {backtest.mase:.3f}, seasonal naive"
            f" {backtest.seasonal_naive_mase:.3f}, skill {backtest.skill:.1%}, 80 % intervals hold"
            f" {backtest.coverage[0.8]:.0%} ({self.fit.seconds:.0f} s of training){how}"
        )


def train(
    config: Config, *, until: dt.datetime | None = None, trigger: str = "manual", stream: TextIO | None = None
) -> TrainResult:
    """Train on the configured data, and register the model.

    Args:
        config: all of it; `serving` is not used.
        until: use only the data before this time.
        trigger: what asked for it; the run is tagged with it.
        stream: where the data's report and the progress go; left out, standard error.

    Raises:
        DataError: the data cannot be used, or does not suffice.
        ConfigError: see `fit`.
        UnavailableError: the tracking store cannot be used.
    """
    stream = stream or sys.stderr
    if not config.training.holdout:
        raise ConfigError("training.holdout=False leaves nothing to judge a champion by: leave it out")
    frame, series = read_series(config.data, until=until, stream=stream)
    with without_collections():  # Lightning and torch take seconds: what is wrong with the data is said before
        from forecaster.training.callbacks import progress_on
        from forecaster.training.fit import fit
        from forecaster.training.inspection import describe, settle
        from forecaster.training.tracking import track, verdict

    callbacks, write_line = progress_on(stream, config.training.max_epochs)
    with track(config, trigger=trigger) as run:
        config = settle(config, series)
        stream.write(f"settled by the data: {describe(config.model)}\n")
        run.log_config(config)
        run.log_data(frame, series)
        result = fit(series, config, reporters=[write_line, run.report], callbacks=callbacks)
        run.log_result(result, series)
        return TrainResult(run.run_id, run.register(result, series), result, verdict(result.backtest))


def read_series(data: DataConfig, *, until: dt.datetime | None, stream: TextIO) -> tuple[pl.DataFrame, list[Series]]:
    """Return the rows before a time and the series in them; the report on them goes to `stream`.

    Raises DataError if the data cannot be used.
    """
    frame = _read(data, until)
    report = inspect_frame(frame, data)
    report.raise_for_errors()
    stream.write("".join(f"{line}\n" for line in report.lines()))
    return frame, to_segments(frame, data.step_us, data.max_gap_steps, data)


def _read(data: DataConfig, until: dt.datetime | None) -> pl.DataFrame:
    frame = read_frame(data)
    if until is None:
        return frame
    if until.tzinfo is None:
        until = until.replace(tzinfo=dt.UTC)
    before = frame.filter(pl.col("ds") < until)
    if before.is_empty():
        first: dt.datetime = frame.select(pl.col("ds").min()).item()
        raise DataError(f"there is no data before {until.isoformat()}: the first row is of {first.isoformat()}")
    return before
