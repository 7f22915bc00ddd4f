"""Opens the storage that `--serving.state` names."""

import importlib
import logging
import pathlib
import sqlite3
import urllib.parse

from forecaster.config import DurabilityName
from forecaster.durable_files import make_folder, sync_folder
from forecaster.errors import StorageError
from forecaster.serving.sqlite_storage import SqliteStorage, own
from forecaster.serving.storage import Storage
from forecaster.serving.volatile_storage import VolatileStorage

_LOG = logging.getLogger(__name__)
SQLITE = "sqlite:///"
POSTGRES = ("postgresql://", "postgres://")


def open_storage(
    state: str,
    durability: DurabilityName,
    name: str = "",
    *,
    lease_seconds: float = 15.0,
    lease_wait_seconds: float | None = None,
    accepted_loss: int | None = None,
) -> Storage:
    """Open the storage of one registered model, made if need be.

    Args:
        state: a folder, a sqlite:/// URL of a folder or of an older version's file, or a postgresql:// URL.
        durability: `commit` syncs at every append, `interval` when `sync` is called, `none` keeps nothing.
        name: the registered model's; its files are in a subfolder of that name.
        lease_seconds: how long another server waits for a shared database after this one has gone silent.
        lease_wait_seconds: how long this one waits for another's lease; see `open_postgres`.
        accepted_loss: go on although records up to this one, which was acknowledged, are not all there.

    Raises StorageError if it is in use by another process, cannot be written, is not a journal, or ends before what
    was acknowledged.
    """
    if durability == "none":
        return VolatileStorage()
    if state.startswith(POSTGRES):
        backend = importlib.import_module("forecaster.serving.postgres_storage")  # its driver is not needed elsewhere
        lease = {"lease_seconds": lease_seconds, "lease_wait_seconds": lease_wait_seconds}
        shared: Storage = backend.open_postgres(state, durability, name, accepted_loss=accepted_loss, **lease)
        return shared
    if "://" in state and not state.startswith(SQLITE):
        raise StorageError(f"state {state!r} is not supported: give a folder, a sqlite:/// or a postgresql:// URL")
    path = pathlib.Path(state.removeprefix(SQLITE))
    older = path / "journal.db"
    if state.startswith(SQLITE) and (path.suffix == ".db" or path.is_file()):
        older, path = path, path.parent if path.name == "journal.db" else path.with_suffix("")
    folder = path / quoted(name) if name else path
    _take_over(older, folder / "journal.db")
    return SqliteStorage.open(folder, durability, accepted_loss=accepted_loss)


def quoted(name: str) -> str:
    """Return a model's name as the name of a folder."""
    plain = urllib.parse.quote(name, safe=" ")
    return plain.replace(".", "%2E") if plain.startswith(".") else plain


def _take_over(older: pathlib.Path, path: pathlib.Path) -> None:
    """Move an older version's journal, which knew no models' names, to its place of today."""
    if older == path or not older.is_file():
        return
    if path.exists():
        _LOG.warning("%s is not used any more: %s is; move it elsewhere", older, path)
        return
    with own(older):
        try:
            database = sqlite3.connect(older)
            try:
                if database.execute("PRAGMA user_version").fetchone()[0] != 1:
                    return  # a storage without a model's name
                database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            finally:
                database.close()
            make_folder(path.parent)
            older.rename(path)
            sync_folder(path.parent)
        except (OSError, sqlite3.Error) as error:
            raise StorageError(
                f"{older}: cannot be moved to {path}: {error}; check permissions and the file"
            ) from error
    _LOG.info("%s is now %s", older, path)
