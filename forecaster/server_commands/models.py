"""`forecaster models` and `forecaster activate`: the model versions of a server; and `forecaster health`."""

import time
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from forecaster.server_commands.connection import PATIENCE_SECONDS, add_model, connect

_POLL_SECONDS = 0.2


def list_models(arguments: Namespace) -> int:
    """Show the versions."""
    client, _ = connect(arguments.server)
    with client:
        for model in client.list_models():
            share = f" {model.progress:.0%}" if model.state == "REBUILDING" else ""
            print(f"{model.name} version {model.version}: {model.state}{share}{model.failure and f', {model.failure}'}")
    return 0


def add_activate_arguments(parser: ArgumentParser) -> None:
    """Add what `activate` takes."""
    add_model(parser)
    parser.add_argument("version", type=str, help="a version's number or an alias, for example previous")


def activate(arguments: Namespace) -> int:
    """Replace the version and wait; return 1 if it failed."""
    client, _ = connect(arguments.server, arguments.model)
    with client:
        model = client.activate_model(arguments.version)
        while model.state in ("LOADING", "REBUILDING"):
            time.sleep(_POLL_SECONDS)
            model = client.get_model(model.version)
    print(f"{model.name} version {model.version}: {model.state}{model.failure and f', {model.failure}'}")
    return int(model.state != "ACTIVE")


def health(arguments: Namespace) -> int:
    """Show the health; return 1 unless it serves."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from forecaster.client.calls import checked_address
    from forecaster.client.transport.channel import open_channel

    address = checked_address(arguments.server)
    with open_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_SECONDS)
        except grpc.RpcError as error:
            print(f"{error.code().name}: no answer from {address}")
            return 1
    print(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
    return int(answer.status != health_pb2.HealthCheckResponse.SERVING)
