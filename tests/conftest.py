"""What several kinds of tests need: an empty MLflow store that is made once and copied."""

import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Torch reads it when it is imported: several threads each for two workers, and for the servers they start, are slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from forecaster.config import TrackingConfig
from tests.postgres import postgres  # noqa: F401 -- a fixture

# By itself Hypothesis fails a test whose example takes 200 ms, and one whose examples take long to draw; not
# where `CI` is set: a slow machine is no fault.
settings.register_profile("any machine", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.fixture(autouse=True)
def log_as_it_was() -> Iterator[None]:
    """Undo what a command that runs in the tests' own process does to the project's log."""
    log = logging.getLogger("forecaster")
    handlers, level, propagates = log.handlers[:], log.level, log.propagate
    yield
    log.handlers[:], log.propagate = handlers, propagates
    log.setLevel(level)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an initialised SQLite file; MLflow takes seconds to make one."""
    from forecaster.registry import registry

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    registry.connect(TrackingConfig(uri=f"sqlite:///{path}"))
    return path


@pytest.fixture
def tracking(empty_store: Path, tmp_path: Path) -> TrackingConfig:
    """Return a store of the test's own."""
    folder = tmp_path / "tracking"
    folder.mkdir()
    shutil.copy(empty_store, folder / "mlflow.db")
    return TrackingConfig(uri=f"sqlite:///{folder / 'mlflow.db'}")
