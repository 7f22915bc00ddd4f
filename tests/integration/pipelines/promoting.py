"""A store with three versions of a small model, weak, good and spoilt, and data whose newest part none has seen."""

import dataclasses
import datetime as dt
import pathlib
import shutil
import sqlite3

import numpy as np
import polars as pl
import torch
from mlflow.tracking._tracking_service.utils import _artifact_repos_cache

from forecaster.config import (
    BacktestConfig,
    Config,
    DataConfig,
    IngestConfig,
    ModelConfig,
    TrackingConfig,
    TrainingConfig,
)
from forecaster.data.windows import Series, split_at, to_segments
from forecaster.model.bundle import Bundle
from forecaster.registry import registry
from forecaster.training.fit import fit
from forecaster.training.run.example import example_of
from pipelines.ingest.step import ingest

START = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
STEPS, WINDOW, HORIZON, SERIES = 300, 28, 4, 6
WINDOW_START = START + dt.timedelta(hours=STEPS - WINDOW)
WEAK, GOOD, SPOILT = "1", "2", "3"
_PATHS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def make_frame() -> pl.DataFrame:
    """Return series with a season of 12 hours whose level wanders; one hour is missing in each."""
    rng = np.random.default_rng(0)
    frames = []
    for index in range(SERIES):
        level = 50 + np.convolve(rng.normal(size=STEPS), 0.9 ** np.arange(40))[:STEPS]
        y = level + 4 * np.sin(np.arange(STEPS) * np.pi / 6) + 0.3 * rng.normal(size=STEPS)
        times = [START + dt.timedelta(hours=i) for i in range(STEPS)]
        frame = pl.DataFrame({"unique_id": f"m{index}", "ds": times, "y": y})
        frames.append(frame.filter(pl.arange(STEPS) != 77))
    return pl.concat(frames).with_columns(pl.col("ds").cast(pl.Datetime("us", "UTC")))


def make_config(folder: pathlib.Path) -> Config:
    """Return the configuration of a store and a data set in one folder."""
    return Config(
        data=DataConfig(path=str(folder / "meters.csv")),
        ingest=IngestConfig(output=str(folder / "dataset")),
        model=ModelConfig(hidden_size=8, num_layers=1, decoder_size=8, horizon=HORIZON, season_lengths=(12,)),
        training=TrainingConfig(max_epochs=1, min_updates=4, chunk_steps=24, validation_steps=48, threads=1),
        tracking=TrackingConfig(uri=f"sqlite:///{folder / 'mlflow.db'}"),
        backtest=BacktestConfig(steps=WINDOW, folds=3),
    )


def make_store(folder: pathlib.Path) -> Config:
    """Fill a folder that has an empty store: versions WEAK, which is the champion, GOOD and SPOILT."""
    config = make_config(folder)
    frame = make_frame()
    frame.write_csv(folder / "meters.csv")
    ingest(config)
    series, _ = split_at(to_segments(frame, config.data.step_us, 1000), int(WINDOW_START.timestamp() * 1e6))
    weak = fit(series, config).bundle
    longer = dataclasses.replace(config.training, max_epochs=4, min_updates=32)
    good = fit(series, dataclasses.replace(config, training=longer)).bundle
    for bundle in (weak, good, spoilt(good)):
        add_version(config, bundle, series)
    registry.set_alias(registry.connect(config.tracking), config.tracking, registry.CHAMPION, WEAK)
    return config


def spoilt(bundle: Bundle) -> Bundle:
    """Return a model made worse on purpose: noise in its weights."""
    torch.manual_seed(0)
    model = bundle.model
    weights = {name: one.clone() for name, one in model.state_dict().items()}
    worse = type(model)(model.config, model.step_us)
    worse.load_state_dict(weights)
    for parameter in worse.parameters():
        parameter.data += 0.5 * torch.randn_like(parameter)
    return Bundle.of(worse, frequency=bundle.frequency, max_gap_steps=bundle.max_gap_steps)


def add_version(
    config: Config, bundle: Bundle, series: list[Series], *, seen: dt.datetime | None = WINDOW_START, **tags: str
) -> str:
    """Register a bundle that has learnt from what lies before a time, and return its version."""
    client = registry.connect(config.tracking)
    run = client.create_run(registry.experiment_id(client, config.tracking))
    example = example_of(series, bundle.model)
    model_id = registry.log_bundle(client, config.tracking, run.info.run_id, bundle, example)
    if seen is not None:
        tags["data_window_end"] = (seen - dt.timedelta(hours=1)).isoformat()
    return registry.register(client, config.tracking, model_id, description="a test's", tags=tags).version


def clone(config: Config, folder: pathlib.Path) -> Config:
    """Copy a store that a test may change, with the paths in it."""
    before = pathlib.Path(config.ingest.output).parent
    shutil.copytree(before, folder, dirs_exist_ok=True)
    with sqlite3.connect(folder / "mlflow.db") as database:
        for table, column in _PATHS:
            database.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (str(before), str(folder)))
    database.close()
    _artifact_repos_cache.clear()  # by the ids of runs, which the copy shares with its original
    return make_config(folder)
