"""A storage's life with a kill -9 in it: `python -m tests.unit.serving.crashing FOLDER` lives it again and again.

The n-th life, in FOLDER/n/state, is killed before its n-th write: a statement that writes, a rename, an fsync, a
removal. FOLDER/n/acknowledged grows by a byte at every step that was answered. The last life ends by itself.
"""

import os
import pathlib
import re
import signal
import sqlite3
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from forecaster.serving.storage.contract import Activation, Storage
from forecaster.serving.storage.records import Attributes, Deletion, Record, Snapshot
from forecaster.serving.storage.sqlite.high_water_mark import HighWaterMark
from tests.unit.lives import live_until_one_ends
from tests.unit.serving.folding import BUNDLE
from tests.unit.serving.storages import Opener, columns, erase_all, prune_all, sqlite_opener

GONE, AGAIN, STAYS = "a series that goes", "a series that comes again", "a series that stays"
PRINT = BUNDLE.fingerprint  # of the served model, whose snapshots are not what is looked at


def _bundle_files() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        BUNDLE.save(pathlib.Path(folder))
        return {path.name: path.read_bytes() for path in pathlib.Path(folder).iterdir()}


BUNDLE_FILES = _bundle_files()
Step = tuple[str, tuple[Any, ...]]

STEPS: list[Step] = [
    ("append", (columns((GONE, 1, 1.5), (STAYS, 1, 2.0), (AGAIN, 1, 3.0)), columns((STAYS, 2, 2.5), (GONE, 2, 9.0)))),
    ("append", (Attributes((GONE, STAYS), ({"area": 1.0}, {"area": 2.0}), ({}, {"region": "x"})),)),
    ("append", (columns((STAYS, 3, 3.0), (GONE, 3, 3.5), rain=[1.0, 2.0]),)),
    ("save", ("f", 4, (GONE, STAYS, AGAIN))),
    ("complete", ("f", 4)),
    ("sync", ()),
    ("prune", (2,)),
    ("append", (columns((GONE, 4, 4.5), (AGAIN, 4, 4.0)),)),
    ("append", (Deletion(GONE), Deletion(AGAIN))),
    ("append", (columns((AGAIN, 9, 9.0), (STAYS, 9, 9.5)),)),
    ("save", ("f", 8, (AGAIN, STAYS))),
    ("erase", ()),
    ("keep", (PRINT,)),
    ("activate", (PRINT,)),
    ("prune", (5,)),
    ("append", (columns((STAYS, 10, 10.0)), columns((AGAIN, 10, 11.0)))),
    ("reopen", ()),
    ("prune", (10,)),
    ("append", (Deletion(STAYS),)),
    ("erase", ()),
    ("drop", ("f",)),
    ("append", (columns((AGAIN, 12, 12.0)),)),
]


def take(storage: Storage, step: Step, opener: Opener) -> Storage:
    """Do a step; return the storage to go on with."""
    what, values = step
    if what == "append":
        storage.journal.append(*values)
    elif what == "save":
        fingerprint, sequence, names = values
        storage.snapshots.save(fingerprint, [snapshot(name, sequence) for name in names])
    elif what == "complete":
        storage.snapshots.complete(*values)
    elif what == "sync":
        storage.journal.sync()
        storage.snapshots.sync()
    elif what == "prune":
        prune_all(storage, *values)
    elif what == "erase":
        erase_all(storage)
    elif what == "keep":
        storage.snapshots.keep_bundle(*values, BUNDLE_FILES)
    elif what == "activate":
        storage.snapshots.activate(Activation("1", *values))
    elif what == "drop":
        storage.snapshots.drop(*values)
    else:
        storage.close()
        return opener()
    return storage


def snapshot(name: str, sequence: int) -> Snapshot:
    return Snapshot.of(name, sequence, f"{name} at {sequence}".encode())


def appended(steps: list[Step]) -> list[tuple[int, Record]]:
    """Return what steps appended, with its sequences."""
    records = [record for what, values in steps if what == "append" for record in values]
    return list(enumerate(records, start=1))


class Killer:
    """Kills the process before its n-th write."""

    def __init__(self, at: int) -> None:
        self._left = at

    def count(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self) -> None:
        """Count what SQLite and the system are asked to write."""
        connect = sqlite3.connect
        writes = re.compile(r"BEGIN|COMMIT|INSERT|UPDATE|DELETE|CREATE|DROP|PRAGMA (user_version=|wal_checkpoint)")

        def watched(*args: Any, **options: Any) -> sqlite3.Connection:
            connection = connect(*args, **options)
            connection.set_trace_callback(lambda statement: self.count() if writes.match(statement) else None)
            return connection

        sqlite3.connect = watched  # type: ignore[assignment]
        for holder, name in ((os, "replace"), (os, "fsync"), (os, "unlink"), (os, "rename"), (os, "mkdir")):
            setattr(holder, name, self._counted(getattr(holder, name)))
        HighWaterMark.reach = self._counted(HighWaterMark.reach)  # type: ignore[method-assign]

    def _counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            self.count()
            return function(*args, **options)

        return counted


def live(folder: pathlib.Path, killed_at: int) -> None:
    """Take every step, unless killed before."""
    folder.mkdir()
    answered = os.open(folder / "acknowledged", os.O_CREAT | os.O_WRONLY)
    Killer(killed_at).watch()
    opener = sqlite_opener(folder / "state")
    storage = opener()
    for step in STEPS:
        storage = take(storage, step, opener)
        os.write(answered, b".")
    storage.close()


if __name__ == "__main__":
    live_until_one_ends(pathlib.Path(sys.argv[1]), live)
