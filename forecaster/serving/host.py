"""One registered model's parts from its files to its servicers: opened, recovered, kept up, closed.

Knows which part needs which; knows nothing of gRPC or of the process's life.
"""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor

import torch

from forecaster import registry
from forecaster.config import Config, ServingConfig, TrackingConfig
from forecaster.errors import ConfigError, ForecasterError
from forecaster.model.bundle import Bundle
from forecaster.registry import RegisteredModel
from forecaster.serving.backend import Served
from forecaster.serving.batcher import Batcher
from forecaster.serving.engine import Engine
from forecaster.serving.maintenance import Maintenance
from forecaster.serving.opening import open_storage
from forecaster.serving.storage import Activation, Storage
from forecaster.serving.telemetry import LOGGER
from forecaster.serving.versions import Versions


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """A model that is loaded and its storage, which is open: what can be wrong with them is said before serving.

    Args:
        tracking: of the registry, with this model's name.
        registered: the version to begin with.
        bundle: its bundle.
        storage: its storage.
    """

    tracking: TrackingConfig
    registered: RegisteredModel
    bundle: Bundle
    storage: Storage


def open_sources(config: Config) -> list[Source]:
    """Load every configured model and open its storage.

    Raises ForecasterError: no champion, a broken bundle, a device that there is not, storage that is in use, unreadable
    or corrupted.
    """
    check_device(config.serving.device)
    sources: list[Source] = []
    try:
        for name in config.serving.models or (config.tracking.model,):
            sources.append(_open(dataclasses.replace(config.tracking, model=name), config.serving))
    except BaseException:
        for source in sources:
            source.storage.close()
        raise
    return sources


def check_device(device: str) -> None:
    """Raise ConfigError unless torch can use a device."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise ConfigError(f"serving.device={device!r} cannot be used: {first}") from error


def _open(tracking: TrackingConfig, config: ServingConfig) -> Source:
    alias: ForecasterError | None = None
    try:
        registered, bundle = registry.load_bundle(tracking, config.alias)
    except ForecasterError as error:  # the version that was served last may still be there
        alias = error
    storage = open_storage(
        config.state,
        config.durability,
        tracking.model,
        lease_seconds=config.lease_seconds,
        lease_wait_seconds=config.lease_wait_seconds,
    )
    try:
        active = storage.snapshots.active()
        if active is not None and (alias is not None or active.fingerprint != bundle.fingerprint):
            former = _load_active(tracking, active)
            if former is not None:
                LOGGER.info("beginning with version %s, whose states are kept", active.version)
                return Source(tracking, *former, storage)
        if alias is not None:
            raise alias
        return Source(tracking, registered, bundle, storage)
    except BaseException:
        storage.close()
        raise


def _load_active(tracking: TrackingConfig, active: Activation) -> tuple[RegisteredModel, Bundle] | None:
    """Return the version that was served last, None if it is not there any more."""
    try:
        registered, bundle = registry.load_bundle(tracking, active.version)
    except ForecasterError as error:
        LOGGER.warning("version %s, whose states are kept, cannot be loaded: %s", active.version, error)
        return None
    return (registered, bundle) if bundle.fingerprint == active.fingerprint else None


class Host:
    """One model, being served.

    Args:
        source: where it comes from.
        config: of the server.
        on_defect: called with an exception after which the engine cannot go on.
    """

    def __init__(self, source: Source, config: ServingConfig, on_defect: Callable[[Exception], None]) -> None:
        self._source, self._config = source, config
        self._engine = engine = Engine(
            source.bundle,
            source.storage,
            version=source.registered.version,
            max_series=config.max_series,
            max_resident=config.max_resident_series,
            max_ahead_seconds=config.max_ahead_seconds,
            device=config.device,
        )
        self._beside = source.storage.beside(), source.storage.beside(), source.storage.beside()
        rebuilding, keeping, looking = self._beside
        self._batcher = batcher = Batcher(
            engine,
            max_batch=config.max_batch_observations,
            max_queued=config.max_queued_observations,
            on_defect=on_defect,
            beside=looking.journal,
        )
        self._pool, self._upkeep = ThreadPoolExecutor(1, "rebuild"), ThreadPoolExecutor(1, "upkeep")
        versions = Versions(source.tracking, config, source.registered, engine, batcher, rebuilding, self._pool)
        maintenance = Maintenance(engine, batcher, keeping, self._upkeep, config)
        self.served = Served(source.tracking.model, engine, batcher, versions, maintenance)

    def start(self) -> None:
        """Begin to work; needs a running event loop."""
        self._batcher.start()

    async def recover(self, should_stop: Callable[[], bool]) -> None:
        """Rebuild every series; raises StorageError, or UnavailableError soon after `should_stop` says so."""
        began = time.monotonic()
        await self._batcher.upkeep(self._engine.lanes.active.warm_up)  # compiles, or loads what was compiled
        LOGGER.info("kernels are ready after %.1f s", time.monotonic() - began)
        began = time.monotonic()
        series, rows = await self._batcher.upkeep(lambda: self._engine.recover(should_stop))
        registered, bundle = self._source.registered, self._source.bundle
        snapshots = self._source.storage.snapshots
        activation = Activation(registered.version, bundle.fingerprint)
        if snapshots.active() != activation:
            await self._batcher.upkeep(lambda: snapshots.activate(activation))
        LOGGER.info(
            "%s version %s (%s): recovered %d series, %d observations replayed in %.1f s",
            registered.name,
            registered.version,
            bundle.fingerprint[:12],
            series,
            rows,
            time.monotonic() - began,
        )

    @contextlib.asynccontextmanager
    async def kept_up(self) -> AsyncIterator[None]:
        """While the block runs, write snapshots, prune, erase and follow the registry."""
        versions, maintenance = self.served.versions, self.served.maintenance
        upkeep = (maintenance.run(), maintenance.sync(), maintenance.guard(), maintenance.watch_scores())
        work = (*upkeep, versions.watch())
        tasks = [asyncio.create_task(one) for one in work]
        try:
            yield
        finally:
            maintenance.stop()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await versions.close()

    async def drain(self) -> None:
        """Finish everything that waits."""
        await self._batcher.drain()
        await asyncio.to_thread(self._pool.shutdown)
        await asyncio.to_thread(self._upkeep.shutdown)

    def snapshot(self) -> int:
        """Write what has changed, so that the next start need not replay; return how many series."""
        return self._engine.snapshot()

    def close(self) -> None:
        """Release the storage's further connections."""
        for storage in self._beside:
            storage.close()
