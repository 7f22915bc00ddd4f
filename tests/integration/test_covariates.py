"""Covariates from the file to the forecast: each is used where it matters, and may be missing."""

import dataclasses
import datetime as dt
import math
from typing import Any

import numpy as np
import polars as pl
import torch

from forecaster.config import Config, DataConfig, ModelConfig, TrainingConfig
from forecaster.data.schema import canonical_frame
from forecaster.data.windows import to_segments
from forecaster.evaluation import forecast, fresh_state
from forecaster.model.ensemble import Model
from forecaster.model.observations import Observations
from forecaster.training.fit import FitResult, fit

START = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
HORIZON = 4


def hours(steps: int, first: int = 0) -> list[dt.datetime]:
    return [START + dt.timedelta(hours=first + hour) for hour in range(steps)]


def configure(data: DataConfig, model: dict[str, Any], **training: Any) -> Config:
    small = ModelConfig(hidden_size=8, num_layers=1, decoder_size=16, horizon=HORIZON, season_lengths=(12,))
    quick = TrainingConfig(max_epochs=4, min_updates=40, chunk_steps=24, validation_steps=48)
    return Config(data=data, model=dataclasses.replace(small, **model), training=dataclasses.replace(quick, **training))


def fitted(frame: pl.DataFrame, config: Config) -> FitResult:
    data = config.data
    return fit(to_segments(canonical_frame(frame, data), data.step_us, data.max_gap_steps, data), config)


def with_gaps(rng: np.random.Generator, values: np.ndarray, share: float) -> list[float | None]:
    return [None if rng.random() < share else value for value in values.tolist()]


def weather_and_prices(seed: int = 0) -> pl.DataFrame:
    """Return four series: the price of the same hour and the rain of three hours before are what moves them."""
    rng = np.random.default_rng(seed)
    frames = []
    for index in range(4):
        price, rain, noise = rng.normal(size=(3, 360))
        y = 50 + 10 * index - 5 * price + 5 * np.roll(rain, 3) + 0.3 * noise
        columns = {"ds": hours(360), "y": y, "price": with_gaps(rng, price, 0.05), "rain": with_gaps(rng, rain, 0.05)}
        frames.append(pl.DataFrame(columns).with_columns(unique_id=pl.lit(f"s{index}")))
    return pl.concat(frames)


def test_the_known_future_and_the_past_are_used_where_they_matter() -> None:
    frame = weather_and_prices()
    none = fitted(frame, configure(DataConfig(), {})).backtest
    future = fitted(frame, configure(DataConfig(future_covariates=("price",)), {})).backtest
    past = fitted(frame, configure(DataConfig(past_covariates=("rain",)), {})).backtest
    both = fitted(frame, configure(DataConfig(past_covariates=("rain",), future_covariates=("price",)), {})).backtest
    print(none.mase_by_horizon, future.mase_by_horizon, past.mase_by_horizon, both.mase_by_horizon)


SHAPES = {"a": 1.0, "b": -1.0}


def patterns(kinds: list[str], steps: int, seed: int) -> pl.DataFrame:
    """Return series whose kind says when in the day they are high, and whose size how much."""
    rng = np.random.default_rng(seed)
    frames = []
    for index, kind in enumerate(kinds):
        size = float(rng.choice([2.0, 8.0]))
        first = int(rng.integers(24))
        hour = first + np.arange(steps)
        y = 20 + size * SHAPES.get(kind, 0.5) * np.sin(hour * math.tau / 24) + 0.2 * rng.normal(size=steps)
        columns = {"ds": hours(steps, first), "y": y}
        frames.append(pl.DataFrame(columns).with_columns(unique_id=pl.lit(f"{index}"), kind=pl.lit(kind), size=size))
    return pl.concat(frames)


def cold_error(model: Model, data: DataConfig, kinds: list[str]) -> float:
    """Return the mean error of forecasts after three values of new series."""
    whole = to_segments(canonical_frame(patterns(kinds, 3 + HORIZON, 7), data), data.step_us, 9, data)
    quantiles = forecast(model, [one.part(0, 3) for one in whole], HORIZON)
    median = quantiles[..., model.config.quantile_levels.index(0.5)].numpy()
    assert bool(torch.isfinite(quantiles).all())
    return float(np.abs(median - np.stack([one.values[3:] for one in whole])).mean())


def test_static_covariates_are_used_where_little_is_known_yet() -> None:
    kinds = ["a", "b"] * 30
    frame = patterns(kinds, 96, 1)
    model = {"min_history": 2, "season_lengths": (24,)}
    nothing, static = DataConfig(), DataConfig(static_covariates=("size",), static_categories=("kind",))
    without = fitted(frame, configure(nothing, model, origin_stride=2, max_epochs=6)).bundle.model
    knowing = fitted(frame, configure(static, model, origin_stride=2, max_epochs=6)).bundle.model
    print(
        cold_error(without, nothing, kinds),
        cold_error(knowing, static, kinds),
        cold_error(knowing, static, ["c", "a", "d"]),
    )


def countdowns(count: int, seed: int) -> pl.DataFrame:
    """Return series of 20 to 30 steps at different times that count down how many steps are left."""
    rng = np.random.default_rng(seed)
    frames = []
    for index in range(count):
        steps = int(rng.integers(20, 31))
        left = np.arange(steps)[::-1].astype(float)
        columns = {"ds": hours(steps, int(rng.integers(600))), "y": 5 + rng.normal(size=steps), "left": left}
        frames.append(pl.DataFrame(columns).with_columns(over=pl.col("left") == 0, unique_id=pl.lit(f"{index}")))
    return pl.concat(frames)


def test_the_end_of_a_series_is_seen_coming() -> None:
    data = DataConfig(past_covariates=("left",), end_column="over")
    config = configure(data, {"end_of_sequence": True, "season_lengths": ()}, origin_stride=1, validation_steps=100)
    model = fitted(countdowns(80, 0), config).bundle.model
    (one,) = to_segments(canonical_frame(countdowns(1, 5), data), data.step_us, 9, data)
    for left in (15, 5, 2):
        part = one.part(0, len(one) - left)
        observed = Observations.of(
            torch.from_numpy(part.time_us)[None],
            torch.from_numpy(part.values)[None],
            torch.from_numpy(part.dynamic)[None],
        )
        state = model.scan(fresh_state(model, [part]), observed)[0]
        print(left, model.predict(state, HORIZON).ended)
