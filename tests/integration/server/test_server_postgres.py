"""Real servers on a real PostgreSQL: all that a replacement needs is the URL, and who was replaced ends by itself."""

import signal

import pytest

from forecaster.client import ForecastClient, RetryPolicy
from forecaster.errors import ForecasterError
from tests.integration.conftest import Server, ServerFactory, wander
from tests.integration.server.test_server_journey import assert_forecasts_are_the_offline_models
from tests.postgres import Cluster

LEASE = ("--serving.lease_seconds=2", "--serving.lease_wait_seconds=30")


@pytest.fixture
def url(postgres: Cluster) -> str:
    return postgres.url(postgres.create_database())


def test_a_replacement_takes_over_with_nothing_but_the_url(servers: ServerFactory, url: str) -> None:
    history, later = wander(4, 50), wander(4, 8, start=50)
    state = f"--serving.state={url}"
    server = servers(state, *LEASE)
    with ForecastClient(server.address) as client:
        assert client.observe(history).durability == "commit"
        for _, hour in later.group_by("ds", maintain_order=True):
            client.observe(hour)
        assert_forecasts_are_the_offline_models(client, servers.bundle, wander(4, 58))
        client.delete_series("s3")
    server.kill()
    server = servers(state, *LEASE)  # waits until the lease has run out
    with ForecastClient(server.address) as client:
        assert_forecasts_are_the_offline_models(client, servers.bundle, wander(3, 58))
        assert [info.unique_id for info in client.list_series()] == ["s0", "s1", "s2"]
        again = client.observe(wander(3, 58))
        assert (again.applied, again.duplicates) == (0, 3 * 58)
    assert server.stop() == 0
    server = servers(state, "--serving.lease_wait_seconds=0")  # it was given back: nobody has to wait
    assert "recovered 3 series, 0 observations replayed" in server.log.read_text()


def test_a_second_server_that_may_not_wait_says_who_is_there(servers: ServerFactory, url: str) -> None:
    state = f"--serving.state={url}"
    servers(state)
    assert "in use by another server" in servers.refused(state, "--serving.lease_wait_seconds=0")


@pytest.mark.parametrize("is_idle", [True, False])
def test_a_paused_server_that_was_replaced_ends_by_itself(is_idle: bool, servers: ServerFactory, url: str) -> None:
    state = f"--serving.state={url}"
    first = servers(state, *LEASE)
    with ForecastClient(first.address) as client:
        client.observe(wander(2, 40))
    first.process.send_signal(signal.SIGSTOP)
    second: Server = servers(state, *LEASE)
    with ForecastClient(second.address) as client:
        assert client.observe(wander(2, 1, start=40)).applied == 2
        first.process.send_signal(signal.SIGCONT)
        if not is_idle:
            patience = RetryPolicy(timeout_seconds=3)
            with ForecastClient(first.address, retry=patience) as late, pytest.raises(ForecasterError):
                late.observe(wander(2, 2, start=40).with_columns(y=-1000.0))
        assert first.process.wait(180) == 1
        assert "taken over" in first.log.read_text()
        assert client.observe(wander(2, 1, start=41)).applied == 2
        assert_forecasts_are_the_offline_models(client, servers.bundle, wander(2, 42))
    assert second.stop() == 0
