"""What the servicers share: the served models with their engines, and where the server is in its life.

Knows nothing of messages or statuses.
"""

import asyncio
import enum
from collections.abc import Sequence
from dataclasses import dataclass

from forecaster.config import ServingConfig
from forecaster.errors import ModelNotFoundError, UnavailableError
from forecaster.model.bundle import Bundle
from forecaster.model.covariates import CovariateSpec
from forecaster.registry.registry import RegisteredModel
from forecaster.serving.counters import Calls
from forecaster.serving.engine.batcher import Batcher
from forecaster.serving.engine.engine import Engine
from forecaster.serving.intake.decoding import Intake
from forecaster.serving.swap.versions import Versions
from forecaster.serving.upkeep.maintenance import Maintenance


class Phase(enum.Enum):
    """Where the server is in its life."""

    RECOVERING = "recovering"
    SERVING = "serving"
    DRAINING = "shutting down"


@dataclass(frozen=True, slots=True)
class Served:
    """One registered model on this server.

    Args:
        name: of the registered model.
        engine: its states.
        batcher: the queue before the engine.
        versions: of the model.
        maintenance: of its storage.
    """

    name: str
    engine: Engine
    batcher: Batcher
    versions: Versions
    maintenance: Maintenance

    @property
    def bundle(self) -> Bundle:
        """The served version's."""
        return self.engine.lanes.active.bundle

    @property
    def covariates(self) -> CovariateSpec:
        """Those that clients may send."""
        return self.engine.lanes.covariates

    @property
    def registered(self) -> RegisteredModel:
        """The served version."""
        return self.versions.active.registered


class Backend:
    """The served models, and the server's phase.

    Args:
        served: one or more; requests that name none mean the first.
        config: of the server.
    """

    def __init__(self, served: Sequence[Served], config: ServingConfig) -> None:
        self.models = tuple(served)
        self._served = {model.name: model for model in served}
        self._first = served[0]
        self.calls = Calls()
        self.intake = Intake(config.max_request_observations, config.max_request_memory_bytes)
        self.config = config
        self.phase = Phase.RECOVERING
        self.draining = asyncio.Event()

    def drain(self) -> None:
        """Refuse new work from now on, and end the streams."""
        self.phase = Phase.DRAINING
        self.draining.set()

    def all(self) -> list[Served]:
        """Return the models by ascending name; raises UnavailableError unless this server is up."""
        self._check_up()
        return [self._served[name] for name in sorted(self._served)]

    def served(self, name: str) -> Served:
        """Return the model `name` (empty: the first); raises unless this server is up and serves it."""
        self._check_up()
        if not name:
            return self._first
        if name not in self._served:
            shown = ", ".join(map(repr, self._served))
            raise ModelNotFoundError(f"this server serves {shown}, not {name!r}", [name])
        return self._served[name]

    def _check_up(self) -> None:
        if self.phase is not Phase.SERVING:
            raise UnavailableError(f"the server is {self.phase.value}: try again shortly")
