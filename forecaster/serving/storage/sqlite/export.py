"""A journal and its history in SQLite files, read from outside; see `forecaster.serving.storage.export`."""

import contextlib
import json
import pathlib
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl

from forecaster.errors import StorageError
from forecaster.serving.storage.export import Position, deletions, without_deleted
from forecaster.serving.storage.history_frames import frame_of
from forecaster.serving.storage.records import Columns
from forecaster.serving.storage.sqlite.database import ReadOnly
from forecaster.serving.storage.sqlite.folder import JOURNAL
from forecaster.serving.storage.sqlite.history_ledger import Ledger
from forecaster.serving.storage.sqlite.history_reader import HistoryReader
from forecaster.serving.storage.sqlite.schema import LAST_SEQUENCE, VERSION, decoded

_PAGE_RECORDS, _PAGE_ATTRIBUTES = 64, 4096
_ROWS = 262_144  # of one frame, about


class SqliteExport:
    """See `Export`.

    Args:
        folder: of one model.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self._model = urllib.parse.unquote(folder.name)
        self._database = ReadOnly(folder / JOURNAL)
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
