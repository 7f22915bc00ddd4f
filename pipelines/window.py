"""The newest stretch of the data, which is held back from training and on which models are compared.

Knows nothing of models.
"""

import datetime as dt

import polars as pl

from forecaster.config import Config
from forecaster.data.windows import past

_HORIZONS, _LARGEST_SHARE = 7, 5


def window_start(config: Config, frame: pl.DataFrame) -> dt.datetime:
    """Return the first time of the backtest's window.

    Args:
        config: says how long the window is.
        frame: canonical, not empty, with rows up to the newest.
    """
    known = past(frame, config.data)  # what is known of the future is not in the window
    first, last = known.select(pl.col("ds").min().alias("first"), pl.col("ds").max().alias("last")).row(0)
    step = dt.timedelta(microseconds=config.data.step_us)
    steps = config.backtest.steps
    if steps is None:
        whole, horizon = (last - first) // step + 1, config.model.horizon
        steps = max(min(_HORIZONS * horizon, whole // _LARGEST_SHARE), horizon)
    start: dt.datetime = last - (steps - 1) * step
    return start
