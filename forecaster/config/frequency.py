"""The time step: how it is written, and the seasons that it suggests."""

import re

from forecaster.config.checks import require

_UNIT_US = {
    "us": 1,
    "ms": 1_000,
    "s": 1_000_000,
    "m": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
    "w": 7 * 86_400_000_000,
}
# What people are used to from elsewhere: pandas' offsets, and words.
_WORDS = {
    "us": "us microsecond microseconds",
    "ms": "ms milli millisecond milliseconds l",
    "s": "s sec secs second seconds",
    "m": "m t min mins minute minutes",
    "h": "h hr hrs hour hours hourly",
    "d": "d day days daily",
    "w": "w week weeks weekly",
}
_ELSEWHERE = {word: unit for unit, words in _WORDS.items() for word in words.split()}
_DAY_US = _UNIT_US["d"]
MAX_SEASON = 2048


def parse_frequency(text: str, name: str = "data.frequency") -> int:
    """Return the step of a frequency such as `1h`, `15m` or `1h30m`, in microseconds.

    Raises ConfigError, which names the option, for anything that is not a fixed, positive duration (months and years
    vary).
    """
    hint = "a fixed duration such as 1h, 15m, 1h30m, 1d or 1w"
    if re.search(r"\d(mo|M|q|Q|y|Y)", text):
        hint += " (months and years vary in length)"
    parts = re.findall(r"(\d+)(us|ms|mo|s|m|h|d|w)", text)
    is_whole = "".join(n + u for n, u in parts) == text and bool(parts)
    if not is_whole and (near := _in_our_units(text)):
        hint += f"; did you mean {near}?"
    require(is_whole, name, text, hint)
    require(all(unit in _UNIT_US for _, unit in parts), name, text, hint)
    step_us = sum(int(n) * _UNIT_US[unit] for n, unit in parts)
    require(step_us > 0, name, text, hint)
    return step_us


def _in_our_units(text: str) -> str:
    """Return what `15min`, `1H` or `2 hours` mean in our units; nothing for what is no fixed duration."""
    written = re.findall(r"(\d*)\s*([A-Za-z]+)", text)
    if "".join(n + word for n, word in written) != re.sub(r"\s", "", text):
        return ""
    units = [None if word in ("M", "MS") else _ELSEWHERE.get(word.lower()) for _, word in written]  # pandas' months
    return "" if None in units else "".join(f"{n or 1}{u}" for (n, _), u in zip(written, units, strict=True))


def default_season_lengths(step_us: int) -> tuple[int, ...]:
    """Return the seasons that a time step suggests, in steps: day and week, week, or year.

    Hourly data gets (24, 168), 15-minute data (96, 672), daily data (7,), weekly data (52,); a season
    longer than 2,048 steps is left out, because it would have to fit in every series' state.
    """
    if step_us < _DAY_US:
        periods = [_DAY_US, 7 * _DAY_US]
    elif step_us < 7 * _DAY_US:
        periods = [7 * _DAY_US]
    else:
        periods = [364 * _DAY_US]
    seasons = [period // step_us for period in periods if period % step_us == 0]
    return tuple(m for m in seasons if 2 <= m <= MAX_SEASON)
