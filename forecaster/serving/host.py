"""One registered model's parts from its files to its servicers: opened, recovered, kept up, closed.

Knows which part needs which; knows nothing of gRPC or of the process's life.
"""

import asyncio
import contextlib
import dataclasses
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor

import torch

from forecaster.config import Config, ServingConfig, TrackingConfig
from forecaster.errors import ConfigError, ForecasterError, UnavailableError
from forecaster.model.bundle import Bundle
from forecaster.registry.registry import RegisteredModel
from forecaster.registry.store_uri import without_password
from forecaster.serving.backend import Served
from forecaster.serving.engine.batcher import Batcher
from forecaster.serving.engine.engine import Engine
from forecaster.serving.storage.contract import Activation, Storage
from forecaster.serving.storage.opening import open_storage
from forecaster.serving.swap.kept_bundle import keep, kept
from forecaster.serving.swap.verification import load_verified
from forecaster.serving.swap.versions import Versions
from forecaster.serving.telemetry import LOGGER
from forecaster.serving.upkeep.amending import Amending
from forecaster.serving.upkeep.idling import Idling
from forecaster.serving.upkeep.maintenance import Maintenance
from forecaster.serving.upkeep.returning import Returning

_ANSWER_SECONDS = 10.0  # of the model store, where a start can do without it


@dataclasses.dataclass(frozen=True, slots=True)
class ModelSource:
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


def open_sources(config: Config) -> list[ModelSource]:
    """Load every configured model and open its storage.

    Raises ForecasterError: no champion, a broken bundle, a device that there is not, storage that is in use, unreadable
    or corrupted.
    """
    check_device(config.serving.device)
    sources: list[ModelSource] = []
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


def _open(tracking: TrackingConfig, config: ServingConfig) -> ModelSource:
    storage = open_storage(
        config.state,
        config.durability,
        tracking.model,
        lease_seconds=config.lease_seconds,
        lease_wait_seconds=config.lease_wait_seconds,
        accepted_loss=config.accept_loss_through,
    )
    try:
        return ModelSource(tracking, *_load(tracking, config.alias, storage), storage)
    except BaseException:
        storage.close()
        raise


def _load(tracking: TrackingConfig, alias: str, storage: Storage) -> tuple[RegisteredModel, Bundle]:
    """Return the version to begin with: the one whose states there are, else the alias'.

    Where the registry does not answer it is what was kept with the states; who watches the registry goes on from there.
    """
    active = storage.snapshots.active()
    bundle = None if active is None else kept(storage.snapshots, active)
    former = None if active is None or bundle is None else (_named(tracking, active), bundle)
    try:
        found = _asked(tracking, alias, _ANSWER_SECONDS if former else None)
    except ForecasterError as error:
        if active is None or (former := former or _load_active(tracking, active)) is None:
            raise
        LOGGER.warning("%s; beginning with version %s, as it is kept with its states", error, active.version)
        return former
    if active is None or active.fingerprint == found[1].fingerprint or found[0].version == active.version:
        return found
    former = former or _load_active(tracking, active)
    LOGGER.info("beginning with version %s, whose states are kept", (former or found)[0].version)
    return former or found


def _asked(tracking: TrackingConfig, alias: str, seconds: float | None) -> tuple[RegisteredModel, Bundle]:
    """Return the alias' version and bundle; raises UnavailableError if that takes longer than so many seconds."""
    if seconds is None:
        return load_verified(tracking, alias)
    answer: queue.SimpleQueue[tuple[RegisteredModel, Bundle] | BaseException] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answer.put(load_verified(tracking, alias))
        except BaseException as error:  # noqa: BLE001 -- raised below
            answer.put(error)

    threading.Thread(target=ask, name="registry", daemon=True).start()
    try:
        found = answer.get(timeout=seconds)
    except queue.Empty:
        store = without_password(tracking.uri)
        raise UnavailableError(f"the model store {store} gave no answer in {seconds:g} s") from None
    if isinstance(found, BaseException):
        raise found
    return found


def _named(tracking: TrackingConfig, active: Activation) -> RegisteredModel:
    return RegisteredModel(tracking.model, active.version, f"models:/{tracking.model}/{active.version}", "")


def _load_active(tracking: TrackingConfig, active: Activation) -> tuple[RegisteredModel, Bundle] | None:
    """Return the version that was served last, None if it is not there any more."""
    try:
        registered, bundle = load_verified(tracking, active.version)
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

    def __init__(self, source: ModelSource, config: ServingConfig, on_defect: Callable[[Exception], None]) -> None:
        self._source, self._config = source, config
        self._engine = engine = Engine(
            source.bundle,
            source.storage,
            version=source.registered.version,
            max_series=config.max_series,
            max_resident=config.max_resident_series,
            max_ahead_seconds=config.max_ahead_seconds,
            late_steps=config.late_steps if config.keeps_history else -1,
            device=config.device,
        )
        self._beside = tuple(source.storage.beside() for _ in range(5))
        rebuilding, keeping, looking, returning, amending = self._beside
        self._batcher = batcher = Batcher(
            engine,
            max_batch=config.max_batch_observations,
            max_queued=config.max_queued_observations,
            on_defect=on_defect,
            beside=looking.journal,
        )
        self._pool, self._upkeep = ThreadPoolExecutor(1, "rebuild"), ThreadPoolExecutor(1, "upkeep")
        self._folding = ThreadPoolExecutor(1, "returning")
        self._returning = Returning(engine, batcher, returning, self._folding, config.replay_steps)
        self._refolding = ThreadPoolExecutor(1, "amending")
        self._amending = Amending(engine, batcher, amending, self._refolding, config.replay_steps)
        self._idling = None
        if (idle := config.series_idle_seconds) is not None:
            how = {"seconds": idle, "rest_seconds": config.snapshot_seconds}
            self._idling = Idling(engine, batcher, keeping, self._upkeep, **how)
        versions = Versions(source.tracking, config, source.registered, engine, batcher, rebuilding, self._pool)
        maintenance = Maintenance(engine, batcher, keeping, self._upkeep, config)
        self.served = Served(source.tracking.model, engine, batcher, versions, maintenance)
        self.is_drained = True  # nothing has begun

    def start(self) -> None:
        """Begin to work; needs a running event loop."""
        self.is_drained = False
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
        await self._batcher.upkeep(lambda: keep(snapshots, bundle))
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
        work = [*upkeep, versions.watch(), self._returning.run(), self._amending.run()]
        work += [] if self._idling is None else [self._idling.run()]
        tasks = [asyncio.create_task(one) for one in work]
        try:
            yield
        finally:
            maintenance.stop()
            self._returning.stop()
            self._amending.stop()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await versions.close()

    async def drain(self, seconds: float) -> bool:
        """Finish everything that waits; return whether it was done in time, else its threads are left behind."""
        loop = asyncio.get_running_loop()
        pools = self._pool, self._upkeep, self._folding, self._refolding
        ends = [asyncio.ensure_future(self._batcher.drain())]
        ends += [asyncio.ensure_future(loop.run_in_executor(pool, _nothing)) for pool in pools]  # behind what they do
        _, late = await asyncio.wait(ends, timeout=seconds)
        for pool in pools:
            pool.shutdown(wait=False, cancel_futures=True)
        for end in late:
            end.cancel()
        self.is_drained = not late
        if late:
            LOGGER.warning("%s did not end its work in %.0f s; the next start replays it", self.served.name, seconds)
        return self.is_drained

    @property
    def lookups(self) -> int:
        """Calls to the registry that have not come back."""
        return self.served.versions.registry.running

    def snapshot(self) -> int:
        """Write what has changed, so that the next start need not replay; return how many series."""
        return self._engine.snapshot()

    def close(self) -> None:
        """Release the storage's further connections."""
        for storage in self._beside:
            storage.close()


def _nothing() -> None:
    """Do it."""
