"""The newest window of a real data set beside what a version was trained on."""

import datetime as dt
import io
import pathlib

import numpy as np
import polars as pl
import pytest

from forecaster.config import Config, DataConfig, IngestConfig, ModelConfig
from pipelines.ingest.step import ingest
from pipelines.training.dataset import read_manifest
from pipelines.watching.drift import Signal
from pipelines.watching.watch import inputs_signal, newest_stability
from tests.unit.pipelines.watching.drifting import stream

START, HOUR, STEPS, TRAINED = dt.datetime(2024, 1, 1, tzinfo=dt.UTC), dt.timedelta(hours=1), 600, 500


def write(path: pathlib.Path, values: list[np.ndarray], first: int) -> None:
    """Write hours of series from the first on, the known future of a day behind them."""
    rows = [
        pl.DataFrame({"unique_id": f"s{k}", "ds": [START + i * HOUR for i in range(first, len(y) + 24)]}).with_columns(
            y=pl.Series([*y[first:], *[None] * 24], dtype=pl.Float64), price=pl.lit(1.0)
        )
        for k, y in enumerate(values)
    ]
    pl.concat(rows).write_parquet(path)


@pytest.fixture
def config(tmp_path: pathlib.Path) -> Config:
    (tmp_path / "incoming").mkdir()
    return Config(
        data=DataConfig(path=None, future_covariates=("price",)),
        model=ModelConfig(horizon=12),
        ingest=IngestConfig(sources=(str(tmp_path / "incoming" / "*.parquet"),), output=str(tmp_path / "dataset")),
    )


def judged(config: Config) -> Signal | None:
    ingest(config, io.StringIO())
    found = newest_stability(config, read_manifest(config), START + (TRAINED - 1) * HOUR)
    return inputs_signal(found, config.schedule.max_stability_index)


def test_what_comes_in_is_looked_at(config: Config, tmp_path: pathlib.Path) -> None:
    incoming = tmp_path / "incoming"
    write(incoming / "a.parquet", [stream((1, k), TRAINED) for k in range(4)], 0)
    assert judged(config) is None  # nothing is newer than the training
    write(incoming / "b.parquet", [stream((1, k), STEPS) for k in range(4)], TRAINED)
    assert judged(config) is None  # nothing is unusual
    write(incoming / "c.parquet", [stream((1, k), STEPS + 84, STEPS) for k in range(4)], STEPS)
    signal = judged(config)
    assert signal is not None
    assert (signal.kind, signal.horizon) == ("inputs", None)
    assert f"{4 * 84} values since 2024-01-26 00:00" in signal.text
