"""Trying a version: loads it as the server does, observes, forecasts.

Knows nothing of who asks; `trial_process` does that in a process of its own.

Shapes: N series, D horizon steps, Q quantiles.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import polars as pl
import torch

from forecaster.config import DataConfig, TrackingConfig
from forecaster.data.windows import Series, known_future, latest_segments
from forecaster.errors import BundleError, TooLittleHistoryError
from forecaster.model.bundle import Bundle
from forecaster.registry import registry
from forecaster.serving.engine.engine import Engine
from forecaster.serving.storage.records import Attributes, Columns
from forecaster.serving.storage.volatile import VolatileStorage
from forecaster.serving.swap.verification import load_verified
from forecaster.serving.work.forecasting import ForecastWork, Futures
from forecaster.serving.work.observing import ObserveWork

_MADE_UP, _MOST_STEPS = "made up", 20_000


def try_here(tracking: TrackingConfig, version: str, rows: pl.DataFrame | None) -> int:
    """Load a version, observe rows and a made-up series, forecast all of them, and return how many series were.

    Raises ForecasterError, or whatever a fault raises, if that cannot be done.
    """
    torch.set_num_threads(1)  # as in the server
    registry.prepare()
    _, bundle = load_verified(tracking, version)
    engine = Engine(bundle, VolatileStorage())
    engine.lanes.active.warm_up()
    series, future = _known(bundle, rows)
    made_up = _made_up(bundle)
    ahead = np.full((1, *future.shape[1:]), np.nan)
    forecast = observe_and_forecast(engine, bundle, [made_up], ahead)
    if not forecast:
        raise BundleError(f"it does not forecast a series of {len(made_up)} values")
    return forecast + (observe_and_forecast(engine, bundle, series, future) if series else 0)


def observe_and_forecast(engine: Engine, bundle: Bundle, series: Sequence[Series], future: np.ndarray) -> int:
    """Observe series and forecast what follows, knowing its covariates and not; return how many have a forecast.

    Args:
        engine: of the bundle.
        bundle: the model.
        series: whole stretches.
        future: known-future covariates behind each of them, float64 [N, D, F].

    Raises BundleError if a forecast fails, is not finite, or its quantiles cross.
    """
    engine.observe([_observations(bundle, series)])
    config, names = bundle.model.config, tuple(one_series.unique_id for one_series in series)
    none = np.zeros(len(names), np.int64)
    told = (Futures(np.arange(len(names)), none.astype(bool), none, future),) if future.shape[-1] else ()
    work = [ForecastWork(names, config.horizon, config.quantile_levels, futures) for futures in (told, ())]
    answers = engine.forecast(work)
    for answer in answers:
        for name, error in answer.failures.items():
            if not isinstance(error, TooLittleHistoryError):
                raise BundleError(f"series {name!r}: {error}")
        if not np.isfinite(answer.quantiles).all():
            raise BundleError("its forecasts are not all finite numbers")
        if (np.diff(answer.quantiles, axis=-1) < 0).any():
            raise BundleError("its quantiles cross")
    return len(answers[0].series_ids)


def _known(bundle: Bundle, rows: pl.DataFrame | None) -> tuple[list[Series], np.ndarray]:
    """Return the latest stretch of each series of the rows, and what is known of the time behind it."""
    data = bundle.model.covariates.read_by(DataConfig(frequency=bundle.frequency))
    if rows is None:
        return [], np.zeros((0, bundle.model.config.horizon, len(data.future_covariates)))
    kinds = dict.fromkeys(data.beside, pl.Float64) | dict.fromkeys(data.static_categories, pl.String)
    absent = [pl.lit(None, kinds[name]).alias(name) for name in data.beside if name not in rows.columns]
    rows = rows.with_columns(absent)
    series = latest_segments(rows, bundle.step_us, bundle.max_gap_steps, data)
    return series, known_future(rows, series, bundle.model.config.horizon, data)


def _made_up(bundle: Bundle) -> Series:
    """Return a series that is long enough to be forecast, with the usual covariates."""
    model, spec = bundle.model, bundle.model.covariates
    steps = min(max(model.config.min_history or 1, 64) + 8, _MOST_STEPS)
    values = 10.0 + np.sin(np.arange(steps)).round(3)
    beside = np.broadcast_to([covariate.mean for covariate in (*spec.past, *spec.future)], (steps, len(spec.dynamic)))
    return Series(_MADE_UP, 0, bundle.step_us, values, beside)


def _observations(bundle: Bundle, series: Sequence[Series]) -> ObserveWork:
    spec = bundle.model.covariates
    columns = Columns(
        tuple(one_series.unique_id for one_series in series),
        np.repeat(np.arange(len(series), dtype=np.int32), [len(one_series) for one_series in series]),
        np.concatenate([one_series.time_us for one_series in series]),
        np.concatenate([one_series.values for one_series in series]),
    )
    if spec.dynamic:
        beside = np.concatenate([one_series.dynamic for one_series in series])
        columns = dataclasses.replace(columns, covariate_names=spec.dynamic, covariates=beside)
    known = [one_series for one_series in series if one_series.attributes.numbers or one_series.attributes.categories]
    if not known:
        return ObserveWork(columns)
    numbers = tuple(
        {c.name: x for c, x in zip(spec.static, one.attributes.numbers, strict=True) if np.isfinite(x)} for one in known
    )
    categories = tuple(
        {c.name: x for c, x in zip(spec.categories, one.attributes.categories, strict=True) if x} for one in known
    )
    return ObserveWork(columns, Attributes(tuple(one.unique_id for one in known), numbers, categories))
