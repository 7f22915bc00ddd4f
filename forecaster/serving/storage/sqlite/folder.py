"""Where the files of a model lie, by the address of a state."""

import logging
import pathlib
import sqlite3
import urllib.parse

from forecaster.durable_files import make_folder, sync_folder
from forecaster.errors import StorageError
from forecaster.serving.storage.export import chosen
from forecaster.serving.storage.sqlite.storage import own

SQLITE = "sqlite:///"
JOURNAL = "journal.db"
_LOG = logging.getLogger(__name__)


def quoted(name: str) -> str:
    """Return a model's name as the name of a folder."""
    plain = urllib.parse.quote(name, safe=" ")
    return plain.replace(".", "%2E") if plain.startswith(".") else plain


def folder_of(state: str, model: str) -> pathlib.Path:
    """Return the folder of a model's files; raises StorageError if there is no journal, or no saying which."""
    if "://" in state and not state.startswith(SQLITE):
        raise StorageError(f"state {state!r} is not supported: give a folder, a sqlite:/// or a postgresql:// URL")
    path = pathlib.Path(state.removeprefix(SQLITE)).expanduser()
    if path.suffix == ".db":  # as `open_storage` takes it
        path = path.parent if path.name == JOURNAL else path.with_suffix("")
    folders = {urllib.parse.unquote(database.parent.name): database.parent for database in path.glob(f"*/{JOURNAL}")}
    if (path / JOURNAL).is_file():  # a storage without a model's name
        folders[""] = path
    name = chosen(model, list(folders), str(path))
    return path / quoted(model) if name == model else folders[name]


def take_over(older: pathlib.Path, path: pathlib.Path) -> None:
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
