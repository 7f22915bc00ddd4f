"""The storages that the contract suite runs against."""

import pathlib

import pytest

from forecaster.serving.postgres_storage import open_postgres
from forecaster.serving.volatile_storage import VolatileStorage
from tests.postgres import Cluster
from tests.unit.serving.storages import Opener, sqlite_opener


@pytest.fixture(scope="session")
def contract_database(postgres: Cluster) -> str:
    """Return the URL of a database that the tests of the contract share."""
    return postgres.url(postgres.create_database())


@pytest.fixture(params=["sqlite", "postgres"])
def opener(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Opener:
    """Return how a durable backend is opened, again and again, on the same place; its `close` must be called."""
    if request.param == "postgres":
        url = request.getfixturevalue("contract_database")
        return lambda: open_postgres(url, "commit", str(tmp_path), lease_wait_seconds=0)
    return sqlite_opener(tmp_path / "state")


@pytest.fixture(params=["durable", "none"])
def snapshots_opener(request: pytest.FixtureRequest, opener: Opener) -> Opener:
    """Return how any backend is opened once."""
    return opener if request.param == "durable" else VolatileStorage
