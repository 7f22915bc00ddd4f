"""The storages that the contract suite runs against."""

import pathlib

import pytest

from forecaster.serving.volatile_storage import VolatileStorage
from tests.unit.serving.storages import Opener, sqlite_opener


@pytest.fixture(params=["sqlite"])
def opener(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Opener:
    """Return how a durable backend is opened, again and again, on the same place; its `close` must be called."""
    assert request.param == "sqlite"
    return sqlite_opener(tmp_path / "state")


@pytest.fixture(params=["durable", "none"])
def snapshots_opener(request: pytest.FixtureRequest, opener: Opener) -> Opener:
    """Return how any backend is opened once."""
    return opener if request.param == "durable" else VolatileStorage
