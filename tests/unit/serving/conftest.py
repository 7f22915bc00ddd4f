"""The storages that the contract suite runs against, and what swaps of small fleets need."""

import pathlib
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing

import psycopg
import pytest

from forecaster.serving.storage.contract import Storage
from forecaster.serving.storage.opening import open_storage
from forecaster.serving.storage.postgres.storage import open_postgres
from forecaster.serving.storage.volatile import VolatileStorage
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


@pytest.fixture
def accepting(request: pytest.FixtureRequest, opener: Opener, tmp_path: pathlib.Path) -> Opener:
    """Return how the same place is opened by who accepts that records up to the eighth are lost."""
    if "postgres" in request.node.name:
        url = request.getfixturevalue("contract_database")
        return lambda: open_postgres(url, "commit", str(tmp_path), lease_wait_seconds=0, accepted_loss=8)
    return sqlite_opener(tmp_path / "state", accepted_loss=8)


@pytest.fixture
def lose(request: pytest.FixtureRequest, opener: Opener, tmp_path: pathlib.Path) -> Callable[[Storage, int], None]:
    """Return what closes a storage and takes the records behind a sequence away, as damage does."""

    def lose(storage: Storage, end: int) -> None:
        storage.close()
        if "postgres" in request.node.name:
            with psycopg.connect(request.getfixturevalue("contract_database")) as connection:
                query = "DELETE FROM forecaster.journal WHERE shard = %s AND sequence > %s"
                connection.execute(query, (str(tmp_path), end))
            return
        with closing(sqlite3.connect(tmp_path / "state" / "a model" / "journal.db")) as database, database:
            database.execute("DELETE FROM journal WHERE sequence > ?", (end,))

    return lose


@pytest.fixture(params=["durable", "none"])
def snapshots_opener(request: pytest.FixtureRequest, opener: Opener) -> Opener:
    """Return how any backend is opened once."""
    return opener if request.param == "durable" else VolatileStorage


@pytest.fixture
def storage(tmp_path: pathlib.Path) -> Iterator[Storage]:
    """Return a storage in SQLite files that does not wait for the disk."""
    with closing(open_storage(str(tmp_path / "state"), "interval")) as storage:
        yield storage


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let few series make many parts of a swap."""
    monkeypatch.setattr("forecaster.serving.swap.swap._SERIES_AT_ONCE", 3)
    monkeypatch.setattr("forecaster.serving.swap.swap._MOVED_AT_FIRST", 1)
    monkeypatch.setattr("forecaster.serving.swap.swap._MOST_MOVED", 2)
    monkeypatch.setattr("forecaster.serving.upkeep.saving._SAVED_AT_ONCE", 3)
    monkeypatch.setattr("forecaster.serving.upkeep.saving._SYNCED_AT_ONCE", 6)
