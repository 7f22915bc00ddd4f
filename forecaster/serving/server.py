"""The server process: load, bind, recover, serve, drain, snapshot.

Start: the champion's bundle, the journal and the port are taken first, so that what is wrong with them is said at
once; then the server answers `UNAVAILABLE` while it recovers, and serves. Stop (SIGTERM or SIGINT): health says
NOT_SERVING, the balancer gets its time, new work is refused, work under way ends, states are snapshotted, exit 0.
"""

import asyncio
import contextlib
import dataclasses
import gc
import logging
import os
import pathlib
import signal
import sys
from collections.abc import Sequence

import grpc
import torch

from forecaster.config import Config, ServingConfig
from forecaster.errors import ConfigError, ForecasterError, StorageError, UnavailableError
from forecaster.imports import without_collections
from forecaster.registry import registry
from forecaster.serving.allocation import give_back
from forecaster.serving.api.handlers import add_service
from forecaster.serving.api.health import HEALTH, REFLECTION, HealthServicer, ReflectionServicer
from forecaster.serving.api.model_service import ModelServicer
from forecaster.serving.api.rpc_limit import RpcLimit
from forecaster.serving.api.service import ForecastServicer
from forecaster.serving.aside import within
from forecaster.serving.backend import Backend, Phase
from forecaster.serving.host import Host, ModelSource, open_sources
from forecaster.serving.metrics import exposed
from forecaster.serving.telemetry import LOGGER
from forecaster.v1 import forecast_service_pb2, model_service_pb2

_CUT_SECONDS = 1.0  # of `drain_seconds`, to cut off what has not ended
_LEAST_DRAIN_SECONDS, _CLOSE_SECONDS = 5.0, 10.0
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
    with contextlib.ExitStack() as storages:
        for source in sources:
            storages.callback(source.storage.close)
        ending = _Ending(storages)
        status = asyncio.run(_serve(sources, config.serving, ending))
    if ending.leaves_threads:  # the interpreter would wait for some of them, and others would meet it half gone
        logging.shutdown()
        os._exit(status)
    return status


@dataclasses.dataclass(slots=True)
class _Ending:
    """How the process ends.

    Args:
        storages: closes them; what waits for lock or lease may then begin.
        leaves_threads: whether some are at work that nobody waits for.
    """

    storages: contextlib.ExitStack
    leaves_threads: bool = False

    def close(self, hosts: Sequence[Host]) -> None:
        """Close the storages of hosts that have ended their work; before the event loop waits for anything else."""
        self.leaves_threads |= any(host.lookups for host in hosts)
        if not all(host.is_drained for host in hosts):  # they write still; the lock goes with the process
            self.storages.pop_all()
            self.leaves_threads = True
            return
        for host in hosts:
            self.storages.callback(host.close)
        if not within(_CLOSE_SECONDS, self.storages.close):
            LOGGER.warning("the storage was not closed in %.0f s", _CLOSE_SECONDS)
            self.leaves_threads = True


async def _serve(sources: Sequence[ModelSource], config: ServingConfig, ending: _Ending) -> int:
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
        ending.close(hosts)


async def _serve_hosts(
    backend: Backend, hosts: Sequence[Host], stop: asyncio.Event, defects: Sequence[Exception]
) -> int:
    config = backend.config
    health = HealthServicer(SERVICES, backend.intake)
    server, port = _bind(backend, health, config)
    for host in hosts:
        host.start()
    await server.start()
    address = _address(config.host, port)
    try:
        _write_address(config, "")  # what cannot be written is said before anything is served
        LOGGER.info("listening on %s, recovering", address)
        await _recovered(hosts, stop, config.drain_seconds)
    except BaseException as error:
        await _stopped(server, 0)
        await _drained(hosts, _LEAST_DRAIN_SECONDS)
        if stop.is_set() and isinstance(error, UnavailableError) and not isinstance(error, StorageError):
            LOGGER.info("stopped while recovering")
            return 0
        raise
    async with contextlib.AsyncExitStack() as stack:
        for host in hosts:
            await stack.enter_async_context(host.kept_up())
        health.set(is_serving=True)
        backend.phase = Phase.SERVING
        LOGGER.info("serving on %s", address)
        _write_address(config, address)
        await stop.wait()
        health.set(is_serving=False)
        await asyncio.sleep(0 if defects else config.balancer_wait_seconds)
        backend.drain()
        health.end()
        end = asyncio.get_running_loop().time() + config.drain_seconds
        await _stopped(server, config.drain_seconds)
    # Requests may have taken all the time; what they began is in the journal, or will be in moments.
    is_drained = await _drained(hosts, max(end - asyncio.get_running_loop().time(), _LEAST_DRAIN_SECONDS))
    return 1 if defects or not is_drained else _snapshot(hosts, config)


async def _recovered(hosts: Sequence[Host], stop: asyncio.Event, seconds: float) -> None:
    """Recover all hosts; raises what they raise, and UnavailableError at most so many seconds after `stop`."""

    async def recover() -> None:
        for host in hosts:
            await host.recover(stop.is_set)

    recovering, stopping = asyncio.ensure_future(recover()), asyncio.ensure_future(stop.wait())
    await asyncio.wait({recovering, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    await asyncio.wait({recovering}, timeout=seconds)  # it looks at `stop` itself, but not while kernels are compiled
    if not recovering.done():
        recovering.cancel()
        raise UnavailableError("stopped before it had recovered")
    recovering.result()


async def _stopped(server: grpc.aio.Server, seconds: float) -> None:
    """End all requests in so many seconds: those that have not by then are cut off, whatever their clients do."""
    grace = max(seconds - _CUT_SECONDS, seconds / 2)
    stopping = asyncio.ensure_future(server.stop(grace=grace or None))
    await asyncio.wait({stopping}, timeout=max(seconds, _CUT_SECONDS))


async def _drained(hosts: Sequence[Host], seconds: float) -> bool:
    """Finish all work that has begun; return whether that was done in time."""
    return all(await asyncio.gather(*(host.drain(seconds) for host in hosts)))


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


def _bind(backend: Backend, health: HealthServicer, config: ServingConfig) -> tuple[grpc.aio.Server, int]:
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
    add_service(server, HEALTH, health)
    names = (*SERVICES, HEALTH.full_name, REFLECTION.full_name)
    add_service(server, REFLECTION, ReflectionServicer(names, backend.intake))
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
