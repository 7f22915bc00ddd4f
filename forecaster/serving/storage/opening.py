"""What `--serving.state` names, opened: to be served, to be read from outside, to be looked through.

PostgreSQL's driver is loaded only where it is needed.
"""

import pathlib

from forecaster.config import DurabilityName
from forecaster.errors import StorageError
from forecaster.serving.storage.contract import Storage
from forecaster.serving.storage.export import Export
from forecaster.serving.storage.inspection import Inspection
from forecaster.serving.storage.sqlite.export import SqliteExport
from forecaster.serving.storage.sqlite.folder import SQLITE, folder_of, quoted, take_over
from forecaster.serving.storage.sqlite.inspection import inspect_folder
from forecaster.serving.storage.sqlite.storage import SqliteStorage
from forecaster.serving.storage.volatile import VolatileStorage

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
        from forecaster.serving.storage.postgres.storage import open_postgres

        return open_postgres(
            state,
            durability,
            name,
            lease_seconds=lease_seconds,
            lease_wait_seconds=lease_wait_seconds,
            accepted_loss=accepted_loss,
        )
    if "://" in state and not state.startswith(SQLITE):
        raise StorageError(f"state {state!r} is not supported: give a folder, a sqlite:/// or a postgresql:// URL")
    path = pathlib.Path(state.removeprefix(SQLITE))
    older = path / "journal.db"
    if state.startswith(SQLITE) and (path.suffix == ".db" or path.is_file()):
        older, path = path, path.parent if path.name == "journal.db" else path.with_suffix("")
    folder = path / quoted(name) if name else path
    take_over(older, folder / "journal.db")
    return SqliteStorage.open(folder, durability, accepted_loss=accepted_loss)


def open_export(state: str, model: str) -> Export:
    """Open a server's state for reading.

    Args:
        state: as `--serving.state` has it.
        model: the registered model; another one is taken if the state holds only that.

    Raises StorageError if there is no journal, or it cannot be read.
    """
    if state.startswith(POSTGRES):
        from forecaster.serving.storage.postgres.export import PostgresExport

        return PostgresExport(state, model)
    return SqliteExport(folder_of(state, model))


def inspect(state: str, model: str) -> Inspection:
    """Look at everything that a state holds of a model.

    Args:
        state: as `--serving.state` has it.
        model: the registered model; another one is taken if the state holds only that.

    Raises StorageError if there is no journal, or nothing can be read at all.
    """
    if state.startswith(POSTGRES):
        from forecaster.serving.storage.postgres.inspection import inspect_database

        return inspect_database(state, model)
    return inspect_folder(folder_of(state, model))
