"""A small source, and a search space on it whose trials take seconds."""

import dataclasses
import datetime as dt
import pathlib
from typing import Any

import numpy as np
import polars as pl

from forecaster.config import (
    BacktestConfig,
    Config,
    DataConfig,
    IngestConfig,
    ModelConfig,
    TrackingConfig,
    TrainingConfig,
    TuningConfig,
)

START, STEPS, WINDOW = dt.datetime(2024, 1, 1, tzinfo=dt.UTC), 300, 24
UNTIL = START + dt.timedelta(hours=STEPS - WINDOW)  # where the backtest's window begins
SPACE: dict[str, Any] = {
    "model.cell": ["gru", "rnn_tanh"],
    "model.hidden_size": {"low": 4, "high": 8},
    "training.learning_rate": {"low": 1e-5, "high": 3e-2, "log": True},
}


def write_source(path: pathlib.Path) -> None:
    """Write two series with a season of 12 hours; in the backtest's window they are something else altogether."""
    rng = np.random.default_rng(0)
    hours = np.arange(STEPS)
    frames = []
    for index in range(2):
        y = 50 + 4 * np.sin(hours * np.pi / 6) + 0.1 * rng.normal(size=STEPS).cumsum() + 0.3 * rng.normal(size=STEPS)
        y[-WINDOW:] = 1e6
        times = pl.Series([START + dt.timedelta(hours=i) for i in range(STEPS)], dtype=pl.Datetime("us", "UTC"))
        frames.append(pl.DataFrame({"unique_id": f"m{index}", "ds": times, "y": y}))
    pl.concat(frames).write_parquet(path)


def tuning_config(folder: pathlib.Path, tracking: TrackingConfig, **tuning: Any) -> Config:
    """Return a configuration of the data set `folder / "dataset"`, whose trainings are as small as can be."""
    return Config(
        data=DataConfig(frequency="1h"),
        model=ModelConfig(hidden_size=8, num_layers=1, decoder_size=8, horizon=4, season_lengths=(12,)),
        training=TrainingConfig(max_epochs=3, min_updates=4, chunk_steps=24, validation_steps=36),
        tracking=tracking,
        ingest=IngestConfig(sources=(str(folder / "source.parquet"),), output=str(folder / "dataset")),
        backtest=BacktestConfig(steps=WINDOW),
        tuning=dataclasses.replace(TuningConfig(space=SPACE, startup_trials=1), **tuning),
    )
