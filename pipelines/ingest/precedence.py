"""Which sources have to be read again because one that is listed before them was read.

Where sources differ the later one in the configured order counts, never the one that was read last: a file that was
only touched, or that got rows at its end, must not take the values of the sources behind it away. What the data set
holds does not say whose a value is; so whatever stands behind a source that is read, and may hold the same times, is
read too, behind it.

Knows names and times of sources; knows nothing of what is in them.
"""

from collections.abc import Mapping, Sequence

import polars as pl

from forecaster.data.manifest import Extent, Manifest


class Precedence:
    """What is to be read of the sources, in their order.

    Args:
        known: the data set as it is, None for a new one.
        names: of the sources, in the order in which they count.
        replaces: whether a later value counts; where the first one does, the data set's own stays whatever is read.
        timeless: whether the sources hold something that belongs to no time, such as static covariates.
    """

    def __init__(self, known: Manifest | None, names: Sequence[str], *, replaces: bool, timeless: bool) -> None:
        self._known: Mapping[str, Extent] = {} if known is None else known.extents
        self._replaces, self._timeless = replaces, timeless
        self._read: list[Extent] = []
        before = [name for name in (() if known is None else known.sources) if name in set(names)]
        self._reordered = replaces and before != [name for name in names if name in set(before)]
        self.extents: dict[str, Extent] = {name: extent for name, extent in self._known.items() if name in set(names)}

    def again(self, name: str) -> bool:
        """Return whether a source has to be read whole although it may be known."""
        if not self._replaces or not (self._read or self._reordered):
            return False
        known = self._known.get(name)
        if known is None or self._timeless or self._reordered:
            return True
        return any(first <= known[1] and known[0] <= last for first, last in self._read)

    def note(self, name: str, part: pl.DataFrame) -> None:
        """Take note of a part that was read of a source. What a source once held counts as its times too."""
        if "ds" not in part.columns or part.is_empty():
            return
        us = part["ds"].to_physical()
        first, last = int(us.min()), int(us.max())  # type: ignore[arg-type]  # there are rows, all with a time
        held = self.extents.get(name, (first, last))
        self._read = _joined([*self._read, (first, last)])
        self.extents[name] = (min(held[0], first), max(held[1], last))


def _joined(extents: Sequence[Extent]) -> list[Extent]:
    """Return the same times with what overlaps joined: parts of a file are many, stretches few."""
    found: list[Extent] = []
    for first, last in sorted(extents):
        if found and first <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        else:
            found.append((first, last))
    return found
