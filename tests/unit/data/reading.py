"""What the tests of reading share: files' text, times, and how a refusal reads."""

import datetime as dt
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest

from forecaster.config import DataConfig
from forecaster.data.schema import canonical_frame, read_frame
from forecaster.errors import DataError

CANONICAL: dict[str, Any] = {"unique_id": pl.String, "ds": pl.Datetime("us", "UTC"), "y": pl.Float64}
Write = Callable[..., DataConfig]


def utc(hour: int, minute: int = 0, microsecond: int = 0) -> dt.datetime:
    return dt.datetime(2013, 1, 31, hour, minute, 0, microsecond, tzinfo=dt.UTC)


def refusal(config: DataConfig, frame: pl.DataFrame | None = None) -> str:
    """Return the message with which the configured data is refused: one line, without control characters."""
    with pytest.raises(DataError) as caught:
        read_frame(config) if frame is None else canonical_frame(frame, config)
    message = str(caught.value)
    assert message.isprintable(), message
    assert len(message) < 600
    return message


def csv(*rows: str, header: str = "unique_id,ds,y") -> str:
    return "\n".join([header, *rows]) + "\n"
