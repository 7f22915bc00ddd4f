"""Which series a model forecasts best and worst, against the seasonal naive.

Knows scores; knows nothing of models or of where scores are shown.
"""

import math
from typing import Any

from forecaster.evaluation.rolling import Backtest, SeriesScore

_WORST_SERIES = 20


def ranked(backtest: Backtest) -> list[SeriesScore]:
    """Return the scored series, the best against the seasonal naive first."""
    scored = [one_series for one_series in backtest.series if math.isfinite(one_series.mase)]
    return sorted(scored, key=lambda one: (one.mase / max(one.seasonal_naive_mase, 1e-12), one.unique_id))


def from_best_to_worst(backtest: Backtest, count: int) -> set[str]:
    """Return the ids of up to `count` series, spread evenly over the ranking."""
    ids = [one_series.unique_id for one_series in ranked(backtest)]
    return set(ids) if len(ids) <= count else {ids[i * (len(ids) - 1) // (count - 1)] for i in range(count)}


def worst(backtest: Backtest) -> dict[str, list[Any]]:
    """Return the scores of the worst series as the columns of a table, the worst first."""
    last = ranked(backtest)[: -_WORST_SERIES - 1 : -1]
    columns = ("unique_id", "mase", "seasonal_naive_mase", "smape", "mae", "rmse", "bias", "pairs")
    table: dict[str, list[Any]] = {name: [_shown(getattr(one, name)) for one in last] for name in columns}
    return table | {"coverage_80": [_shown(one.coverage[0.8]) for one in last]}


def _shown(value: Any) -> Any:
    """Return a number with as many digits as a person reads."""
    return float(f"{value:.4g}") if isinstance(value, float) else value
