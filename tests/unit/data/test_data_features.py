"""Calendar features against Python's own datetime."""

import datetime as dt
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.config import parse_frequency
from forecaster.data.features import calendar_features, calendar_size

EPOCH = dt.datetime(1970, 1, 1)
MICROSECOND = dt.timedelta(microseconds=1)
HOUR_US = 3_600_000_000
times = st.datetimes(dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31))


def to_us(time: dt.datetime) -> int:
    return (time - EPOCH) // MICROSECOND


def wave(fraction: float) -> list[float]:
    return [math.sin(math.tau * fraction), math.cos(math.tau * fraction)]


@settings(deadline=None)
@given(times)
def test_day_and_week_equal_datetimes_own(time: dt.datetime) -> None:
    day = (time - time.replace(hour=0, minute=0, second=0, microsecond=0)) / dt.timedelta(days=1)
    week = (time.weekday() + day) / 7
    sin_day, sin_week, _, cos_day, cos_week, _ = calendar_features(torch.tensor(to_us(time)), HOUR_US).tolist()
    assert [sin_day, cos_day] == pytest.approx(wave(day), abs=1e-7)
    assert [sin_week, cos_week] == pytest.approx(wave(week), abs=1e-7)


@settings(deadline=None)
@given(times)
def test_year_follows_the_calendar_within_two_days(time: dt.datetime) -> None:
    days = (time - dt.datetime(time.year, 1, 1)) / dt.timedelta(days=1)
    sine, cosine = calendar_features(torch.tensor(to_us(time)), parse_frequency("1w")).tolist()
    apart = (math.atan2(sine, cosine) / math.tau * 365.2425 - days + 183) % 365.2425 - 183
    assert abs(apart) < 2


@settings(deadline=None)
@given(st.lists(times, min_size=1, max_size=24), st.sampled_from(["15m", "1h", "1d", "1w"]))
def test_batch_shape_does_not_matter(batch: list[dt.datetime], frequency: str) -> None:
    step_us = parse_frequency(frequency)
    flat = torch.tensor([to_us(time) for time in batch])
    expected = calendar_features(flat, step_us)
    one_by_one = torch.stack([calendar_features(time, step_us) for time in flat])
    torch.testing.assert_close(one_by_one, expected, rtol=0, atol=1e-7)
    folded = calendar_features(flat.reshape(1, -1, 1), step_us)
    assert folded.shape == (1, len(batch), 1, calendar_size(step_us))
    torch.testing.assert_close(folded.reshape(expected.shape), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize(("frequency", "size"), [("1s", 6), ("23h", 6), ("1d", 4), ("6d", 4), ("1w", 2), ("53w", 2)])
def test_size_follows_the_step(frequency: str, size: int) -> None:
    step_us = parse_frequency(frequency)
    assert calendar_size(step_us) == size
    features = calendar_features(torch.zeros(3, 5, dtype=torch.int64), step_us)
    assert features.shape == (3, 5, size)
    assert features.dtype == torch.float32
    assert features.is_contiguous()


def test_known_times() -> None:
    monday_noon = to_us(dt.datetime(2013, 1, 28, 12))
    sin_day, sin_week, _, cos_day, cos_week, _ = calendar_features(torch.tensor(monday_noon), HOUR_US).tolist()
    assert [sin_day, cos_day] == pytest.approx([0, -1], abs=1e-7)
    assert [sin_week, cos_week] == pytest.approx(wave(0.5 / 7), abs=1e-7)


def test_no_times() -> None:
    assert calendar_features(torch.zeros(0, 4, dtype=torch.int64), HOUR_US).shape == (0, 4, 6)
