"""What a benchmark asks: which part may be learnt from, and which forecasts are scored.

Knows nothing of models.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from forecaster.data.windows import Series
from forecaster.evaluation.scores import Backtest

Extra = Callable[[Backtest], dict[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One benchmark.

    Args:
        series: whole, the test part included.
        first_time_us: of the test part; what lies before may be learnt from.
        last_time_us: the first step of the last scored origin.
        season: of MASE, in steps.
        extra: the benchmark's own figures, out of the backtest.
    """

    series: tuple[Series, ...]
    first_time_us: int
    last_time_us: int
    season: int
    extra: Extra


def before(series: Sequence[Series], time_us: int) -> list[Series]:
    """Return the parts before a time."""
    return [one_series.before(time_us) for one_series in series]


def origins_of(problem: Problem, one_series: Series) -> np.ndarray:
    """Return the index of the last known step of each scored origin of a series, int64 [K]."""
    first = one_series.grid.index(one_series.start_us, problem.first_time_us) - 1
    last = one_series.grid.index(one_series.start_us, min(problem.last_time_us, int(one_series.time_us[-1]))) - 1
    return np.arange(first, last + 1)
