"""What a server's journal and history hold, read from outside: beside a running server, without its lock or lease.

An `Export` writes nothing. A record may move from the journal to the history, and history files may be merged, between
two looks: what is read is each record once, up to the last one of the moment at which it was opened, without the rows
of series that were deleted before.

Knows records; knows nothing of what is made of them.
"""

import contextlib
import importlib
import json
import pathlib
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import polars as pl

from forecaster.errors import StorageError
from forecaster.serving.history_frames import frame_of
from forecaster.serving.history_ledger import Ledger
from forecaster.serving.history_reader import HistoryReader
from forecaster.serving.opening import POSTGRES, SQLITE, quoted
from forecaster.serving.records import Columns
from forecaster.serving.sqlite_database import ReadOnly
from forecaster.serving.sqlite_schema import LAST_SEQUENCE, VERSION, decoded

_PAGE_RECORDS, _PAGE_ATTRIBUTES = 64, 4096
_ROWS = 262_144  # of one frame, about
_JOURNAL = "journal.db"


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


def open_export(state: str, model: str) -> Export:
    """Open a server's state for reading.

    Args:
        state: as `--serving.state` has it.
        model: the registered model; another one is taken if the state holds only that.

    Raises StorageError if there is no journal, or it cannot be read.
    """
    if state.startswith(POSTGRES):
        backend = importlib.import_module("forecaster.serving.postgres_export")  # its driver is not needed elsewhere
        shared: Export = backend.PostgresExport(state, model)
        return shared
    return SqliteExport(folder_of(state, model))


def chosen(model: str, found: list[str], place: str) -> str:
    """Return the model among those that a state holds; raises StorageError if there is none, or no saying which."""
    if model in found or len(found) == 1:
        return model if model in found else found[0]
    if not found:
        raise StorageError(f"{place} holds no journal: start a server with it first, or correct ingest.state")
    raise StorageError(f"{place} holds journals of {', '.join(sorted(found))}: name one with --tracking.model")


def folder_of(state: str, model: str) -> pathlib.Path:
    """Return the folder of a model's files; raises StorageError if there is no journal, or no saying which."""
    if "://" in state and not state.startswith(SQLITE):
        raise StorageError(f"state {state!r} is not supported: give a folder, a sqlite:/// or a postgresql:// URL")
    path = pathlib.Path(state.removeprefix(SQLITE)).expanduser()
    if path.suffix == ".db":  # as `open_storage` takes it
        path = path.parent if path.name == _JOURNAL else path.with_suffix("")
    folders = {urllib.parse.unquote(one.parent.name): one.parent for one in path.glob(f"*/{_JOURNAL}")}
    if (path / _JOURNAL).is_file():  # a storage without a model's name
        folders[""] = path
    name = chosen(model, list(folders), str(path))
    return path / quoted(model) if name == model else folders[name]


class SqliteExport:
    """See `Export`.

    Args:
        folder: of one model.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self._model = urllib.parse.unquote(folder.name)
        self._database = ReadOnly(folder / _JOURNAL)
        self._history = HistoryReader(folder / "history", Ledger(self._database))
        try:
            self._check()
            # In this order: what was deleted before `through` waits for its erasure, or nothing of it is left.
            self._through = int(self._database.rows(LAST_SEQUENCE)[0][0])
            waiting = self._database.rows("SELECT series_id, max(sequence) FROM erasures GROUP BY series_id")
        except BaseException:
            self._database.close()
            raise
        self._deleted = deletions(waiting)

    @property
    def model(self) -> str:
        """See `Export.model`."""
        return self._model

    @property
    def through(self) -> int:
        """See `Export.through`."""
        return self._through

    @property
    def dropped(self) -> int:
        """See `Export.dropped`."""
        found = self._database.rows("SELECT value FROM marks WHERE name = 'dropped'")
        return int(found[0][0]) if found else 0

    def continues(self, position: Position) -> bool:
        """See `Export.continues`."""
        while True:
            query = "SELECT committed_us FROM journal WHERE sequence = ?"
            found = [int(row[0]) for row in self._database.rows(query, (position.sequence,))]
            file = self._file_behind(position.sequence - 1)
            if not found and file is not None and file.first <= position.sequence:
                try:
                    at = self._history.frame(file).filter(pl.col("sequence") == position.sequence)
                except FileNotFoundError:  # merged into a larger one meanwhile
                    continue
                found = at["committed_time"].to_physical().head(1).to_list()
            return found == [position.committed_us]

    def frames(self, after: int) -> Iterator[pl.DataFrame]:
        """See `Export.frames`."""
        query = (
            "SELECT sequence, committed_us, payload FROM journal WHERE sequence > ? AND sequence <= ?"
            " AND first_us <= last_us ORDER BY sequence LIMIT ?"
        )
        held: list[tuple[int, int, Columns]] = []
        while True:
            page = self._database.rows(query, (after, self._through, _PAGE_RECORDS))
            file = self._file_behind(after)  # asked for last: what the page no longer has is in a file
            if file is not None and file.first <= self._through:
                if held:
                    yield self._counted(held)
                    held = []
                with contextlib.suppress(FileNotFoundError):  # merged into a larger one meanwhile
                    frame = self._history.frame(file)
                    yield self._kept(frame.filter(pl.col("sequence").is_between(after + 1, self._through)))
                    after = file.last
                continue
            held += self._observed(page)
            if held and (not page or sum(len(columns) for *_, columns in held) >= _ROWS):
                yield self._counted(held)
                held = []
            if not page:
                return
            after = int(page[-1][0])

    def attributes(self, after: int) -> Iterator[tuple[str, Mapping[str, float], Mapping[str, str]]]:
        """See `Export.attributes`."""
        query = (
            "SELECT series_id, named FROM attributes AS one WHERE series_id > ? AND sequence ="
            " (SELECT max(sequence) FROM attributes WHERE series_id = one.series_id)"
            " AND sequence > ? ORDER BY series_id LIMIT ?"
        )
        behind = ""
        while page := self._database.rows(query, (behind, after, _PAGE_ATTRIBUTES)):
            for name, named in page:
                numbers, categories = json.loads(named)
                yield name, numbers, categories
            behind = page[-1][0]

    def close(self) -> None:
        """See `Export.close`."""
        self._database.close()

    def _check(self) -> None:
        version = self._database.rows("PRAGMA user_version")[0][0]
        if version != VERSION:
            path = self._database.path
            raise StorageError(f"{path} is of version {version}, not {VERSION}: start a server of today with it first")

    def _file_behind(self, sequence: int) -> Any:
        return next((file for file in self._history.files() if file.last > sequence), None)

    def _observed(self, page: list[Any]) -> list[tuple[int, int, Columns]]:
        found = []
        for sequence, committed_us, payload in page:
            record = decoded(self._database, sequence, payload)
            if isinstance(record, Columns):
                found.append((int(sequence), int(committed_us), record))
        return found

    def _counted(self, records: list[tuple[int, int, Columns]]) -> pl.DataFrame:
        return self._kept(frame_of(records))

    def _kept(self, frame: pl.DataFrame) -> pl.DataFrame:
        return without_deleted(frame, self._deleted)


def deletions(waiting: list[Any]) -> pl.DataFrame:
    """Return rows of (series, sequence of its deletion) as a frame."""
    return pl.DataFrame(waiting, schema={"unique_id": pl.String, "deleted": pl.Int64}, orient="row")


def without_deleted(frame: pl.DataFrame, deleted: pl.DataFrame) -> pl.DataFrame:
    """Return the rows that came after their series' deletion, if it was deleted."""
    if deleted.is_empty():
        return frame
    rows = frame.join(deleted, on="unique_id", how="left", maintain_order="left")
    return rows.filter(pl.col("deleted").is_null() | (pl.col("sequence") > pl.col("deleted"))).drop("deleted")
