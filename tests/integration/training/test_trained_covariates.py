"""Covariates from the file to the forecast: each is used where it matters, and may be missing."""

import dataclasses
import datetime as dt
from typing import Any

import numpy as np
import polars as pl
import torch

from forecaster.config import Config, DataConfig, ModelConfig, TrainingConfig
from forecaster.data.schema import canonical_frame
from forecaster.data.windows import Series, to_segments
from forecaster.evaluation.rolling import forecast, fresh_state
from forecaster.model.ensemble import Model
from forecaster.model.inputs.observations import Observations
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


def driven(lag: int) -> pl.DataFrame:
    """Return four series that follow what `x` was `lag` steps before; one in twenty of its values is missing."""
    rng = np.random.default_rng(0)
    frames = []
    for index in range(4):
        x, noise = rng.normal(size=(2, 360))
        columns = {"ds": hours(360), "y": 50 + 10 * index + 5 * np.roll(x, lag) + 0.3 * noise}
        columns["x"] = [None if rng.random() < 0.05 else value for value in x.tolist()]
        frames.append(pl.DataFrame(columns).with_columns(unique_id=pl.lit(f"s{index}")))
    return pl.concat(frames)


def test_the_known_future_and_the_past_are_used_where_they_matter() -> None:
    config = configure(DataConfig(), {}, learning_rate=3e-2)
    alone = fitted(driven(0), config).backtest
    future = DataConfig(future_covariates=("x",))
    informed = fitted(driven(0), dataclasses.replace(config, data=future)).backtest
    assert informed.mase < 0.5 * alone.mase
    assert 0.6 < informed.coverage[0.8] < 0.95

    past = DataConfig(past_covariates=("x",))
    first, *later = fitted(driven(1), dataclasses.replace(config, data=past)).backtest.mase_by_horizon
    assert first < 0.7 * min(later)  # one step ahead it is known, later nobody knows


GAINS = {"north": 1.0, "south": -1.0}


def switched(count: int, seed: int) -> pl.DataFrame:
    """Return series that a switch lifts or lowers for good, once in each: what came before does not tell which."""
    rng = np.random.default_rng(seed)
    frames = []
    for index in range(count):
        region, at = ("north", "south")[index % 2], int(rng.integers(14, 24))
        on = (np.arange(36) >= at).astype(float)
        y = 50 + 6 * GAINS[region] * on + rng.normal(size=36)
        columns = {"ds": hours(36, index % 30), "y": y, "on": on}
        named = {"unique_id": pl.lit(f"{index}"), "region": pl.lit(region), "gain": GAINS[region]}
        frames.append(pl.DataFrame(columns).with_columns(**named))
    return pl.concat(frames)


def error_at_the_switch(result: FitResult, data: DataConfig, **changed: object) -> float:
    """Return the mean error of the forecasts of new series made just before the switch."""
    frame = switched(20, 9).with_columns(**{name: pl.lit(value) for name, value in changed.items()})
    whole = to_segments(canonical_frame(frame, data), data.step_us, data.max_gap_steps, data)
    model = result.bundle.model
    at = [int(np.flatnonzero(one.dynamic[:, 0])[0]) for one in whole]
    future = np.stack([one.dynamic[k : k + HORIZON] for one, k in zip(whole, at, strict=True)])
    came = np.stack([one.values[k : k + HORIZON] for one, k in zip(whole, at, strict=True)])
    before = [one.part(0, k) for one, k in zip(whole, at, strict=True)]
    quantiles = forecast(model, before, HORIZON, torch.from_numpy(future))
    assert bool(torch.isfinite(quantiles).all())
    return float(np.abs(quantiles[..., model.config.quantile_levels.index(0.5)].numpy() - came).mean())


def test_static_covariates_tell_what_a_series_past_does_not() -> None:
    frame = switched(60, 0)
    on = DataConfig(future_covariates=("on",))
    model = {"season_lengths": (), "min_history": 8, "horizon": HORIZON}
    training = {"learning_rate": 3e-2, "origin_stride": 2, "holdout": False, "validation_steps": 16}
    errors = {}
    for name, data in {
        "nothing": on,
        "number": dataclasses.replace(on, static_covariates=("gain",)),
        "category": dataclasses.replace(on, static_categories=("region",)),
    }.items():
        result = fitted(frame, configure(data, model, **training))
        errors[name] = error_at_the_switch(result, data)
    assert errors["number"] < 0.6 * errors["nothing"]
    assert errors["category"] < 0.6 * errors["nothing"]
    unseen = error_at_the_switch(result, data, region="east")  # UNKNOWN: as good as not knowing
    assert errors["category"] < unseen < 1.3 * errors["nothing"]


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
    (one,) = to_segments(canonical_frame(countdowns(1, 5), data), data.step_us, data.max_gap_steps, data)
    assert one.ended
    far, near = (ended_within(model, one.part(0, len(one) - left)) for left in (15, 2))
    assert far[0] == near[0] == 0.0  # the next step always comes
    assert (np.diff(near) >= 0).all()
    assert far[-1] < 0.4
    assert near[-1] > 0.8


def ended_within(model: Model, one: Series) -> np.ndarray:
    """Return the probability that a series has ended before each of the next steps, [D]."""
    arrays = (one.time_us, one.values, one.dynamic)
    observations = Observations.of(*(torch.from_numpy(array)[None] for array in arrays))
    with torch.inference_mode():
        state = model.scan(fresh_state(model, [one]), observations)[0]
        return model.predict(state, HORIZON).ended[0].numpy()
