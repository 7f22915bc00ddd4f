"""A process that is killed between two writes to an MLflow store, without a process: its client dies."""

from typing import Any

_WRITES = ("create_", "delete_", "log_", "set_", "transition_", "update_")


class Killed(BaseException):
    """What is raised instead of the write; no handler of errors sees it."""


class DyingClient:
    """A real client that writes so many times and is dead from then on.

    Args:
        client: MLflow's.
        writes: how many calls that write are let through.
    """

    def __init__(self, client: Any, writes: int) -> None:
        self._client, self.left, self.is_dead = client, writes, False

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if not callable(method):
            return method

        def call(*args: Any, **kwargs: Any) -> Any:
            if name.startswith(_WRITES):
                self.left -= 1
                self.is_dead |= self.left < 0
            if self.is_dead:
                raise Killed(name)
            return method(*args, **kwargs)

        return call
