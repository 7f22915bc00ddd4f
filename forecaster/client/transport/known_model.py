"""What a client knows of the served version: asked once a minute, since another one may have taken its place.

Does no I/O: the blocking and the asyncio client share it.
"""

import time
from collections.abc import Callable

from forecaster.client.results import ModelInfo

_SECONDS = 60.0


class KnownModel:
    """The served version as it was told last.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._asked = clock, 0.0
        self.model: ModelInfo | None = None

    def is_due(self) -> bool:
        """Return whether to ask; if that fails, what was told before holds for another minute."""
        if self.model is not None and self._clock() - self._asked < _SECONDS:
            return False
        self._asked = self._clock()
        return True

    def forget(self) -> None:
        """Ask at the next call: a request was refused."""
        self.model = None
