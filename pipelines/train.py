"""The step `train`: from the configured data to a registered model.

What it does is `forecaster.training.job`, which the `forecaster train` command calls too.
"""

import datetime as dt

from forecaster.config import Config
from forecaster.training import job
from forecaster.training.job import TrainResult


def train(config: Config, *, until: dt.datetime | None = None) -> TrainResult:
    """Train on the data before `until` and register the model; it is the champion if it beats the seasonal naive.

    Every call makes a new run and a new version, and nothing else: calling it again is safe.
    """
    return job.train(config, until=until, trigger="pipeline")
