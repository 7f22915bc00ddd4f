"""The end of a journal in a folder, compared with the other places that know it: the mark beside it, and snapshots.

Looked at before anything is opened for writing: opening and closing would throw away what a damaged log still holds.
"""

import contextlib
import pathlib
from collections.abc import Callable

from forecaster.config import DurabilityName
from forecaster.errors import StorageError
from forecaster.serving.storage.journal_end import check_end
from forecaster.serving.storage.sqlite.database import Database, ReadOnly
from forecaster.serving.storage.sqlite.high_water_mark import HighWaterMark
from forecaster.serving.storage.sqlite.history import History
from forecaster.serving.storage.sqlite.schema import LAST_SEQUENCE, mark, raise_mark
from forecaster.serving.storage.sqlite.snapshots import HIGHEST, SqliteSnapshots


def check_folder(
    folder: pathlib.Path, high_water: HighWaterMark, *, durability: DurabilityName, accepted: int | None
) -> None:
    """Raise what `check_end` raises, and StorageError if the journal cannot be read; nothing is written."""
    path = folder / "journal.db"
    known = max(high_water.value, _of_snapshots(folder / "snapshots.db"))
    check_end(str(path), lambda: _end_of(path, folder), known, durability=durability, accepted=accepted)


def settle(database: Database, snapshots: SqliteSnapshots, high_water: HighWaterMark, *, end: int) -> None:
    """Begin behind all that was ever acknowledged, though the journal ends before it: no sequence is given twice.

    Snapshots of what is lost go, since their series are folded from what is left. Where what is left does not reach
    back to the first record, they are all that there is, and stay: nothing before them is read any more.
    """
    known = max(high_water.value, snapshots.highest())
    if known <= end:
        return
    if mark(database, "dropped") == 0 and end > 0:
        snapshots.forget_after(end)
        names: tuple[str, ...] = ("last",)
    else:
        snapshots.complete_all(known)
        names = ("last", "pruned", "dropped")
    snapshots.sync()
    with database.transaction() as connection:
        for name in names:
            raise_mark(connection, name, known)
    database.sync()


def _end_of(path: pathlib.Path, folder: pathlib.Path) -> int:
    """Return the last sequence of what can be read of a journal and its history, 0 if there is neither."""
    files = History(folder / "history").files()
    last = files[-1].last if files else 0
    if not path.is_file() or path.stat().st_size == 0:
        return last
    return max(last, _read(path, lambda database: int(database.rows(LAST_SEQUENCE)[0][0])))


def _of_snapshots(path: pathlib.Path) -> int:
    """Return the last sequence that snapshots know of, 0 if there are none or they cannot be read."""
    if path.is_file():
        with contextlib.suppress(StorageError):
            return _read(path, lambda database: int(database.rows(HIGHEST)[0][0]))
    return 0


def _read(path: pathlib.Path, read: Callable[[ReadOnly], int]) -> int:
    database = ReadOnly(path)
    try:
        return read(database) if database.rows("PRAGMA user_version")[0][0] else 0
    finally:
        database.close()
