"""The deletions that concern whoever reads a journal while records are erased beside.

Erasing takes records out at any moment, and a deletion's own record last; so a reader may hold rows from before one
that it never meets. Whoever deletes therefore notes it in a list, before any later record is written.

Knows sequences and ids; knows nothing of states.
"""

from collections.abc import Callable, Iterator, Sequence

from forecaster.serving.storage.records import Deletion


class Deletions:
    """What one reader has heard of.

    Args:
        noted: sequence and series of each, growing.
        concerns: whether a series is the reader's.
    """

    def __init__(self, noted: Sequence[tuple[int, str]], concerns: Callable[[str], bool]) -> None:
        self._noted, self._concerns, self._heard = noted, concerns, 0
        self._last: dict[str, int] = {}

    def added(self) -> Iterator[tuple[int, Deletion]]:
        """Yield what was noted since the last time; to be asked before each record is taken."""
        while self._heard < len(self._noted):
            sequence, series_id = self._noted[self._heard]
            self._heard += 1
            yield from self.met(sequence, series_id)

    def met(self, sequence: int, series_id: str) -> Iterator[tuple[int, Deletion]]:
        """Yield a deletion that concerns the reader, once."""
        if sequence > self._last.get(series_id, 0) and self._concerns(series_id):
            self._last[series_id] = sequence
            yield sequence, Deletion(series_id)

    def places(self, series_ids: Sequence[str], sequence: int) -> list[int]:
        """Return which series of a record were deleted after it: whatever it holds of them counts no more."""
        if not self._last:
            return []
        return [k for k, name in enumerate(series_ids) if sequence < self._last.get(name, 0)]
