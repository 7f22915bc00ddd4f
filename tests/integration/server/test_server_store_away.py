"""Real servers whose model store is away: they start with what is kept with the states, and follow it again later."""

import contextlib
import dataclasses
import pathlib
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from forecaster.cli import main
from forecaster.client import ForecastClient, RetryPolicy
from forecaster.config import TrackingConfig
from forecaster.errors import RegistryError
from tests.integration.conftest import ServerFactory, make_bundle, register_bundle, wander
from tests.integration.nursery import Nursery
from tests.integration.server.test_server_swaps import OTHER, assert_forecasts, wait_for
from tests.postgres import Cluster

HISTORY = wander(3, 40)


@pytest.fixture
def store(tracking: TrackingConfig, tmp_path: pathlib.Path, nursery: Nursery) -> Iterator[ServerFactory]:
    """Return what starts servers of a registry of the test's own, whose only version is the champion."""
    bundle = make_bundle()
    register_bundle(tracking, bundle)
    factory = ServerFactory(tracking, bundle, tmp_path, nursery)
    yield factory
    factory.end()


@contextlib.contextmanager
def silent_store() -> Iterator[str]:
    """Give the address of a store that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def until_told(client: ForecastClient, is_away: bool) -> None:
    """Wait until the served version's description says whether the store is away."""
    deadline = time.monotonic() + 180
    while bool(client.get_model().registry_failure) != is_away:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("backend", ["sqlite", "postgres"])
def test_a_server_starts_and_serves_without_its_store(
    store: ServerFactory, backend: str, request: pytest.FixtureRequest
) -> None:
    often = ["--serving.poll_seconds=0.2"]
    if backend == "postgres":
        cluster: Cluster = request.getfixturevalue("postgres")
        often += [f"--serving.state={cluster.url(cluster.create_database())}"]
    server = store(*often)
    with ForecastClient(server.address) as client:
        client.observe(HISTORY)
    assert server.stop() == 0
    path = pathlib.Path(store.tracking.uri.removeprefix("sqlite:///"))
    aside = path.rename(path.with_name("away.db"))
    server = store(*often)
    assert "as it is kept with its states" in server.log.read_text()
    with ForecastClient(server.address) as client:
        assert_forecasts(client, store.bundle, HISTORY)
        assert client.observe(wander(3, 1, start=40)).applied == 3
        until_told(client, is_away=True)
        aside.rename(path)
        until_told(client, is_away=False)
        register_bundle(store.tracking, OTHER)
        wait_for(client, "2", "ACTIVE")
    assert server.stop() == 0
    aside = path.rename(path.with_name("away.db"))
    server = store(*often)  # the version that was swapped in was kept as well
    with ForecastClient(server.address) as client:
        assert client.get_model().version == "2"
        assert_forecasts(client, OTHER, wander(3, 41))


def test_a_store_that_never_answers_is_named_and_not_the_server(store: ServerFactory) -> None:
    server = store()
    with ForecastClient(server.address) as client:
        client.observe(HISTORY)
    assert server.stop() == 0
    with silent_store() as uri:
        away = dataclasses.replace(store, tracking=dataclasses.replace(store.tracking, uri=uri))
        server = away("--serving.poll_seconds=1000")
        assert f"the model store {uri} gave no answer" in server.log.read_text()
        with ForecastClient(server.address, retry=RetryPolicy(timeout_seconds=60)) as client:
            assert_forecasts(client, store.bundle, HISTORY)
            with pytest.raises(RegistryError, match=r"model store does not answer.*server itself is up"):
                client.activate_model("2")
        server.kill()


def test_a_kept_model_that_was_changed_is_not_served(
    store: ServerFactory, damage: Callable[[pathlib.Path], None]
) -> None:
    server = store()
    assert server.stop() == 0
    (folder,) = (store.folder / "state" / "forecaster" / "bundles").iterdir()
    check = ["verify-state", f"--serving.state={store.folder / 'state'}"]
    assert main(check) == 0
    damage(folder / "model.safetensors")
    assert main(check) == 1
    assert store().stop() == 0  # the store has it, and it is kept again
    assert main(check) == 0
    damage(folder / "model.safetensors")
    path = pathlib.Path(store.tracking.uri.removeprefix("sqlite:///"))
    path.rename(path.with_name("away.db"))
    assert "there is no such file" in store.refused()


@pytest.fixture
def damage() -> Callable[[pathlib.Path], None]:
    def flip(path: pathlib.Path) -> None:
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)

    return flip
