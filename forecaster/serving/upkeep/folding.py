"""What the upkeep that folds states again has in common: an engine, and a thread with a storage of its own.

Knows nothing of which series are folded, or why.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from forecaster.errors import UnavailableError
from forecaster.serving.engine.batcher import Batcher
from forecaster.serving.engine.engine import Engine
from forecaster.serving.storage.contract import Storage


class FoldingBeside:
    """Upkeep of one engine.

    Args:
        engine: called through the batcher only.
        batcher: the engine's.
        storage: for the thread of the pool.
        pool: one thread.
        replay_steps: of a series at least, as where a version is replaced.
    """

    def __init__(
        self, engine: Engine, batcher: Batcher, storage: Storage, pool: ThreadPoolExecutor, replay_steps: int
    ) -> None:
        self._engine, self._batcher, self._storage, self._pool = engine, batcher, storage, pool
        self._replay_steps = replay_steps
        self._due, self._is_stopped = asyncio.Event(), False

    def stop(self) -> None:
        """Let what is under way fail soon: the process is about to end."""
        self._is_stopped = True

    async def _in_thread(self, function: Callable[..., Any], *values: Any) -> Any:
        if self._is_stopped:
            raise UnavailableError("the server is about to end")
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *values)
