"""Values, times and frequencies as they stand in sentences for people."""

import datetime as dt

UNITS_US = {
    "w": 7 * 86_400_000_000,
    "d": 86_400_000_000,
    "h": 3_600_000_000,
    "m": 60_000_000,
    "s": 1_000_000,
    "ms": 1_000,
    "us": 1,
}
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def shown(value: object, width: int = 60) -> str:
    """Return any value as one short line: text quoted and escaped, nothing as 'empty'."""
    if value is None or value == "":
        return "empty"
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= width else text[: width - 3] + "..."


def frequency_hint(usual_us: int) -> str:
    """Return which frequency data with this step seems to have."""
    return f"the data looks like {(text := frequency_text(usual_us))}: set --data.frequency {text}"


def frequency_text(us: int) -> str:
    """Return a duration as `forecaster.config.parse_frequency` reads it, such as 1h30m."""
    text = ""
    for unit, size in UNITS_US.items():
        count, us = divmod(us, size)
        text += f"{count}{unit}" if count else ""
    return text


def from_us(us: int) -> dt.datetime:
    """Return a time of so many microseconds since the Unix epoch, in UTC."""
    return _EPOCH + dt.timedelta(microseconds=us)


def time_text(time: dt.datetime) -> str:
    """Return a time as ISO 8601, with Z for UTC."""
    return time.isoformat().replace("+00:00", "Z")
