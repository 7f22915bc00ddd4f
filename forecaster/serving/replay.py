"""The journal in parts that the engine can apply at once: in order, and without what the snapshots hold already.

Knows records; knows nothing of states or models.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from forecaster.errors import UnavailableError
from forecaster.serving.issued import Issued
from forecaster.serving.journal import Journal
from forecaster.serving.records import Attributes, Columns, Deletion

_MOST_ROWS = 262_144  # of one part


@dataclass(slots=True)
class Part:
    """Static covariates, and rows that come after all of them."""

    attributes: list[Attributes] = field(default_factory=list)
    columns: list[Columns] = field(default_factory=list)
    rows: int = 0
    series_ids: set[str] = field(default_factory=set)

    def add(self, record: Columns) -> None:
        """Take the rows of one more record."""
        self.columns.append(record)
        self.rows += len(record)
        self.series_ids.update(record.series_ids)


def read_parts(
    journal: Journal, after: int, stands: Mapping[str, int], should_stop: Callable[[], bool]
) -> Iterator[Part | Deletion]:
    """Yield what the journal holds behind record `after`, in order.

    Args:
        journal: to be read.
        after: a sequence.
        stands: for each series that has a snapshot the record up to which it holds everything.
        should_stop: asked at every record; UnavailableError is raised soon after it says so.
    """
    part = Part()
    for sequence, record in journal.read(after):
        if should_stop():
            raise UnavailableError("the server was told to stop while it recovered")
        if isinstance(record, Deletion):
            yield part
            part = Part()
            if stands.get(record.series_id, 0) < sequence:
                yield record
            continue
        if isinstance(record, Issued):
            continue  # no engine scores forecasts yet
        missing = np.array([stands.get(name, 0) < sequence for name in record.series_ids], dtype=bool)
        if isinstance(record, Attributes):
            if not part.series_ids.isdisjoint(record.series_ids):
                yield part
                part = Part()
            part.attributes.append(record.of(np.flatnonzero(missing).tolist()))
            continue
        part.add(record if missing.all() else record.rows(missing[record.series]))
        if part.rows >= _MOST_ROWS:
            yield part
            part = Part()
    yield part
