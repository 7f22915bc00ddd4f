"""The population stability index, by hand and on streams whose values depend on each other."""

import datetime as dt
import math

import numpy as np
import polars as pl
import pytest

from pipelines.watching.stability import Stability, stability, stability_index
from pipelines.watching.watch import inputs_signal
from tests.unit.pipelines.watching.drifting import stream

START, HOUR = dt.datetime(2024, 1, 1, tzinfo=dt.UTC), dt.timedelta(hours=1)
SEEDS, STEPS, WINDOW = 20, 600, 48


def frame(values: list[np.ndarray], scale: float = 1.0) -> pl.LazyFrame:
    """Return series as rows; each has another unit."""
    rows = [
        pl.DataFrame(
            {
                "unique_id": [f"s{k}"] * len(y),
                "ds": [START + i * HOUR for i in range(len(y))],
                "y": y * scale * 10.0**k,
            }
        )
        for k, y in enumerate(values)
    ]
    return pl.concat(rows).with_columns(pl.col("ds").cast(pl.Datetime("us", "UTC"))).lazy()


def compared(rows: pl.LazyFrame, window: int = WINDOW, steps: int = STEPS) -> Stability | None:
    since = START + (steps - window) * HOUR
    return stability(rows, trained_until=since - HOUR, since=since, step=HOUR)


def test_the_index_by_hand() -> None:
    """Shares with half a count added: 10.5 / 31, 20.5 / 31 against 30.5 / 61, 30.5 / 61; the empty middle is merged."""
    found = stability_index(np.array([10.0, 0.0, 20.0]), np.array([30.0, 0.0, 30.0]))
    p, q = np.array([10.5, 20.5]) / 31.0, np.array([0.5, 0.5])
    assert found == pytest.approx(sum((p - q) * np.log(p / q)))
    assert stability_index(np.array([5.0, 5.0]), np.array([50.0, 50.0])) == 0.0
    everything_elsewhere = stability_index(np.array([0.0, 0.0, 90.0]), np.array([50.0, 50.0, 10.0]))
    assert 2.0 < everything_elsewhere < math.inf


@pytest.mark.parametrize("training", [[0.0, 4.0, 4.0, 0.0], [4.0, 0.0, 0.0, 4.0], [4.0, 0.0, 4.0, 0.0], [0, 0, 8.0, 0]])
def test_no_bin_of_the_training_is_empty(training: list[float]) -> None:
    assert math.isfinite(stability_index(np.array([1.0, 2.0, 3.0, 4.0]), np.array(training)))


def test_where_training_has_no_spread_of_bins_nothing_is_lost() -> None:
    newest, training = np.array([5.0, 0.0, 0.0, 95.0]), np.array([50.0, 0.0, 50.0, 0.0])
    merged = stability_index(np.array([5.0, 95.0]), np.array([50.0, 50.0]))
    assert stability_index(newest, training) == pytest.approx(merged)


@pytest.mark.parametrize("window", [WINDOW, 168])
def test_shifted_streams_are_unusual_and_stationary_ones_are_not(window: int) -> None:
    found = {}
    for shift in (None, STEPS - window):
        for seed in range(SEEDS):
            values = [stream((seed, k, shift is not None), STEPS, shift) for k in range(6)]
            found[seed, shift] = inputs_signal(compared(frame(values), window), 0.25)
    assert sum(signal is not None for (_, shift), signal in found.items() if shift is None) <= 1
    assert all(signal is not None for (_, shift), signal in found.items() if shift is not None)
    signal = found[0, STEPS - window]
    assert signal is not None
    assert signal.value > signal.limit
    assert "population stability index" in signal.text


def test_each_series_is_measured_in_its_own_training() -> None:
    values = [stream((7, k), STEPS) for k in range(4)]
    one, other = compared(frame(values)), compared(frame(values, scale=-1000.0))
    assert one is not None
    assert other is not None
    assert one.index == pytest.approx(other.index, abs=0.02)
    assert one.values == 4 * WINDOW


def test_where_there_is_too_little_nothing_is_said() -> None:
    values = [stream((7, k), STEPS) for k in range(4)]
    assert compared(frame(values), window=20) is None  # 80 values
    assert compared(frame(values), window=280) is None  # one stretch of the training is as long
    assert compared(frame([np.full(STEPS, 3.0)] * 4)) is None  # nothing varies
    gaps = [np.where(np.arange(STEPS) >= STEPS - WINDOW, np.nan, y) for y in values]
    assert compared(frame(gaps)) is None


def test_values_that_repeat_make_few_bins() -> None:
    counts = [np.random.default_rng([3, k]).poisson(0.4, size=STEPS).astype(float) for k in range(6)]
    found = compared(frame(counts))
    assert found is not None
    assert found.index < 0.1
    counts = [np.where(np.arange(STEPS) >= STEPS - WINDOW, y + 3, y) for y in counts]
    assert inputs_signal(compared(frame(counts)), 0.25) is not None
