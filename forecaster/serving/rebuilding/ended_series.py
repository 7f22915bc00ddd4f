"""Series whose windows begin so long before the others' that every part of a swap would read far back for them.

They are rebuilt first, some thousands at a time, by one reading of the past; the parts then begin with their states.
Knows a census; knows nothing of journals or threads.

Shapes: N series.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from forecaster.serving.rebuilding.census import EARLIEST_US, Census
from forecaster.serving.states.buckets import BUCKETS
from forecaster.serving.storage.records import IntArray

_MOST_AT_ONCE = 16_384  # series: their states are held until their part comes
_CUTS = 33  # that are tried


def stragglers(census: Census, behind_us: IntArray, parts: int) -> npt.NDArray[np.bool_]:
    """Return which series are rebuilt first, bool [N]; none unless that at least halves what is read.

    Args:
        census: of all series.
        behind_us: where the window of each begins, int64 [N].
        parts: that read the journal once each, from where the first window of those begins that are left to them.
    """
    none = np.zeros(len(census), dtype=bool)
    if parts < 2 or not len(census):
        return none
    known = census.clock_us > EARLIEST_US
    now, oldest = (float(edge(times[known])) for edge, times in ((np.max, census.clock_us), (np.min, behind_us)))
    first = np.sort(np.maximum(behind_us, oldest))
    cuts = first[np.linspace(0, len(first) - 1, _CUTS).astype(np.int64)]
    passes = -(-np.searchsorted(first, cuts) // _MOST_AT_ONCE)
    cost = parts * (now - cuts) + passes * (now - oldest)
    best = int(np.argmin(cost))
    return behind_us < cuts[best] if 2 * cost[best] < parts * (now - oldest) else none


def groups(census: Census, late: npt.NDArray[np.bool_], parts: Sequence[IntArray]) -> Iterator[list[IntArray]]:
    """Yield the parts, which are buckets, in groups that have so few stragglers that they may be held at once."""
    counts = np.bincount(census.buckets[late], minlength=BUCKETS)
    group: list[IntArray] = []
    held = 0
    for part in parts:
        more = int(counts[part].sum())
        if group and held + more > _MOST_AT_ONCE:
            yield group
            group, held = [], 0
        group.append(part)
        held += more
    if group:
        yield group
