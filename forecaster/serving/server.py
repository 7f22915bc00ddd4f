"""The server process: load, bind, recover, serve, drain, snapshot.

Start: the champion's bundle, the journal and the port are taken first, so that what is wrong with them is said at
once; then the server answers `UNAVAILABLE` while it recovers, and serves. Stop (SIGTERM or SIGINT): health says
NOT_SERVING, the balancer gets its time, new work is refused, work under way ends, states are snapshotted, exit 0.
"""

import asyncio
import contextlib
import pathlib
import signal
import time
from collections.abc import AsyncIterator

import grpc
import torch
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from forecaster.config import Config, ServingConfig
from forecaster.errors import ConfigError, ForecasterError, StorageError, UnavailableError
from forecaster.model.bundle import Bundle
from forecaster.registry import RegisteredModel, load_bundle
from forecaster.serving.backend import Backend, Phase
from forecaster.serving.batcher import Batcher
from forecaster.serving.engine import Engine
from forecaster.serving.journal import Journal, open_journal
from forecaster.serving.service import ForecastServicer, ModelServicer
from forecaster.serving.telemetry import LOGGER
from forecaster.v1 import forecast_service_pb2, forecast_service_pb2_grpc, model_service_pb2, model_service_pb2_grpc

_MAX_MESSAGE_BYTES = 64 * 1024 * 1024
_SYNC_SECONDS = 1.0
SERVICES = (
    forecast_service_pb2.DESCRIPTOR.services_by_name["ForecastService"].full_name,
    model_service_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name,
)


def serve(config: Config) -> int:
    """Serve until told to stop; return the process's exit status.

    Raises ForecasterError if the server cannot start: no champion, a broken bundle, a taken port, a journal that
    is in use, unreadable or corrupted.
    """
    # More shards, not more threads: two OpenMP threads on two busy cores are far slower than one.
    torch.set_num_threads(1)
    registered, bundle = load_bundle(config.tracking, config.serving.alias)
    journal = open_journal(config.serving.state, config.serving.durability)
    try:
        return asyncio.run(_serve(registered, bundle, journal, config.serving))
    finally:
        journal.close()


async def _serve(registered: RegisteredModel, bundle: Bundle, journal: Journal, config: ServingConfig) -> int:
    stop = asyncio.Event()
    defects: list[Exception] = []
    loop = asyncio.get_running_loop()

    def on_defect(error: Exception) -> None:
        LOGGER.critical("stopping: memory may be behind the journal; a restart recovers", exc_info=error)
        defects.append(error)
        loop.call_soon_threadsafe(stop.set)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    engine = Engine(bundle, journal, max_series=config.max_series, max_ahead_seconds=config.max_ahead_seconds)
    batcher = Batcher(
        engine,
        max_batch=config.max_batch_observations,
        max_queued=config.max_queued_observations,
        on_defect=on_defect,
    )
    backend = Backend(registered, bundle, engine, batcher, config)
    servicer = health.aio.HealthServicer()
    await _set_health(servicer, health_pb2.HealthCheckResponse.NOT_SERVING)
    server, port = _bind(backend, servicer, config)
    batcher.start()
    await server.start()
    address = _address(config.host, port)
    try:
        _write_address(config, "")  # what cannot be written is said before anything is served
        await _recover(backend, address, stop)
    except BaseException as error:
        await server.stop(grace=None)
        await batcher.drain()
        if stop.is_set() and isinstance(error, UnavailableError) and not isinstance(error, StorageError):
            LOGGER.info("stopped while recovering")
            return 0
        raise
    async with _periodic_sync(batcher, engine, config):
        await _set_health(servicer, health_pb2.HealthCheckResponse.SERVING)
        backend.phase = Phase.SERVING
        _write_address(config, address)
        await stop.wait()
        await _set_health(servicer, health_pb2.HealthCheckResponse.NOT_SERVING)
        await asyncio.sleep(0 if defects else config.balancer_wait_seconds)
        backend.drain()
        await server.stop(grace=config.drain_seconds)
    await batcher.drain()
    if defects:
        return 1
    try:
        count = engine.snapshot()
    except ForecasterError as error:
        LOGGER.warning("stopped without snapshots, the next start replays the journal: %s", error)
        return 0
    kept = "nothing is kept" if config.durability == "none" else "snapshotted"
    LOGGER.info("stopped; %d series %s", count, kept)
    return 0


def _bind(backend: Backend, servicer: health.aio.HealthServicer, config: ServingConfig) -> tuple[grpc.aio.Server, int]:
    # so_reuseport 0: two processes sharing a port would split one series' state between them.
    server = grpc.aio.server(
        options=[
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", -1),
        ]
    )
    forecast_service_pb2_grpc.add_ForecastServiceServicer_to_server(ForecastServicer(backend), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelServicer(backend), server)
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


async def _recover(backend: Backend, address: str, stop: asyncio.Event) -> None:
    LOGGER.info("listening on %s, recovering", address)
    started = time.monotonic()
    series, rows = await backend.batcher.call(lambda: backend.engine.recover(stop.is_set))
    LOGGER.info(
        "serving %s version %s (%s) on %s; recovered %d series, %d observations replayed in %.1f s",
        backend.registered.name,
        backend.registered.version,
        backend.bundle.fingerprint[:12],
        address,
        series,
        rows,
        time.monotonic() - started,
    )


async def _set_health(servicer: health.aio.HealthServicer, status: int) -> None:
    for service in ("", *SERVICES):
        await servicer.set(service, status)


@contextlib.asynccontextmanager
async def _periodic_sync(batcher: Batcher, engine: Engine, config: ServingConfig) -> AsyncIterator[None]:
    """With durability `interval`, sync the journal once a second while the block runs."""
    if config.durability != "interval":
        yield
        return

    async def sync() -> None:
        while True:
            await asyncio.sleep(_SYNC_SECONDS)
            try:
                await batcher.call(engine.sync)
            except Exception as error:  # noqa: BLE001 -- the next second tries again
                LOGGER.warning("the journal could not be synced: %s", error)

    task = asyncio.create_task(sync())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


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
