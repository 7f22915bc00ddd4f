"""A training from file to registered version: read, inspect, fit, track, register.

`forecaster train` and `forecaster pipelines train` both call `train`.

Knows the order of the steps; knows nothing of how any of them works.
"""

import datetime as dt
import io
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

import polars as pl

from forecaster.config import Config, DataConfig
from forecaster.data.report import inspect_frame
from forecaster.data.schema import read_frame
from forecaster.data.windows import Series, to_segments
from forecaster.errors import ConfigError, DataError, ModelNotFoundError
from forecaster.imports import without_collections
from forecaster.interrupts import interruptible
from forecaster.registry.rule import judged_interval
from forecaster.training.processes.place import place_of

if TYPE_CHECKING:
    from forecaster.registry.registry import RegisteredModel
    from forecaster.training.fit import FitResult
    from forecaster.training.run.run import Run
    from forecaster.training.warm_start import Start

Until = dt.datetime | Callable[[pl.DataFrame], dt.datetime] | None


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a training left behind.

    Args:
        run_id: MLflow's.
        model: the registered version.
        fit: the model and how it was fitted; None if the version was there already.
        champion: the version that stays the champion, if that was asked.
        refusal: why it is not the first champion, empty if it is, or if that was not asked.
        data_path: the data that it was trained on, for the advice on what comes next.
    """

    run_id: str
    model: "RegisteredModel"
    fit: "FitResult | None"
    champion: "RegisteredModel | None" = None
    refusal: str = ""
    data_path: str | None = None

    @property
    def is_champion(self) -> bool:
        """Whether the version became the champion."""
        from forecaster.registry.registry import CHAMPION

        return CHAMPION in self.model.aliases

    def line(self) -> str:
        """Return the outcome as a line for people."""

        version = f"{self.model.name} version {self.model.version}"
        if self.fit is None:
            return f"{version} was trained on the same data and configuration before"
        backtest, what, how = self.fit.backtest, "is the challenger", ""
        serve = f"serve it all the same with --serving.alias {self.model.version}"
        if self.is_champion:
            what = f"is the champion, the first of {self.model.name}"
        elif self.refusal:
            what, how = f"is not the champion: {self.refusal}", f"; {serve}"
        elif self.champion is not None:
            what = f"is the challenger; version {self.champion.version} stays the champion"
            source = f" --ingest.sources '[{self.data_path}]'" if self.data_path is not None else ""
            how = f"; `forecaster pipelines retrain{source}` lets a backtest decide what is served, or {serve}"
        return (
            f"{version} {what}: MASE {backtest.mase:.3f}, seasonal naive {backtest.seasonal_naive_mase:.3f},"
            f" skill {backtest.skill:.1%}, {_intervals(backtest.coverage)} ({self.fit.seconds:.0f} s of training){how}"
        )


def _intervals(coverage: Mapping[float, float]) -> str:
    nominal, share = judged_interval(coverage)
    return "no intervals" if math.isnan(share) else f"{100 * nominal:.0f} % intervals hold {share:.0%}"


def train(
    config: Config,
    *,
    until: Until = None,
    trigger: str = "manual",
    stream: TextIO | None = None,
    challenger: bool = False,
    tags: Mapping[str, str] | None = None,
) -> TrainResult | None:
    """Train on the configured data, and register the model.

    Args:
        config: all of it; `serving` is not used.
        until: use only the data before this time, or before what is said of the whole frame.
        trigger: what asked for it; run and version are tagged with it.
        stream: where the data's report and the progress go; left out, standard error.
        challenger: register it as the challenger, whatever it is worth. Otherwise it becomes the champion if there is
            none and the rule of promotion, on the training's own backtest, allows it.
        tags: more of them, of the run.

    Returns:
        None in a process that only trains along, see `Place`.

    Raises:
        DataError: the data cannot be used, or does not suffice.
        ConfigError: see `fit`, or there is a model of other data under this name.
        UnavailableError: the tracking store cannot be used, or another process that trained along failed.
    """
    place = place_of(config.trainer)
    stream = (stream or sys.stderr) if place.is_first else io.StringIO()
    if not config.training.holdout:
        raise ConfigError("training.holdout=False leaves nothing to judge a champion by: leave it out")
    frame, series = read_series(config.data, until=until, stream=stream)
    if place.is_first:
        from forecaster.training.run.registration import require_same_data

        require_same_data(config, series)
    with without_collections():  # Lightning and torch take seconds: what is wrong with the data is said before
        from forecaster.training import fit
        from forecaster.training.processes.ranks import joined
        from forecaster.training.run.tracking import track

    if not place.is_first:
        with joined(place) as group:
            fit.follow(series, config, group)
        return None
    with interruptible(), track(config, trigger=trigger, tags=tags) as run:
        return _train(config, run, frame, series, stream, challenger)


def _train(
    config: Config, run: "Run", frame: pl.DataFrame, series: list[Series], stream: TextIO, challenger: bool
) -> TrainResult:
    from forecaster.training.callbacks import progress_on
    from forecaster.training.fit import fit
    from forecaster.training.inspection import describe, settle
    from forecaster.training.pictures.pictures import ForecastPictures
    from forecaster.training.run.monitoring import system_metrics
    from forecaster.training.split import tail_start

    config = settle(config, series)
    stream.write(f"settled by the data: {describe(config.model)}\n")
    run.log_config(config)
    run.log_data(frame, series)
    bars, write_line = progress_on(stream, config.training.max_epochs)
    first_us = tail_start(series, config.model.horizon, config.training)
    pictures = ForecastPictures(series, first_us, lambda image, epoch: run.log_image(image, "forecasts", epoch))
    start = _start(config, series, stream)
    with system_metrics(config.tracking, run.run_id):
        result = fit(series, config, reporters=[write_line, run.report], callbacks=[*bars, pictures], start=start)
    run.report_missing(result.history)
    run.log_result(result, series)
    warm = start is not None and result.started_from == "champion"
    started_from = start.name if start is not None and warm else result.started_from
    run.set_tag("started_from", started_from)
    return _registered(config, run, result, (frame, series), {"started_from": started_from}, challenger)


def _registered(
    config: Config,
    run: "Run",
    result: "FitResult",
    data: tuple[pl.DataFrame, list[Series]],
    tags: Mapping[str, str],
    challenger: bool,
) -> TrainResult:
    from forecaster.registry import registry
    from forecaster.training.run.registration import take_place, verdict

    client, refusal = registry.connect(config.tracking), verdict(result.backtest, config.promotion)
    tags = {**tags, "validation_status": "failed" if refusal else "passed"}
    model = run.register(result, data[1], tags=tags)
    if not challenger and not refusal and registry.find(client, config.tracking, registry.CHAMPION) is None:
        refusal = run.try_out(model, data[0])
    before = take_place(client, config.tracking, model.version, may_lead=not challenger and not refusal)
    return TrainResult(
        run.run_id,
        registry.resolve(config.tracking, model.version),
        result,
        champion=None if challenger else before,
        refusal="" if challenger or before is not None else refusal,
        data_path=config.data.path,
    )


def _start(config: Config, series: Sequence[Series], stream: TextIO) -> "Start | None":
    """Return the champion, if the training is to begin from it and there is one that has learnt from nothing newer.

    With weights that know newer data, the new model's figures on that data would be better than it is.
    """
    from forecaster.registry import registry
    from forecaster.training.warm_start import Start

    if config.training.start_from == "scratch":
        return None

    def say(where: str) -> None:
        stream.write(f"training starts {where}\n")

    try:
        found, bundle = registry.load_bundle(config.tracking)
    except ModelNotFoundError:
        say("from scratch: there is no champion yet")
        return None
    seen = found.tags.get("data_window_end")
    end_us = max(int(one_series.time_us[-1]) for one_series in series)
    if seen is None or dt.datetime.fromisoformat(seen) > dt.datetime.fromtimestamp(end_us / 1e6, dt.UTC):
        told = f"has seen data up to {seen}, later than this training" if seen else "does not say what it has seen"
        say(f"from scratch: {found.name} version {found.version} {told}")
        return None
    return Start(bundle.model, f"{found.name} version {found.version}", say)


def read_series(data: DataConfig, *, until: Until, stream: TextIO) -> tuple[pl.DataFrame, list[Series]]:
    """Return the rows before a time and the series in them; the report on them goes to `stream`.

    Raises DataError if the data cannot be used.
    """
    frame = _read(data, until)
    report = inspect_frame(frame, data)
    report.raise_for_errors()
    stream.write("".join(f"{line}\n" for line in report.lines()))
    return frame, to_segments(frame, data.step_us, data.max_gap_steps, data)


def _read(data: DataConfig, until: Until) -> pl.DataFrame:
    frame = read_frame(data)
    if callable(until):
        until = until(frame)
    if until is None:
        return frame
    if until.tzinfo is None:
        until = until.replace(tzinfo=dt.UTC)
    before = frame.filter(pl.col("ds") < until)
    if before.is_empty():
        first: dt.datetime = frame.select(pl.col("ds").min()).item()
        raise DataError(f"there is no data before {until.isoformat()}: the first row is of {first.isoformat()}")
    return before
