"""Whether all that a state holds is what was written: `forecaster verify-state`, beside a running server too.

Reads everything and writes nothing. Knows records, snapshots and files; knows nothing of what is made of them.
"""

import contextlib
import importlib
import pathlib
from collections.abc import Callable
from dataclasses import dataclass, field

from forecaster.errors import BundleError, StorageError
from forecaster.model.bundle import Bundle
from forecaster.serving.export import folder_of
from forecaster.serving.high_water_mark import read_mark
from forecaster.serving.history_ledger import Ledger
from forecaster.serving.history_reader import HistoryReader
from forecaster.serving.opening import POSTGRES
from forecaster.serving.records import Snapshot, decode
from forecaster.serving.sqlite_database import ReadOnly
from forecaster.serving.sqlite_schema import LAST_SEQUENCE, VERSION
from forecaster.serving.sqlite_snapshots import HIGHEST

_PAGE = 256
_MOST_TOLD = 20


@dataclass(slots=True)
class Inspection:
    """What was looked at, and what is wrong with it.

    Args:
        place: of the state, as it may be shown.
        looked_at: how much of what.
        wrong: a sentence for each fault.
    """

    place: str
    looked_at: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def count(self, what: str, number: int = 1) -> None:
        """Add to what was looked at."""
        self.looked_at[what] = self.looked_at.get(what, 0) + number

    def check_record(self, sequence: int, payload: bytes) -> None:
        """Look at a record."""
        self.count("records")
        try:
            decode(payload)
        except ValueError as error:
            self.wrong.append(f"record {sequence} is corrupted: {error}")

    def check_snapshot(self, snapshot: Snapshot) -> None:
        """Look at a snapshot."""
        self.count("snapshots")
        if not snapshot.is_whole:
            self.wrong.append(f"the snapshot of series {snapshot.series_id!r} is corrupted")

    def check_end(self, end: int, known: int) -> None:
        """Compare the journal's end with what is known of it."""
        if known > end:
            self.wrong.append(f"the journal ends with record {end}, but records up to {known} were acknowledged")

    def report(self) -> str:
        """Return it as lines for a person."""
        looked_at = ", ".join(f"{number:,} {what}" for what, number in self.looked_at.items()) or "nothing"
        if not self.wrong:
            return f"{self.place}: {looked_at}: all as it was written"
        told = [f"  {one}" for one in self.wrong[:_MOST_TOLD]]
        rest = len(self.wrong) - len(told)
        more = [f"  and {rest} more"] if rest else []
        return "\n".join((f"{self.place}: {looked_at}: {len(self.wrong)} faults", *told, *more))


def inspect(state: str, model: str) -> Inspection:
    """Look at everything that a state holds of a model.

    Args:
        state: as `--serving.state` has it.
        model: the registered model; another one is taken if the state holds only that.

    Raises StorageError if there is no journal, or nothing can be read at all.
    """
    if state.startswith(POSTGRES):
        backend = importlib.import_module("forecaster.serving.postgres_inspection")  # its driver may be missing
        shared: Inspection = backend.inspect_database(state, model)
        return shared
    folder = folder_of(state, model)
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
    wrong = [row[0] for row in database.rows(f"PRAGMA quick_check({_MOST_TOLD})")]
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
