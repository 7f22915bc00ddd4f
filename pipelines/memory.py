"""What the scheduler remembers across its restarts: a few numbers in a file beside the data set.

Knows nothing of what they are good for.
"""

import dataclasses
import json
import pathlib
from dataclasses import dataclass, field
from typing import Any

from forecaster.durable_files import make_folder, sync_folder, write_durably
from forecaster.errors import StorageError


@dataclass(slots=True, kw_only=True)
class Memory:
    """What is remembered; times are Unix times.

    Args:
        path: of the file.
        observations: that the server has taken since the last retraining began.
        applied: the server's count at the last look, None before the first,
        server_started: and when that server had started.
        drift: of the last look at the live scores, see `drift.look`.
        began: when the last retraining began,
        ended: and when one last ended; None before the first.
        unfinished: the trigger of a retraining that was begun and has not ended.
    """

    path: pathlib.Path
    observations: int = 0
    applied: int | None = None
    server_started: float = 0.0
    drift: dict[str, Any] = field(default_factory=dict)
    began: float | None = None
    ended: float | None = None
    unfinished: str | None = None

    @classmethod
    def load(cls, path: pathlib.Path) -> "Memory":
        """Return what a file holds, nothing if there is none; raises StorageError for one that cannot be read."""
        try:
            return cls(path=path, **json.loads(path.read_text()))
        except FileNotFoundError:
            return cls(path=path)
        except (OSError, ValueError, TypeError) as error:
            raise StorageError(f"{path} cannot be read ({error}): repair or remove it") from error

    def save(self) -> None:
        """Write the file, whole or not at all."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "path"}
        try:
            make_folder(self.path.parent)
            write_durably(self.path, lambda file: file.write(json.dumps(values, indent=1).encode()))
            sync_folder(self.path.parent)
        except OSError as error:
            raise StorageError(f"{self.path} cannot be written: {error.strerror or error}") from error

    def not_after(self, now: float) -> bool:
        """Take times that are yet to come for now, since a clock was set back; return whether there were any."""
        before = self.began, self.ended
        self.began, self.ended = (None if time is None else min(time, now) for time in before)
        return (self.began, self.ended) != before

    def count(self, applied: int, server_started: float) -> None:
        """Add what the server has taken since the last look; after its restart, which begins at zero, all of it."""
        if self.applied is not None:
            restarted = abs(server_started - self.server_started) > 1.0 or applied < self.applied
            self.observations += applied if restarted else applied - self.applied
        self.applied, self.server_started = applied, server_started
