"""Files in a working folder of the test's own."""

import gzip
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from reading import Write

from forecaster.config import DataConfig


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a file in the working folder and return the configuration that reads it."""
    monkeypatch.chdir(tmp_path)

    def write(content: str | bytes | pl.DataFrame, name: str = "meters.csv", **columns: Any) -> DataConfig:
        path = Path(name)
        if isinstance(content, pl.DataFrame):
            content.write_parquet(path)
        elif name.endswith(".gz") and isinstance(content, str):
            path.write_bytes(gzip.compress(content.encode()))
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return DataConfig(path=name, **columns)

    return write
