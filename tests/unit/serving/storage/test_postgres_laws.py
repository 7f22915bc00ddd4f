"""Whatever happens in whatever order, a storage in PostgreSQL equals a plain list too."""

import itertools

from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from forecaster.serving.storage.postgres.storage import open_postgres
from tests.postgres import Cluster
from tests.unit.serving.storage.test_storage_laws import StorageMachine


def test_a_storage_equals_lists(postgres: Cluster) -> None:
    url, numbers = postgres.url(postgres.create_database()), itertools.count()

    class PostgresMachine(StorageMachine):
        def __init__(self) -> None:
            super().__init__()
            self.storage.close()
            name = f"model {next(numbers)}"
            self._opener = lambda: open_postgres(url, "interval", name, lease_wait_seconds=0)
            self.storage = self._opener()

    few = settings(max_examples=6, stateful_step_count=20, deadline=None)
    run_state_machine_as_test(PostgresMachine, settings=few)
