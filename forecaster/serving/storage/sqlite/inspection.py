"""Whether all that a model's files hold is what was written; see `forecaster.serving.storage.inspection`."""

import contextlib
import pathlib
from collections.abc import Callable

from forecaster.errors import BundleError, StorageError
from forecaster.model.bundle import Bundle
from forecaster.serving.storage.inspection import MOST_TOLD, Inspection
from forecaster.serving.storage.records import Snapshot
from forecaster.serving.storage.sqlite.database import ReadOnly
from forecaster.serving.storage.sqlite.high_water_mark import read_mark
from forecaster.serving.storage.sqlite.history_ledger import Ledger
from forecaster.serving.storage.sqlite.history_reader import HistoryReader
from forecaster.serving.storage.sqlite.schema import LAST_SEQUENCE, VERSION
from forecaster.serving.storage.sqlite.snapshots import HIGHEST

_PAGE = 256


def inspect_folder(folder: pathlib.Path) -> Inspection:
    """Look at everything that the folder of a model holds; raises StorageError if nothing can be read at all."""
    found = Inspection(str(folder))
    known = read_mark(folder / "journal.mark") or 0  # first: a running server raises it behind each commit
    known = max(known, _look(found, folder / "snapshots.db", _inspect_snapshots))
    found.check_end(_look(found, folder / "journal.db", _inspect_journal), known)
    _look(found, folder / "journal.db", _inspect_history)
    _look(found, folder / "journal.db", _inspect_bundle)
    return found


def _look(found: Inspection, path: pathlib.Path, look: Callable[[Inspection, ReadOnly], int]) -> int:
    """Return what `look` returns of a database's file, 0 if there is none or it cannot be read to the end."""
    if not path.is_file():
        found.wrong.append(f"{path.name} is gone")
        return 0
    database = ReadOnly(path)
    try:
        return look(found, database)
    except StorageError as error:
        found.wrong.append(str(error))
        return 0
    finally:
        database.close()


def _inspect_journal(found: Inspection, database: ReadOnly) -> int:
    """Look at every page and record; return the last sequence."""
    version = database.rows("PRAGMA user_version")[0][0]
    if version != VERSION:
        raise StorageError(f"journal.db is of version {version}, not {VERSION}: start a server of today with it first")
    _check_pages(found, database)
    end, after = int(database.rows(LAST_SEQUENCE)[0][0]), 0
    query = "SELECT sequence, payload FROM journal WHERE sequence > ? ORDER BY sequence LIMIT ?"
    while page := database.rows(query, (after, _PAGE)):
        for sequence, payload in page:
            found.check_record(sequence, payload)
        after = int(page[-1][0])
    return max(end, after)


def _inspect_snapshots(found: Inspection, database: ReadOnly) -> int:
    """Look at every page and snapshot; return the last sequence that they know of."""
    highest, after = int(database.rows(HIGHEST)[0][0]), -(2**63)
    _check_pages(found, database)
    query = "SELECT rowid, series_id, sequence, state, checksum FROM snapshots WHERE rowid > ? ORDER BY rowid LIMIT ?"
    while page := database.rows(query, (after, _PAGE)):
        for _, *row in page:
            found.check_snapshot(Snapshot(*row))
        after = int(page[-1][0])
    return highest


def _check_pages(found: Inspection, database: ReadOnly) -> None:
    wrong = [row[0] for row in database.rows(f"PRAGMA quick_check({MOST_TOLD})")]
    found.wrong += [f"{database.path.name}: {one}" for one in wrong if one != "ok"]


def _inspect_history(found: Inspection, database: ReadOnly) -> int:
    """Look at every file of the history; return how many there are."""
    history = HistoryReader(database.path.parent / "history", Ledger(database))
    seen: set[str] = set()
    while new := [file for file in history.files() if file.path.name not in seen]:  # some may be merged meanwhile
        seen.add(new[0].path.name)
        with contextlib.suppress(FileNotFoundError):
            wrong = history.damage(new[0])
            found.count("history files")
            found.wrong += [wrong] if wrong else []
    return len(seen)


def _inspect_bundle(found: Inspection, database: ReadOnly) -> int:
    """Look at the served model as it is kept with its states, if it is."""
    for (fingerprint,) in database.rows("SELECT fingerprint FROM active"):
        folder = database.path.parent / "bundles" / fingerprint
        if folder.is_dir():
            found.count("models")
            try:
                wrong = "" if Bundle.load(folder).fingerprint == fingerprint else f"{folder} is another model"
            except BundleError as error:
                wrong = str(error)
            found.wrong += [wrong] if wrong and folder.is_dir() else []  # else another one was activated meanwhile
    return 0
