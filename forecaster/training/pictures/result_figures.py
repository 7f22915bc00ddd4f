"""The pictures of a finished training: which ones there are, and what of the result each shows.

Knows results; how a picture is drawn is `figures`', where it goes is `tracking`'s.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from forecaster.data.windows import Series
from forecaster.training.fit import FitResult
from forecaster.training.pictures import figures
from forecaster.training.ranking import from_best_to_worst

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SERIES_IN_FAN_CHART = 6


def figures_of(result: FitResult, series: Sequence[Series]) -> "dict[str, Figure]":
    """Return the pictures of a training on whole histories, by file name."""
    backtest, model = result.backtest, result.bundle.model
    chosen = from_best_to_worst(backtest, _SERIES_IN_FAN_CHART)
    origin_us = figures.last_origin(series, model.config.horizon, result.validation_time_us)
    shown = figures.fans(model, [one_series for one_series in series if one_series.unique_id in chosen], origin_us)
    pictures = {
        "calibration.png": figures.calibration_chart(backtest.calibration),
        "error_by_horizon.png": figures.horizon_chart(
            backtest.mase_by_horizon, backtest.seasonal_naive_mase_by_horizon, result.bundle.frequency
        ),
    }
    if result.gradient_norms:
        pictures["gradient_norms.png"] = figures.gradient_chart(result.gradient_norms, result.bundle.frequency)
    return pictures | ({"fan_chart.png": figures.fan_chart(shown)} if shown else {})
