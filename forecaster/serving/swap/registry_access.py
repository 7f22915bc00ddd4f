"""The registry as a server asks it: beside everything else, once at a time, and not for long.

Knows nothing of lanes or of what is served.
"""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from forecaster.config import TrackingConfig
from forecaster.errors import RegistryError, UnavailableError
from forecaster.registry import registry
from forecaster.registry.registry import RegisteredModel
from forecaster.registry.store_uri import without_password
from forecaster.serving.aside import Aside
from forecaster.serving.telemetry import LOGGER

_AT_ONCE = 4
_ANSWER_SECONDS = 10.0  # of the registry, which may take minutes to say that it is not there
_AWAY = "the server's model store does not answer; the server's log says why"
T = TypeVar("T")


class RegistryAccess:
    """One model's.

    Args:
        tracking: the registry, and the registered model's name.
        serving: returns the number of the version that serves.

    Attributes:
        failure: why it could not be asked the last time, empty once it has answered.
    """

    def __init__(self, tracking: TrackingConfig, serving: Callable[[], str]) -> None:
        self.failure = ""
        self._tracking, self._serving = tracking, serving
        self._aside = Aside(_AT_ONCE, "registry")  # nobody waits for it at the end
        self._asking: asyncio.Task[RegisteredModel] | None = None

    @property
    def running(self) -> int:
        """How many questions have no answer yet."""
        return self._aside.running

    async def load(self, function: Callable[..., T], *values: object) -> T:
        """Call a function that reads from the registry for long, with its configuration first."""
        return await self._aside.call(function, self._tracking, *values)

    async def resolve(self, version_or_alias: str) -> RegisteredModel:
        """Return a version.

        Raises ModelNotFoundError, and RegistryError if the registry does not answer, or not soon.
        """
        if self._asking is None:
            call = self._aside.call(registry.resolve, self._tracking, version_or_alias)
            self._asking = asyncio.create_task(call, name=version_or_alias)
            self._asking.add_done_callback(lambda task: task.cancelled() or task.exception())  # it may come too late
        task = self._asking
        await asyncio.wait({task}, timeout=_ANSWER_SECONDS)
        if not task.done():
            raise self._unanswered(f"no answer within {_ANSWER_SECONDS:g} s")
        if self._asking is task:
            self._asking = None
        if task.get_name() != version_or_alias:  # somebody else's, which has ended
            return await self.resolve(version_or_alias)
        try:
            registered = task.result()
        except UnavailableError as error:
            raise self._unanswered(str(error)) from error
        self.failure = ""
        return registered

    def _unanswered(self, why: str) -> RegistryError:
        """Note that the registry cannot be asked, and return the error that says so; what it said, the log has."""
        LOGGER.warning("the model store %s: %s", without_password(self._tracking.uri), why)
        self.failure = _AWAY
        return RegistryError(f"{_AWAY}. The server itself is up, and goes on with version {self._serving()}")
