"""Where the newest stretch of the data begins."""

import datetime as dt

import polars as pl
import pytest

from forecaster.config import BacktestConfig, Config, DataConfig, ModelConfig
from pipelines.window import window_start

START = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)


def make_frame(steps: int, ahead: int = 0) -> pl.DataFrame:
    """Return a series of so many hours, and of more whose price is known and whose value is not."""
    times = [START + dt.timedelta(hours=k) for k in range(steps + ahead)]
    y = [1.0] * steps + [None] * ahead
    frame = pl.DataFrame({"unique_id": "a", "ds": times, "y": y, "price": 2.0}, schema_overrides={"y": pl.Float64})
    return frame.with_columns(pl.col("ds").cast(pl.Datetime("us", "UTC")))


@pytest.mark.parametrize(
    ("steps", "horizon", "asked", "expected"),
    [
        (1000, 24, None, 168),  # 7 horizons
        (300, 24, None, 60),  # a fifth of the data
        (100, 24, None, 24),  # a horizon
        (300, 24, 30, 30),
    ],
)
def test_the_window_is_as_long_as_told_or_as_the_horizon_suggests(
    steps: int, horizon: int, asked: int | None, expected: int
) -> None:
    config = Config(model=ModelConfig(horizon=horizon), backtest=BacktestConfig(steps=asked))
    assert window_start(config, make_frame(steps)) == START + dt.timedelta(hours=steps - expected)


def test_what_is_known_of_the_future_is_not_in_the_window() -> None:
    config = Config(data=DataConfig(future_covariates=("price",)), backtest=BacktestConfig(steps=30))
    assert window_start(config, make_frame(300, ahead=24)) == START + dt.timedelta(hours=270)
