"""What the servicers share: the served model with its engine and batcher, and where the server is in its life.

Knows nothing of messages or statuses.
"""

import asyncio
import enum

from forecaster.config import ServingConfig
from forecaster.errors import ModelNotFoundError, UnavailableError
from forecaster.model.bundle import Bundle
from forecaster.registry import RegisteredModel
from forecaster.serving.batcher import Batcher
from forecaster.serving.engine import Engine


class Phase(enum.Enum):
    """Where the server is in its life."""

    RECOVERING = "recovering"
    SERVING = "serving"
    DRAINING = "shutting down"


class Backend:
    """The served model, its engine and batcher, and the server's phase."""

    def __init__(
        self, registered: RegisteredModel, bundle: Bundle, engine: Engine, batcher: Batcher, config: ServingConfig
    ) -> None:
        self.registered, self.bundle = registered, bundle
        self.engine, self.batcher = engine, batcher
        self.config = config
        self.phase = Phase.RECOVERING
        self.draining = asyncio.Event()

    def drain(self) -> None:
        """Refuse new work from now on, and end the streams."""
        self.phase = Phase.DRAINING
        self.draining.set()

    def check_model(self, name: str) -> None:
        """Raise unless this server is up and serves the model `name` (empty: its own)."""
        if self.phase is not Phase.SERVING:
            raise UnavailableError(f"the server is {self.phase.value}: try again shortly")
        if name not in ("", self.registered.name):
            raise ModelNotFoundError(f"this server serves {self.registered.name!r}, not {name!r}", [name])
