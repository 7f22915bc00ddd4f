"""What a server's journal and history hold, read from outside: beside a running server, without its lock or lease.

An `Export` writes nothing. A record may move from the journal to the history, and history files may be merged, between
two looks: what is read is each record once, up to the last one of the moment at which it was opened, without the rows
of series that were deleted before.

Knows records; knows nothing of what is made of them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import polars as pl

from forecaster.errors import StorageError


@dataclass(frozen=True, slots=True)
class Position:
    """The last record with observations that was read, and when it was committed.

    Sequences alone would not do: a journal that was made anew, or lost its end, gives them a second time.
    """

    sequence: int
    committed_us: int


class Export(Protocol):
    """A journal and its history, as of the moment at which they were opened."""

    @property
    def model(self) -> str:
        """The registered model whose journal it is."""
        ...

    @property
    def through(self) -> int:
        """The last record that is read."""
        ...

    @property
    def dropped(self) -> int:
        """The record up to which the journal was pruned without a history, 0 if it never was."""
        ...

    def continues(self, position: Position) -> bool:
        """Return whether the record at a position is surely the one that was read there."""
        ...

    def frames(self, after: int) -> Iterator[pl.DataFrame]:
        """Yield the observations behind a sequence, in order.

        Columns are those of the history's files: `sequence`, `committed_time`, `unique_id`, `ds`, `y` and one for each
        covariate that is given (`history_frames.column_of`). Raises StorageError if something is broken.
        """
        ...

    def attributes(self, after: int) -> Iterator[tuple[str, Mapping[str, float], Mapping[str, str]]]:
        """Yield the latest static numbers and categories of each series that was given some behind a sequence."""
        ...

    def close(self) -> None:
        """Release everything."""
        ...


def chosen(model: str, found: list[str], place: str) -> str:
    """Return the model among those that a state holds; raises StorageError if there is none, or no saying which."""
    if model in found or len(found) == 1:
        return model if model in found else found[0]
    if not found:
        raise StorageError(f"{place} holds no journal: start a server with it first, or correct ingest.state")
    raise StorageError(f"{place} holds journals of {', '.join(sorted(found))}: name one with --tracking.model")


def deletions(waiting: list[Any]) -> pl.DataFrame:
    """Return rows of (series, sequence of its deletion) as a frame."""
    return pl.DataFrame(waiting, schema={"unique_id": pl.String, "deleted": pl.Int64}, orient="row")


def without_deleted(frame: pl.DataFrame, deleted: pl.DataFrame) -> pl.DataFrame:
    """Return the rows that came after their series' deletion, if it was deleted."""
    if deleted.is_empty():
        return frame
    rows = frame.join(deleted, on="unique_id", how="left", maintain_order="left")
    return rows.filter(pl.col("deleted").is_null() | (pl.col("sequence") > pl.col("deleted"))).drop("deleted")
