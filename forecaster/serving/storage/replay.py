"""The journal in parts that can be applied at once: static covariates first, then rows.

Knows records; knows nothing of states or models.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from forecaster.errors import UnavailableError
from forecaster.serving.storage.issued import Issued
from forecaster.serving.storage.records import Attributes, Columns, Deletion, Record, without

_MOST_ROWS = 262_144  # of one part


@dataclass(slots=True)
class Part:
    """Records that stand one behind the other: static covariates, and rows that come after all of them.

    Args:
        attributes: with the sequence of each.
        columns: with the sequence of each.
        issued: with the sequence of each.
        rows: of all columns.
        series_ids: of all columns and attributes.
        first: sequence of the first record, 0 without any.
        sequence: of the last record.
        more: whether what the same records hold of other series is yet to come.
    """

    attributes: list[tuple[int, Attributes]] = field(default_factory=list)
    columns: list[tuple[int, Columns]] = field(default_factory=list)
    issued: list[tuple[int, Issued]] = field(default_factory=list)
    rows: int = 0
    series_ids: dict[str, None] = field(default_factory=dict)
    observed: set[str] = field(default_factory=set)
    first: int = 0
    sequence: int = 0
    more: bool = False

    def add(self, sequence: int, record: Columns | Attributes | Issued) -> None:
        """Take one more record."""
        self.first, self.sequence = min(self.first or sequence, sequence), max(self.sequence, sequence)
        self.series_ids.update(dict.fromkeys(record.series_ids))
        if isinstance(record, Columns):
            self.columns.append((sequence, record))
            self.rows += len(record)
            self.observed.update(record.series_ids)
        elif isinstance(record, Issued):
            self.issued.append((sequence, record))
        else:
            self.attributes.append((sequence, record))

    def takes(self, record: Columns | Attributes | Issued, most_series: int) -> bool:
        """Return whether a record may be added."""
        if self.rows >= _MOST_ROWS or len(self.series_ids) + len(record.series_ids) > most_series:
            return not self.series_ids
        return not isinstance(record, Attributes) or self.observed.isdisjoint(record.series_ids)

    def pieces(self, most_series: int) -> "list[Part]":
        """Return it as parts of so many series at most, none of which stands in two of them."""
        names = list(self.series_ids)
        if len(names) <= most_series:
            return [self]
        found = []
        for start in range(0, len(names), most_series):
            others = self.series_ids.keys() - names[start : start + most_series]
            piece = Part()
            records: list[tuple[int, Columns | Attributes | Issued]] = [*self.attributes, *self.columns, *self.issued]
            for sequence, record in records:
                rest = without(record, others)
                if rest is not None and not isinstance(rest, Deletion):
                    piece.add(sequence, rest)
            piece.sequence, piece.more = self.sequence, start + most_series < len(names)
            found.append(piece)
        return found


def in_parts(
    records: Iterable[tuple[int, Record]],
    *,
    most_series: int = 2**62,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[Part | tuple[int, Deletion]]:
    """Yield records in parts, and deletions alone, in order.

    Args:
        records: with their sequences, ascending.
        most_series: of one part, unless a single record has more.
        should_stop: asked at every record; UnavailableError is raised soon after it says so.
    """
    part = Part()
    for sequence, record in records:
        if should_stop():
            raise UnavailableError("the server was told to stop while it recovered")
        if isinstance(record, Deletion):
            if part.series_ids:
                yield part
                part = Part()
            yield sequence, record
            continue
        if not part.takes(record, most_series):
            yield part
            part = Part()
        part.add(sequence, record)
    if part.series_ids:
        yield part
