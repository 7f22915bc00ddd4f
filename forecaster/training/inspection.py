"""What a configuration leaves open, settled by the data: seasons, memory, likelihood, covariates.

Only the part before the validation tail is looked at.

Knows series and configurations; knows nothing of how a model is fitted.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from forecaster.config import Config, ModelConfig, default_season_lengths
from forecaster.data.windows import Series, split_at
from forecaster.errors import DataError
from forecaster.model.covariates import CovariateSpec
from forecaster.training.split import tail_start

_CYCLES = 3  # of a season that the longest series has to hold, for the season to be looked back by
_SMALL_COUNT = 20.0  # counts with a higher median are as good as continuous


def settle(config: Config, series: Sequence[Series]) -> Config:
    """Return the configuration with everything filled in that follows from the data.

    Seasons that the time step suggests are kept if the longest series holds three of them; the memory and the time
    that running statistics take to forget follow from the seasons; the head is a negative binomial if all values are
    small counts.

    Raises DataError if the values do not suit a head that is asked for.
    """
    model = config.model
    if not series:
        return config
    known, _ = split_at(series, tail_start(series, model.horizon, config.training))
    if model.season_lengths is None:
        longest = max((len(one) for one in known), default=0)
        suggested = default_season_lengths(config.data.step_us)
        model = dataclasses.replace(model, season_lengths=tuple(m for m in suggested if _CYCLES * m <= longest))
    counts = _are_counts(known)
    if model.head is None:
        small = counts and float(np.nanmedian(np.concatenate([one.values for one in known]))) <= _SMALL_COUNT
        model = dataclasses.replace(model, head="negative_binomial" if small else "quantiles")
    if model.head == "negative_binomial" and not counts:
        raise DataError("model.head=negative_binomial needs whole numbers of 0 or more: use another head")
    return dataclasses.replace(config, model=model.resolve(config.data.step_us))


def covariates_of(config: Config, series: Sequence[Series]) -> CovariateSpec:
    """Return what the training part says of the configured covariates."""
    data = config.data
    return CovariateSpec.fit(
        series,
        past=data.past_covariates,
        future=data.future_covariates,
        static=data.static_covariates,
        categories=data.static_categories,
    )


def describe(model: ModelConfig) -> str:
    """Return what was settled, in a line for people."""
    seasons = ", ".join(map(str, model.season_lengths or ())) or "none"
    return f"seasons of {seasons} steps, statistics over {model.timescale} steps, head {model.head}"


def _are_counts(series: Sequence[Series]) -> bool:
    values = np.concatenate([np.empty(0), *(one_series.values for one_series in series)])
    values = values[np.isfinite(values)]
    return bool(len(values)) and bool(((values >= 0) & (values == np.round(values))).all())
