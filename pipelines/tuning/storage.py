"""Where a study is kept: a journal file, or a database that several machines can share.

Knows Optuna's storages and what goes wrong with them; knows nothing of trials.
"""

import contextlib
import fcntl
import os
import pathlib
import time
import warnings
from collections.abc import Iterator

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock
from sqlalchemy.exc import ArgumentError, IntegrityError, ProgrammingError, SQLAlchemyError

from forecaster.durable_files import make_folder
from forecaster.errors import ConfigError, UnavailableError
from forecaster.registry.store_uri import without_password, without_secrets

_TABLES_TRIES, _TABLES_WAIT_SECONDS = 5, 0.5
_DRIVERS = {"postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}


@contextlib.contextmanager
def open_study(storage: str, name: str, *, startup: int) -> Iterator[optuna.Study]:
    """Give a study, which is made if need be, whose trials are cut short for being worse than the median.

    Whatever goes wrong with its storage within the block is an error of one line.

    Args:
        storage: a database's URL, or the path of a journal file.
        name: of the study.
        startup: trials before any is cut short; none is in its first epoch.

    Raises:
        ConfigError: the URL is none, or its database's driver is not installed.
        UnavailableError: the file or the database cannot be used.
    """
    pruner = optuna.pruners.MedianPruner(n_startup_trials=startup, n_warmup_steps=2)
    with _storage_errors(storage), _quiet_optuna(), contextlib.ExitStack() as stack:
        if "://" in storage:
            database = _database(storage)
            stack.callback(database.engine.dispose)
            stack.callback(database.remove_session)
            kept: BaseStorage = database
        else:
            kept = _journal(pathlib.Path(storage))
        yield optuna.create_study(storage=kept, study_name=name, load_if_exists=True, pruner=pruner)


@contextlib.contextmanager
def _storage_errors(storage: str) -> Iterator[None]:
    """Turn what goes wrong between here and a study's storage into one line."""
    shown = without_password(storage)
    try:
        yield
    except ImportError as error:
        raise ConfigError(f"tuning.storage={shown} needs {error.name}: pip install 'psycopg[binary]'") from error
    except ArgumentError as error:
        raise ConfigError(f"tuning.storage={shown} is no URL of a database, nor a file") from error
    except (SQLAlchemyError, OSError, optuna.exceptions.StorageInternalError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UnavailableError(f"the study in {shown} cannot be used: {without_secrets(lines[0], storage)}") from error


@contextlib.contextmanager
def _quiet_optuna() -> Iterator[None]:
    """Silence what Optuna says of every trial, and of what it calls experimental or will change one day."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", category=FutureWarning, module="optuna")
        try:
            yield
        finally:
            optuna.logging.set_verbosity(before)


class _FileLock(BaseJournalFileLock):
    """A lock that the system takes back from a process that ends, however it ends; Optuna's own stand for 30 s then."""

    def __init__(self, journal: pathlib.Path) -> None:
        self._path = journal.with_name(journal.name + ".lock")
        self._held: int | None = None

    def acquire(self) -> bool:
        handle = os.open(self._path, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except BaseException:
            os.close(handle)
            raise
        self._held = handle
        return True

    def release(self) -> None:
        assert self._held is not None
        os.close(self._held)
        self._held = None


def _journal(path: pathlib.Path) -> BaseStorage:
    path = path.resolve()
    make_folder(path.parent)
    lock = _FileLock(path)
    lock.acquire()
    try:
        _cut_torn_line(path)
        backend = JournalFileBackend(str(path), lock)
    finally:
        lock.release()
    return JournalStorage(backend)


def _cut_torn_line(path: pathlib.Path) -> None:
    """Remove half a line that a power cut left at the end: one more behind it, and nobody could read the journal."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            file.truncate(whole)


def _database(url: str) -> RDBStorage:
    scheme, _, rest = url.partition("://")
    url = f"{_DRIVERS.get(scheme, scheme)}://{rest}"
    tries = 0
    while True:
        try:
            return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
        except (IntegrityError, ProgrammingError):  # another process makes the same tables at the same time
            tries += 1
            if tries == _TABLES_TRIES:
                raise
            time.sleep(_TABLES_WAIT_SECONDS)
