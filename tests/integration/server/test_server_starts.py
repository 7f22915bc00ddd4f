"""How a real server starts, says that it serves, and stops; what keeps it from starting.

The first of each kind is started by the command, as from a shell; the others by the nursery.
"""

import dataclasses
import pathlib
import signal
import sqlite3
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from forecaster.client import ForecastClient, RetryPolicy
from forecaster.errors import UnavailableError
from tests.integration.conftest import Server, ServerFactory, wander
from tests.integration.server.test_server_faults import until


@pytest.fixture
def commands(servers: ServerFactory) -> ServerFactory:
    """Return what starts servers as a shell does."""
    return dataclasses.replace(servers, nursery=None)


def test_health_and_reflection(commands: ServerFactory) -> None:
    server = commands()
    with grpc.insecure_channel(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "forecaster.v1.ForecastService", "forecaster.v1.ModelService"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        names = ProtoReflectionDescriptorDatabase(channel).get_services()
        assert {"forecaster.v1.ForecastService", "forecaster.v1.ModelService", "grpc.health.v1.Health"} <= set(names)
    assert server.stop() == 0


def test_a_stop_drains_and_refuses_politely(servers: ServerFactory) -> None:
    server = servers("--serving.balancer_wait_seconds=6")
    with ForecastClient(server.address, retry=RetryPolicy(timeout_seconds=0.5)) as client:
        client.observe(wander(2, 30))
        with grpc.insecure_channel(server.address) as channel:
            server.process.send_signal(signal.SIGTERM)
            health, request = health_pb2_grpc.HealthStub(channel), health_pb2.HealthCheckRequest()
            until(lambda: health.Check(request).status == health_pb2.HealthCheckResponse.NOT_SERVING)
        assert client.observe(wander(2, 1, start=30)).applied == 2  # the balancer may still send
        assert server.process.wait(180) == 0
        with pytest.raises(UnavailableError, match="is it running"):
            client.get_model()
    assert "2 series snapshotted" in server.log.read_text()


def test_an_idle_stream_does_not_hold_a_stop_up(server: Server) -> None:
    with ForecastClient(server.address, retry=RetryPolicy(timeout_seconds=1)) as client, client.stream() as stream:
        stream.send(wander(1, 30))
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 5  # drain_seconds is 10
        with pytest.raises(UnavailableError):
            stream.send(wander(1, 1, start=30))


def test_an_address_file_that_cannot_be_written_is_said_in_one_line(commands: ServerFactory) -> None:
    assert "cannot be written" in commands.refused("--serving.address_file=/proc/nowhere/address")


def test_a_taken_port_is_said_in_one_line(servers: ServerFactory) -> None:
    server = servers()
    port = server.address.rsplit(":", 1)[1]
    assert f"cannot listen on 127.0.0.1:{port}" in servers.refused(f"--serving.port={port}", state="other")


def test_a_state_in_use_is_said_in_one_line(servers: ServerFactory) -> None:
    servers()
    assert "in use by another server" in servers.refused()


def test_a_missing_champion_is_said_in_one_line(servers: ServerFactory, tmp_path: pathlib.Path) -> None:
    missing = f"sqlite:///{tmp_path}/nothing.db"
    elsewhere = dataclasses.replace(servers, tracking=dataclasses.replace(servers.tracking, uri=missing))
    line = elsewhere.refused()
    assert "forecaster train" in line
    assert not (tmp_path / "nothing.db").exists()


def test_a_corrupted_journal_is_said_in_one_line(servers: ServerFactory) -> None:
    server = servers()
    with ForecastClient(server.address) as client:
        client.observe(wander(2, 30))
    server.kill()
    journal = servers.folder / "state" / "forecaster" / "journal.db"
    database = sqlite3.connect(journal)
    database.execute("UPDATE journal SET payload = substr(payload, 1, 30)")
    database.commit()
    database.close()
    assert "journal.db: record 1 is corrupted" in servers.refused()
