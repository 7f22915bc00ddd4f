"""The step `backtest`: champion, challenger and seasonal naive on the newest data, which the challenger has not seen.

Knows the order of the steps; how forecasts are scored is `comparison`'s, how the result looks `backtest_result`'s.
"""

import datetime as dt
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import polars as pl

from forecaster.config import Config, TrackingConfig
from forecaster.data.grid import Grid
from forecaster.data.windows import Series, past
from forecaster.errors import FailedPreconditionError
from forecaster.evaluation.scores import Backtest
from forecaster.imports import without_collections
from forecaster.registry import registry
from forecaster.registry.aliases import challenger_of
from forecaster.registry.registry import RegisteredModel
from forecaster.threads import torch_threads
from forecaster.training.run.job import read_series
from pipelines.backtest.comparison import NAIVE, Terms, Window, absent_covariates, common_terms, score_all
from pipelines.backtest.difference import Difference
from pipelines.backtest.result import CHALLENGER, CHAMPION, BacktestResult, Fold, figures_of, utc_text
from pipelines.context import Context
from pipelines.training.dataset import ingested, read_manifest
from pipelines.window import window_start

if TYPE_CHECKING:
    from mlflow import MlflowClient

_SEEN_UNTIL = "data_window_end"  # the tag of a version that says which data it has learnt from


def backtest(config: Config, context: Context) -> BacktestResult:
    """Score challenger, champion if there is one, and seasonal naive on the same forecasts of the newest data.

    A finished backtest of the same retraining, and of the same versions, is read back instead.

    Args:
        config: names the data set, the store, the window and its folds.
        context: why it runs.

    Raises:
        ModelNotFoundError: there is no challenger.
        FailedPreconditionError: the challenger has seen some of the newest data, or is the champion already.
        DataError: the data cannot be used.
        ConfigError: the models have different time steps.
        UnavailableError: the store cannot be used.
    """
    client = registry.existing(config.tracking)
    done = _done_before(client, config.tracking, context.key)
    if done is not None:
        return done
    versions = _contenders(client, config.tracking, context.key)
    config = ingested(config)
    frame, series = read_series(config.data, until=None, stream=context.stream)
    return _backtest(config, context, frame, series, versions)


def _done_before(client: "MlflowClient", config: TrackingConfig, key: str | None) -> BacktestResult | None:
    """Return a finished backtest of the key that is of today's versions, or whose challenger became the champion."""
    from pipelines.backtest.runs import finished_backtest, read_result

    run = finished_backtest(client, config, {"retrain_key": key}) if key is not None else None
    if run is None:
        return None
    today = {name: registry.find(client, config, name) for name in (CHALLENGER, CHAMPION)}
    numbers = {name: found.version for name, found in today.items() if found is not None}
    of = {name: run.data.tags[f"{name}_version"] for name in today if f"{name}_version" in run.data.tags}
    if of != numbers and of[CHALLENGER] != numbers.get(CHAMPION):
        return None
    return read_result(client, config, run.info.run_id)


def _contenders(client: "MlflowClient", config: TrackingConfig, key: str | None) -> dict[str, RegisteredModel]:
    challenger, champion = challenger_of(client, config), registry.find(client, config, CHAMPION)
    if key not in (None, challenger.tags.get("retrain_key")):
        raise FailedPreconditionError(
            f"{config.model} version {challenger.version}, the challenger, is not of this retraining: another one was"
            " trained meanwhile; retrain again"
        )
    if champion is not None and champion.version == challenger.version:
        raise FailedPreconditionError(
            f"{config.model} version {champion.version} is the champion already: run `forecaster pipelines promote` to"
            " end its promotion"
        )
    return {CHALLENGER: challenger} | ({CHAMPION: champion} if champion is not None else {})


def _backtest(
    config: Config,
    context: Context,
    frame: pl.DataFrame,
    series: Sequence[Series],
    versions: Mapping[str, RegisteredModel],
) -> BacktestResult:
    with without_collections():
        from forecaster.training.run.tracking import track
        from pipelines.backtest.runs import STEP, log_fold, log_result

    window = _window(config, frame)
    seen = _seen(versions, window)
    tags = {**context.tags(STEP), "registered_model": config.tracking.model}
    tags |= {f"{name}_version": version.version for name, version in versions.items()}
    with track(config, trigger=context.trigger, name=STEP, tags=tags) as run, torch_threads(config.training.threads):
        run.log_config(config)
        data = run.log_data(frame, series, STEP)
        run.log_models([version.model_id for version in versions.values() if version.model_id])
        bundles = {
            name: registry.load_bundle(config.tracking, version.version)[1] for name, version in versions.items()
        }
        terms = common_terms(bundles)
        scores = score_all(bundles, frame, config.data, window, terms)
        notes = [*seen, *terms.notes, *absent_covariates(bundles, frame), *_broken(scores)]
        result = _result(config, run.run_id, versions, scores, window, terms, notes)
        for number, fold in enumerate(result.folds, start=1):
            tags = {**context.tags("fold"), "mlflow.parentRunId": run.run_id}
            with track(config, trigger=context.trigger, name=f"fold {number}", tags=tags) as nested:
                log_fold(nested, fold)
        log_result(run, result, _by_series(scores), versions, data)
    return result


def _result(
    config: Config,
    run_id: str,
    versions: Mapping[str, RegisteredModel],
    scores: Mapping[str, Sequence[Backtest]],
    window: Window,
    terms: Terms,
    notes: Sequence[str],
) -> BacktestResult:
    stretches = enumerate(window.stretches(), start=1)
    return BacktestResult(
        run_id=run_id,
        model=config.tracking.model,
        versions={name: version.version for name, version in versions.items()},
        frequency=config.data.frequency,
        horizon=terms.horizon,
        data=read_manifest(config).content_hash,
        whole=_fold(scores, 0, window.first_us, window.last_us),
        folds=tuple(_fold(scores, number, since, until) for number, (since, until) in stretches),
        by_horizon={name: found[0].mase_by_horizon for name, found in scores.items()},
        series=sum(one_series.pairs > 0 for one_series in scores[CHALLENGER][0].series),
        difference=Difference.of(scores[CHALLENGER][0], scores[CHAMPION][0]) if CHAMPION in scores else None,
        notes=tuple(notes),
    )


def _window(config: Config, frame: pl.DataFrame) -> Window:
    last: dt.datetime = past(frame, config.data).select(pl.col("ds").max()).item()
    first_us, last_us = (round(time.timestamp() * 1_000_000) for time in (window_start(config, frame), last))
    return Window.of(first_us, last_us, config.data.step_us, config.backtest.folds)


def _seen(versions: Mapping[str, RegisteredModel], window: Window) -> list[str]:
    """Refuse a challenger that has learnt from the window; return a note for a champion that has."""
    first, steps = _time(window.first_us), window.steps
    ends = {name: version.tags.get(_SEEN_UNTIL) for name, version in versions.items()}
    last = {name: dt.datetime.fromisoformat(end) for name, end in ends.items() if end is not None}
    if CHALLENGER not in last or last[CHALLENGER] >= first:
        seen = f"has seen data up to {ends[CHALLENGER]}" if CHALLENGER in last else "does not say what it has seen"
        raise FailedPreconditionError(
            f"version {versions[CHALLENGER].version}, the challenger, {seen}, and the backtest begins at"
            f" {utc_text(first)}: train one with `forecaster pipelines train --until {utc_text(first)}`, or retrain"
        )
    if CHAMPION not in versions:
        return []
    if CHAMPION not in last:
        return ["the champion does not say what it has learnt from: it may have seen the window"]
    if last[CHAMPION] < first:
        return []
    learnt_us = round((last[CHAMPION] - first).total_seconds() * 1_000_000)
    known = min(Grid(window.step_us).index(0, learnt_us) + 1, steps)
    return [f"the champion has learnt from the first {known:,} of the {steps:,} steps: it is harder to beat"]


def _broken(scores: Mapping[str, Sequence[Backtest]]) -> list[str]:
    counts = {name: len(found[0].broken) for name, found in scores.items()}
    return [f"forecasts of the {name} are not finite for {count:,} series" for name, count in counts.items() if count]


def _fold(scores: Mapping[str, Sequence[Backtest]], number: int, first_us: int, last_us: int) -> Fold:
    """Return the figures of a part of the backtests, in which no series may hide forecasts that are not finite."""
    figures = {name: figures_of(name, found[number].metrics()) for name, found in scores.items()}
    for name, found in scores.items():
        if found[number].broken:
            figures[name]["mase"] = math.nan
    origins = scores[CHALLENGER][number].origins
    return Fold(first_time=_time(first_us), last_time=_time(last_us), origins=origins, figures=figures)


def _by_series(scores: Mapping[str, Sequence[Backtest]]) -> pl.DataFrame:
    """Return a row for each scored series, the challenger's worst against what it has to beat first."""
    series = {name: found[0].series for name, found in scores.items()}
    columns = {"unique_id": [one_series.unique_id for one_series in series[CHALLENGER]]}
    table = pl.DataFrame(columns | {"pairs": [one_series.pairs for one_series in series[CHALLENGER]]})
    for name, found in series.items():
        table = table.with_columns(pl.Series(f"{name}_mase", [one.mase for one in found]))
    for name in (one_series for one_series in series if one_series != NAIVE):
        own = (
            ("smape", [one_series.smape for one_series in series[name]]),
            ("bias", [one_series.bias for one_series in series[name]]),
        )
        coverage = ("coverage_80", [one_series.coverage[0.8] for one_series in series[name]])
        table = table.with_columns(pl.Series(f"{name}_{figure}", values) for figure, values in (*own, coverage))
    other = CHAMPION if CHAMPION in series else NAIVE
    worse = (pl.col(f"{CHALLENGER}_mase") - pl.col(f"{other}_mase")).fill_nan(None)
    return table.filter(pl.col("pairs") > 0).sort(worse, descending=True, nulls_last=True)


def _time(us: int) -> dt.datetime:
    return dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=us)
