"""The versions of one registered model on this server: which is served, what became of others, how one is activated.

A version is loaded beside the served one, verified, rebuilt and swapped in; one that fails leaves things as they are
and says why. Watches the registry's alias. Knows nothing of gRPC.
"""

import asyncio
import functools
import time
from concurrent.futures import ThreadPoolExecutor

from forecaster.config import ServingConfig, TrackingConfig
from forecaster.errors import FailedPreconditionError, ForecasterError, InternalError, RegistryError, UnavailableError
from forecaster.model.bundle import Bundle
from forecaster.registry.registry import RegisteredModel
from forecaster.serving.engine.batcher import Batcher
from forecaster.serving.engine.engine import Engine
from forecaster.serving.storage.contract import Activation, Storage
from forecaster.serving.swap.registry_access import RegistryAccess
from forecaster.serving.swap.swap import Swap
from forecaster.serving.swap.verification import load_verified
from forecaster.serving.swap.version import Version
from forecaster.serving.telemetry import LOGGER, log_internal_error, reason

_TAKE_BACK_SECONDS, _MOST_TAKE_BACK_SECONDS = 1.0, 30.0  # between two attempts


class Versions:
    """See above.

    Args:
        tracking: the registry, and the registered model's name.
        config: which alias, how often to look, how much to replay.
        registered: the version that the engine serves now.
        engine: called through the batcher only.
        batcher: the engine's.
        storage: for the rebuilding thread.
        pool: that thread, one.
    """

    def __init__(
        self,
        tracking: TrackingConfig,
        config: ServingConfig,
        registered: RegisteredModel,
        engine: Engine,
        batcher: Batcher,
        storage: Storage,
        pool: ThreadPoolExecutor,
    ) -> None:
        self._config, self._engine, self._batcher = config, engine, batcher
        self._storage, self._pool = storage, pool
        self._active = Version.serving(registered, engine.lanes.active.bundle)
        self._versions = {registered.version: self._active}
        self.registry = RegistryAccess(tracking, lambda: self._active.registered.version)
        self._last_seen: str | None = None  # at the alias
        self._task: asyncio.Task[None] | None = None
        self._swap: Swap | None = None  # the last one

    @property
    def active(self) -> Version:
        """The version that serves, or the one that still does while another takes over."""
        return self._active

    def all(self) -> list[Version]:
        """Return every version that this process knows, by ascending number."""
        return sorted(self._versions.values(), key=lambda version: int(version.registered.version))

    def find(self, version: str) -> Version | None:
        """Return one version that this process knows."""
        return self._versions.get(version)

    async def activate(self, version_or_alias: str) -> Version:
        """Begin to replace the served version and return the new one, LOADING; the served one if it is that.

        Raises ModelNotFoundError if there is no such version, FailedPreconditionError while another replacement is
        under way, and RegistryError if the registry cannot be reached.
        """
        return self._begin(await self.registry.resolve(version_or_alias))

    async def watch(self) -> None:
        """Follow the alias until cancelled: activate what it moves to."""
        while True:
            try:
                await self.look()
            except ForecasterError as error:
                LOGGER.warning("version %s goes on: %s", self._active.registered.version, error)
                if not isinstance(error, RegistryError):
                    why = f"the registry has no {self._config.alias!r}; the server's log says more"
                    self.registry.failure = why
            except Exception as error:  # noqa: BLE001 -- watching goes on
                log_internal_error(error)
            await asyncio.sleep(self._config.poll_seconds)

    async def look(self) -> None:
        """Ask for the alias once; activate its version if it has moved, or failed a while ago for a passing reason."""
        registered = await self.registry.resolve(self._config.alias)
        known = self._versions.get(registered.version)
        is_due = known is not None and known.is_due
        if (registered.version == self._last_seen and not is_due) or self.is_busy:
            return
        self._last_seen = registered.version
        self._begin(registered)

    async def close(self) -> None:
        """End a replacement that is under way; the served version stays, or the new one goes on at the next start."""
        if self._swap is not None:
            self._swap.stop()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=self._config.drain_seconds)

    @property
    def is_busy(self) -> bool:
        """Whether a replacement is under way."""
        return self._task is not None and not self._task.done()

    def _begin(self, registered: RegisteredModel) -> Version:
        if registered.version == self._active.registered.version:
            return self._active
        known = self._versions.get(registered.version)
        if self.is_busy and known is not None and known.is_coming:
            return known  # a retry
        if self.is_busy:
            waits = "another version is being activated: wait until it is ACTIVE or FAILED"
            raise FailedPreconditionError(self._held() or waits)
        version = known.again() if known is not None else Version(registered)
        self._versions[registered.version] = version
        self._task = asyncio.get_running_loop().create_task(self._replace(version), name="activate")
        return version

    async def _replace(self, version: Version) -> None:
        number, name = version.registered.version, version.registered.name
        began = time.monotonic()
        LOGGER.info("activating %s version %s", name, number)
        try:
            served = self._engine.lanes.active.bundle
            _, bundle = await self.registry.load(functools.partial(load_verified, served=served), number)
            version.load(bundle)
            await self._take_over(version, bundle)
        except asyncio.CancelledError:
            self._fail(version, UnavailableError("the server is shutting down"))
            raise
        except ForecasterError as error:
            self._fail(version, error)
        except Exception as error:  # noqa: BLE001 -- the served version goes on
            what = f"an internal error; the server's log has it as {log_internal_error(error)}"
            self._fail(version, InternalError(what))
        else:
            former, self._active = self._active, version
            version.activate()
            former.retire()
            LOGGER.info("serving %s version %s after %.1f s", name, number, time.monotonic() - began)
        await self._until_taken_back(version)

    async def _take_over(self, version: Version, bundle: Bundle) -> None:
        """Let the engine serve a version."""
        if bundle.fingerprint == self._active.fingerprint:  # the same weights under another number
            await self._batcher.upkeep(lambda: self._relabel(version.registered.version))
            return
        version.rebuild()
        self._swap = Swap(
            self._engine,
            self._batcher,
            self._storage,
            replay_steps=self._config.replay_steps,
            pool=self._pool,
            progress=lambda share: setattr(version, "progress", share),
        )
        await self._swap.run(bundle, version.registered.version)

    async def _until_taken_back(self, version: Version) -> None:
        """Try again, until cancelled, to give a failed version's series back; nothing else is activated meanwhile."""
        seconds, was_held = _TAKE_BACK_SECONDS, False
        while held := self._held():
            was_held = True
            version.hold(held)
            await asyncio.sleep(seconds)
            seconds = min(2 * seconds, _MOST_TAKE_BACK_SECONDS)
            assert self._swap is not None
            await asyncio.shield(self._swap.take_back())
        if was_held:
            version.hold("")
            LOGGER.info("%s version %s is taken back", version.registered.name, version.registered.version)

    def _held(self) -> str:
        """Return why series still belong to a version that failed, empty if none do."""
        if self._swap is None or self._swap.left is None:
            return ""
        left = self._swap.left
        why = reason(left) if isinstance(left, ForecasterError) else "an internal error, see the log"
        return f"a failed version's series cannot be given back to the one before yet, it is being tried again: {why}"

    def _relabel(self, number: str) -> None:
        lane = self._engine.lanes.active
        lane.version = number
        self._engine.storage.snapshots.activate(Activation(number, lane.bundle.fingerprint))

    @staticmethod
    def _fail(version: Version, error: ForecasterError) -> None:
        version.fail(error)
        LOGGER.error("%s version %s is not served: %s", version.registered.name, version.registered.version, error)
