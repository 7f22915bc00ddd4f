"""Small series and a small configuration that trains in a second."""

import dataclasses
import math

import numpy as np

from forecaster.config import Config, DataConfig, ModelConfig, TrainingConfig
from forecaster.data.windows import Series

HOUR = 3_600_000_000


def make_series(count: int = 4, steps: int = 360, seed: int = 0) -> list[Series]:
    """Return seasonal series (12 steps) whose level wanders, so that the seasonal naive can be beaten."""
    rng = np.random.default_rng(seed)
    made = []
    for index in range(count):
        level = 20 + 5 * index + np.convolve(rng.normal(size=steps), 0.9 ** np.arange(40))[:steps]
        values = level + 4 * np.sin(np.arange(steps) * math.tau / 12) + 0.3 * rng.normal(size=steps)
        values[rng.random(steps) < 0.02] = np.nan
        made.append(Series(f"s{index}", 0, HOUR, values))
    return made


def make_config(**training: object) -> Config:
    """Return a configuration for `make_series`; the arguments are fields of its training section."""
    return Config(
        data=DataConfig(frequency="1h"),
        model=ModelConfig(hidden_size=8, num_layers=1, decoder_size=8, horizon=4, season_lengths=(12,), dropout=0.1),
        training=dataclasses.replace(
            TrainingConfig(max_epochs=3, min_updates=16, chunk_steps=24, validation_steps=48, threads=1),
            **training,  # type: ignore[arg-type]
        ),
    )
