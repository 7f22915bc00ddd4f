"""How a time step is written, and what is advised to those who write it otherwise."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.config import parse_frequency
from forecaster.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("15min", "15m"),
        ("15MIN", "15m"),
        ("1H", "1h"),
        ("1h30min", "1h30m"),
        ("2 hours", "2h"),
        ("hourly", "1h"),
        ("T", "1m"),
        ("D", "1d"),
        ("W", "1w"),
        ("10 sec", "10s"),
        ("L", "1ms"),
    ],
)
def test_what_people_write_elsewhere_is_understood(text: str, near: str) -> None:
    with pytest.raises(ConfigError, match=f"did you mean {near}\\?"):
        parse_frequency(text)
    assert parse_frequency(near) > 0


@pytest.mark.parametrize("text", ["M", "1M", "1mo", "MS", "Q", "1y", "5x", "", "15", "1h 5 parsecs"])
def test_nothing_is_advised_for_what_is_no_fixed_duration(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_frequency(text)
    assert "did you mean" not in str(refused.value)


@given(text=st.text("0123456789 hHdDmMinsST", max_size=8))
def test_what_is_advised_is_allowed(text: str) -> None:
    try:
        parse_frequency(text)
    except ConfigError as error:
        _, found, advice = str(error).partition("did you mean ")
        if found and advice.strip("0?hdms"):  # but for no steps at all
            assert parse_frequency(advice.rstrip("?")) > 0
