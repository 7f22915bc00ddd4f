"""The server process: load, bind, recover, serve, drain, snapshot.

Start: the champion's bundle, the journal and the port are taken first, so that what is wrong with them is said at
once; then the server answers `UNAVAILABLE` while it recovers, and serves. Stop (SIGTERM or SIGINT): health says
NOT_SERVING, the balancer gets its time, new work is refused, work under way ends, states are snapshotted, exit 0.
"""

import asyncio
import contextlib
import gc
import pathlib
import signal
import sys
from collections.abc import Sequence

import grpc
import torch
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from forecaster import registry
from forecaster.config import Config, ServingConfig
from forecaster.errors import ConfigError, ForecasterError, StorageError, UnavailableError
from forecaster.imports import without_collections
from forecaster.serving.allocation import give_back
from forecaster.serving.backend import Backend, Phase
from forecaster.serving.host import Host, Source, open_sources
from forecaster.serving.metrics import exposed
from forecaster.serving.handlers import add_service
from forecaster.serving.model_service import ModelServicer
from forecaster.serving.rpc_limit import RpcLimit
from forecaster.serving.service import ForecastServicer
from forecaster.serving.telemetry import LOGGER
from forecaster.v1 import forecast_service_pb2, model_service_pb2

_SWITCH_SECONDS = 0.0005  # a thread that computes in Python must not keep the event loop waiting for long
_FORECASTS = forecast_service_pb2.DESCRIPTOR.services_by_name["ForecastService"]
_MODELS = model_service_pb2.DESCRIPTOR.services_by_name["ModelService"]
SERVICES = (_FORECASTS.full_name, _MODELS.full_name)


def serve(config: Config) -> int:
    """Serve until told to stop; return the process's exit status.

    Raises ForecasterError if the server cannot start: no champion, a broken bundle, a taken port, a journal that
    is in use, unreadable or corrupted.
    """
    # More shards, not more threads: two OpenMP threads on two busy cores are far slower than one.
    torch.set_num_threads(1)
    sys.setswitchinterval(_SWITCH_SECONDS)
    give_back()
    registry.prepare()
    with without_collections():
        sources = open_sources(config)
    # What the libraries made stays for good: a collection that looks through it holds every request up for 150 ms.
    gc.collect()
    gc.freeze()
    try:
        return asyncio.run(_serve(sources, config.serving))
    finally:
        for source in sources:
            source.storage.close()


async def _serve(sources: Sequence[Source], config: ServingConfig) -> int:
    stop = asyncio.Event()
    defects: list[Exception] = []
    loop = asyncio.get_running_loop()

    def on_defect(error: Exception) -> None:
        LOGGER.critical("stopping: memory may be behind the journal; a restart recovers", exc_info=error)
        defects.append(error)
        loop.call_soon_threadsafe(stop.set)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    hosts = [Host(source, config, on_defect) for source in sources]
    try:
        backend = Backend([host.served for host in hosts], config)
        with exposed(backend):
            return await _serve_hosts(backend, hosts, stop, defects)
    finally:
        for host in hosts:
            host.close()


async def _serve_hosts(
    backend: Backend, hosts: Sequence[Host], stop: asyncio.Event, defects: Sequence[Exception]
) -> int:
    config = backend.config
    servicer = health.aio.HealthServicer()
    await _set_health(servicer, health_pb2.HealthCheckResponse.NOT_SERVING)
    server, port = _bind(backend, servicer, config)
    for host in hosts:
        host.start()
    await server.start()
    address = _address(config.host, port)
    try:
        _write_address(config, "")  # what cannot be written is said before anything is served
        LOGGER.info("listening on %s, recovering", address)
        for host in hosts:
            await host.recover(stop.is_set)
    except BaseException as error:
        await server.stop(grace=None)
        for host in hosts:
            await host.drain()
        if stop.is_set() and isinstance(error, UnavailableError) and not isinstance(error, StorageError):
            LOGGER.info("stopped while recovering")
            return 0
        raise
    async with contextlib.AsyncExitStack() as stack:
        for host in hosts:
            await stack.enter_async_context(host.kept_up())
        await _set_health(servicer, health_pb2.HealthCheckResponse.SERVING)
        backend.phase = Phase.SERVING
        LOGGER.info("serving on %s", address)
        _write_address(config, address)
        await stop.wait()
        await _set_health(servicer, health_pb2.HealthCheckResponse.NOT_SERVING)
        await asyncio.sleep(0 if defects else config.balancer_wait_seconds)
        backend.drain()
        await server.stop(grace=config.drain_seconds)
    for host in hosts:
        await host.drain()
    return 1 if defects else _snapshot(hosts, config)


def _snapshot(hosts: Sequence[Host], config: ServingConfig) -> int:
    """Write what has changed and return the exit status; what cannot be written, the next start replays."""
    for host in hosts:
        try:
            count = host.snapshot()
        except ForecasterError as error:
            LOGGER.warning("stopped without snapshots, the next start replays the journal: %s", error)
            continue
        kept = "nothing is kept" if config.durability == "none" else "snapshotted"
        LOGGER.info("stopped; %s: %d series %s", host.served.name, count, kept)
    return 0


def _bind(backend: Backend, servicer: health.aio.HealthServicer, config: ServingConfig) -> tuple[grpc.aio.Server, int]:
    # so_reuseport 0: two processes sharing a port would split one series' state between them.
    server = grpc.aio.server(
        interceptors=[RpcLimit(config.max_concurrent_rpcs, SERVICES, backend.calls)],
        options=[
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", backend.intake.limits.largest_bytes),
            ("grpc.max_send_message_length", -1),
        ],
    )
    add_service(server, _FORECASTS, ForecastServicer(backend))
    add_service(server, _MODELS, ModelServicer(backend))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    names = (*SERVICES, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
    address = _address(config.host, config.port)
    try:
        port = server.add_insecure_port(address)
    except RuntimeError:
        port = 0
    if port == 0:
        raise ConfigError(
            f"cannot listen on {address}: the port is taken or the host is not this machine's; "
            "choose another with --serving.port (0 takes a free one)"
        )
    return server, port


async def _set_health(servicer: health.aio.HealthServicer, status: int) -> None:
    for service in ("", *SERVICES):
        await servicer.set(service, status)


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _write_address(config: ServingConfig, address: str) -> None:
    """Write the address for those who wait for it; an empty one only makes sure that it can be written."""
    if config.address_file is None:
        return
    path = pathlib.Path(config.address_file)
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(f"{address}\n")
        if address:
            partial.replace(path)
    except OSError as error:
        raise ConfigError(f"serving.address_file={str(path)!r} cannot be written: {error.strerror}") from error
