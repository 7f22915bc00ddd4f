"""The versions of one registered model on this server: which is served, what became of others, how one is activated.

A version is loaded beside the served one, verified, rebuilt and swapped in; one that fails leaves things as they are
and says why. Watches the registry's alias. Knows nothing of gRPC.
"""

import asyncio
import dataclasses
import enum
import math
import time
from concurrent.futures import ThreadPoolExecutor

from forecaster.config import ServingConfig, TrackingConfig
from forecaster.errors import FailedPreconditionError, ForecasterError, InternalError, RegistryError, UnavailableError
from forecaster.model.bundle import Bundle
from forecaster.registry import registry
from forecaster.registry.registry import RegisteredModel
from forecaster.registry.store_uri import without_password
from forecaster.serving.aside import Aside
from forecaster.serving.engine.batcher import Batcher
from forecaster.serving.engine.engine import Engine
from forecaster.serving.storage.contract import Activation, Storage
from forecaster.serving.swap.swap import Swap
from forecaster.serving.swap.verification import load_verified
from forecaster.serving.telemetry import LOGGER, log_internal_error, reason

_RETRY_SECONDS, _MOST_RETRY_SECONDS = 60.0, 3600.0  # behind a failure that may pass; then twice as long each time
_LOOKUPS = 4  # at once
_ANSWER_SECONDS = 10.0  # of the registry, which may take minutes to say that it is not there
_TAKE_BACK_SECONDS, _MOST_TAKE_BACK_SECONDS = 1.0, 30.0  # between two attempts


class ModelState(enum.IntEnum):
    """Where a version is in its life on this server; the numbers are the API's."""

    LOADING = 1
    REBUILDING = 2
    ACTIVE = 3
    RETIRED = 4
    FAILED = 5


@dataclasses.dataclass(slots=True)
class Version:
    """One version.

    Args:
        registered: in the registry.
        state: here.
        bundle: once it is loaded; let go of when it is retired or has failed.
        fingerprint: empty before it is loaded.
        progress: the share of series that have been rebuilt, 0 to 1.
        failure: why it failed, in one line.
        changed: when its state last changed, monotonic seconds.
        lasting: whether it failed for a reason that does not pass by itself: then it is not tried again until the alias
            has moved, or somebody activates it.
        attempts: how often it has failed for a reason that may pass.
    """

    registered: RegisteredModel
    state: ModelState
    bundle: Bundle | None = None
    fingerprint: str = ""
    progress: float = 0.0
    failure: str = ""
    changed: float = dataclasses.field(default_factory=time.monotonic)
    lasting: bool = True
    attempts: int = 0

    @property
    def retry_seconds(self) -> float:
        """How long after its failure it is tried again by itself; infinite if that is no use."""
        if self.state is not ModelState.FAILED or self.lasting:
            return math.inf
        return min(_RETRY_SECONDS * 2.0 ** min(self.attempts - 1, 20), _MOST_RETRY_SECONDS)


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
        self._tracking, self._config = tracking, config
        self._engine, self._batcher, self._storage, self._pool = engine, batcher, storage, pool
        bundle = engine.lanes.active.bundle
        active = Version(registered, ModelState.ACTIVE, bundle, bundle.fingerprint, 1.0)
        self.registry = Aside(_LOOKUPS, "registry")  # nobody waits for it at the end
        self._versions = {registered.version: active}
        self._active = active
        self._last_seen: str | None = None
        self._task: asyncio.Task[None] | None = None
        self._swap: Swap | None = None  # the last one
        self._asking: asyncio.Task[RegisteredModel] | None = None
        self.registry_failure = ""  # why the registry could not be asked the last time

    @property
    def active(self) -> Version:
        """The version that serves, or the one that still does while another takes over."""
        return self._active

    def all(self) -> list[Version]:
        """Return every version that this process knows, by ascending number."""
        return sorted(self._versions.values(), key=lambda one: int(one.registered.version))

    def find(self, version: str) -> Version | None:
        """Return one version that this process knows."""
        return self._versions.get(version)

    async def activate(self, version_or_alias: str) -> Version:
        """Begin to replace the served version and return the new one, LOADING; the served one if it is that.

        Raises ModelNotFoundError if there is no such version, FailedPreconditionError while another replacement is
        under way, and RegistryError if the registry cannot be reached.
        """
        return self._begin(await self._resolve(version_or_alias))

    async def watch(self) -> None:
        """Follow the alias until cancelled: activate what it moves to."""
        while True:
            try:
                await self.look()
            except ForecasterError as error:
                LOGGER.warning("version %s goes on: %s", self._active.registered.version, error)
                if not isinstance(error, RegistryError):
                    self.registry_failure = f"the registry has no {self._config.alias!r}; the server's log says more"
            except Exception as error:  # noqa: BLE001 -- watching goes on
                log_internal_error(error)
            await asyncio.sleep(self._config.poll_seconds)

    async def look(self) -> None:
        """Ask for the alias once; activate its version if it has moved, or failed a while ago for a passing reason."""
        registered = await self._resolve(self._config.alias)
        known = self._versions.get(registered.version)
        again = known is not None and time.monotonic() - known.changed > known.retry_seconds
        if (registered.version == self._last_seen and not again) or self.is_busy:
            return
        self._last_seen = registered.version
        self._begin(registered)

    async def _resolve(self, version_or_alias: str) -> RegisteredModel:
        """Ask the registry, once at a time; what is wrong with it is in `registry_failure` until it answers again.

        Raises ModelNotFoundError, and RegistryError if it does not answer, or not soon.
        """
        if self._asking is None:
            call = self.registry.call(registry.resolve, self._tracking, version_or_alias)
            self._asking = asyncio.create_task(call, name=version_or_alias)
            self._asking.add_done_callback(lambda task: task.cancelled() or task.exception())  # it may come too late
        task = self._asking
        await asyncio.wait({task}, timeout=_ANSWER_SECONDS)
        if not task.done():
            raise self._unanswered(f"no answer within {_ANSWER_SECONDS:g} s")
        if self._asking is task:
            self._asking = None
        if task.get_name() != version_or_alias:  # somebody else's, which has ended
            return await self._resolve(version_or_alias)
        try:
            found = task.result()
        except UnavailableError as error:
            raise self._unanswered(str(error)) from error
        self.registry_failure = ""
        return found

    def _unanswered(self, why: str) -> RegistryError:
        """Note that the registry cannot be asked, and return the error that says so; what it said, the log has."""
        LOGGER.warning("the model store %s: %s", without_password(self._tracking.uri), why)
        self.registry_failure = "the server's model store does not answer; the server's log says why"
        number = self._active.registered.version
        return RegistryError(f"{self.registry_failure}. The server itself is up, and goes on with version {number}")

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
        if self.is_busy and known is not None and known.state in (ModelState.LOADING, ModelState.REBUILDING):
            return known  # a retry
        if self.is_busy and (stuck := self._stuck()):
            raise FailedPreconditionError(stuck)
        if self.is_busy:
            raise FailedPreconditionError("another version is being activated: wait until it is ACTIVE or FAILED")
        version = Version(registered, ModelState.LOADING, attempts=known.attempts if known is not None else 0)
        self._versions[registered.version] = version
        self._task = asyncio.get_running_loop().create_task(self._replace(version), name="activate")
        return version

    async def _replace(self, version: Version) -> None:
        number, name = version.registered.version, version.registered.name
        began = time.monotonic()
        LOGGER.info("activating %s version %s", name, number)
        try:
            bundle = await self.registry.call(self._load, number)
            version.bundle, version.fingerprint = bundle, bundle.fingerprint
            await self._replace_lane(version, bundle)
        except asyncio.CancelledError:
            self._fail(version, UnavailableError("the server is shutting down"))
            raise
        except ForecasterError as error:
            self._fail(version, error)
        except Exception as error:  # noqa: BLE001 -- the served version goes on
            what = f"an internal error; the server's log has it as {log_internal_error(error)}"
            self._fail(version, InternalError(what))
        else:
            LOGGER.info("serving %s version %s after %.1f s", name, number, time.monotonic() - began)
        await self._until_taken_back(version)

    async def _until_taken_back(self, version: Version) -> None:
        """Try again, until cancelled, to give a failed version's series back; nothing else is activated meanwhile."""
        why, seconds = version.failure, _TAKE_BACK_SECONDS
        while stuck := self._stuck():
            assert self._swap is not None
            version.failure = f"{why}; {stuck}"
            await asyncio.sleep(seconds)
            seconds = min(2 * seconds, _MOST_TAKE_BACK_SECONDS)
            await asyncio.shield(self._swap.take_back())
        if version.failure != why:
            version.failure = why
            self._set(version, ModelState.FAILED)
            LOGGER.info("%s version %s is taken back", version.registered.name, version.registered.version)

    def _stuck(self) -> str:
        """Return why series still belong to a version that failed, empty if none do."""
        if self._swap is None or self._swap.left is None:
            return ""
        left = self._swap.left
        why = reason(left) if isinstance(left, ForecasterError) else "an internal error, see the log"
        return f"a failed version's series cannot be given back to the one before yet, it is being tried again: {why}"

    async def _replace_lane(self, version: Version, bundle: Bundle) -> None:
        former = self._active
        if bundle.fingerprint == former.fingerprint:  # the same weights under another number
            await self._batcher.upkeep(lambda: self._relabel(version.registered.version))
        else:
            self._set(version, ModelState.REBUILDING)
            self._swap = Swap(
                self._engine,
                self._batcher,
                self._storage,
                replay_steps=self._config.replay_steps,
                pool=self._pool,
                progress=lambda share: setattr(version, "progress", share),
            )
            await self._swap.run(bundle, version.registered.version)
        version.progress = 1.0
        self._active = version
        self._set(version, ModelState.ACTIVE)
        former.bundle = None
        self._set(former, ModelState.RETIRED)

    def _relabel(self, version: str) -> None:
        lane = self._engine.lanes.active
        lane.version = version
        self._engine.storage.snapshots.activate(Activation(version, lane.bundle.fingerprint))

    def _load(self, version: str) -> Bundle:
        return load_verified(self._tracking, version, self._engine.lanes.active.bundle)[1]

    def _fail(self, version: Version, error: ForecasterError) -> None:
        version.failure, version.bundle = reason(error), None
        version.lasting, version.attempts = error.lasting, version.attempts + 1
        self._set(version, ModelState.FAILED)
        LOGGER.error("%s version %s is not served: %s", version.registered.name, version.registered.version, error)

    @staticmethod
    def _set(version: Version, state: ModelState) -> None:
        version.state, version.changed = state, time.monotonic()
