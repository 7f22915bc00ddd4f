"""The times at which a series may have a value: the one place that knows what a step is.

A grid has no origin of its own: each series' first time anchors it. Steps are of a fixed length; what counts them, asks
here, so that steps of another kind (months, days of a zone) come in at one place. Machine code computes with `step_us`
itself. Knows nothing of series.

Times are microseconds since the Unix epoch: integers, NumPy arrays, tensors or Polars expressions, as they come.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Grid:
    """A grid.

    Args:
        step_us: between two of its times.
    """

    step_us: int

    def index(self, origin_us: Any, time_us: Any) -> Any:
        """Return how many steps a time is behind another one of the grid, rounded down; negative before it."""
        return (time_us - origin_us) // self.step_us

    def has(self, origin_us: Any, time_us: Any) -> Any:
        """Return whether a time is one of the grid that another one is of."""
        return (time_us - origin_us) % self.step_us == 0

    def time(self, origin_us: Any, index: Any) -> Any:
        """Return the time so many steps behind another one of the grid."""
        return origin_us + index * self.step_us

    def next(self, time_us: Any) -> Any:
        """Return the time behind one."""
        return time_us + self.step_us

    def first_from(self, origin_us: int, time_us: int) -> int:
        """Return the index of the first time that is not before a time."""
        return -((origin_us - time_us) // self.step_us)

    def phase(self, time_us: Any) -> Any:
        """Return what all times of one grid have in common, and those of others of the same step have not."""
        return time_us % self.step_us

    def span_us(self, steps: int) -> int:
        """Return how long so many steps take."""
        return steps * self.step_us
