"""A history that a model can forecast, as people would send it: what MLflow shows beside a logged model.

Knows the columns of a long frame; knows nothing of MLflow.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from forecaster.data.windows import Series
from forecaster.model.covariates import CovariateSpec
from forecaster.model.ensemble import Model

if TYPE_CHECKING:
    import pandas as pd


def example_of(series: Sequence[Series], model: Model) -> "pd.DataFrame":
    """Return a short history as a pandas frame, as long as the model needs.

    Its last rows are the horizon, without values, if the model knows covariates of the future and there is that much.
    """
    needed, horizon = model.config.min_history or 1, model.config.horizon if model.covariates.future else 0
    for ahead in (horizon, 0):
        for one_series in series:
            seen = np.isfinite(one_series.values[: len(one_series) - ahead]).nonzero()[0]
            if len(seen) >= needed:
                return _frame(one_series.part(int(seen[-needed]), int(seen[-1]) + 1 + ahead), model.covariates, ahead)
    raise AssertionError("a training has a series that is long enough")


def _frame(one_series: Series, spec: CovariateSpec, ahead: int) -> "pd.DataFrame":
    values, dynamic = one_series.values.copy(), one_series.dynamic.copy()
    known = len(one_series) - ahead
    values[known:] = np.nan
    dynamic[known:, : len(spec.past)] = np.nan
    names = [*(number.name for number in spec.static), *(category.name for category in spec.categories)]
    static = zip(names, (*one_series.attributes.numbers, *one_series.attributes.categories), strict=True)
    frame = pl.DataFrame({"ds": one_series.time_us, "y": values}).select(
        pl.lit(one_series.unique_id).alias("unique_id"),
        pl.col("ds").cast(pl.Datetime("us")),
        "y",
        *(pl.Series(name, dynamic[:, k]) for k, name in enumerate(spec.dynamic)),
        *(pl.lit(value).alias(name) for name, value in static),
    )
    return frame.to_pandas()
