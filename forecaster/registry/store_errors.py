"""What goes wrong between us and a model store, as one line that says which store and shows no password.

Knows what MLflow and databases raise; knows nothing of what a store holds.
"""

import contextlib
import pathlib
import re
from collections.abc import Iterator

from forecaster.config import TrackingConfig
from forecaster.errors import UnavailableError
from forecaster.registry.store_uri import sqlite_path, without_password, without_secrets

_CONNECT_SECONDS = 10
_ADVICE = re.compile(r"\s*\(Background on this error at: .*?\)")


@contextlib.contextmanager
def store_errors(config: TrackingConfig) -> Iterator[None]:
    """Turn what goes wrong between the block and the store into one line; raises UnavailableError."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError, ImportError) as error:
        raise unavailable(config, error) from error


def unavailable(config: TrackingConfig, error: BaseException) -> UnavailableError:
    """Return what is said of a store that cannot be used: the first line of an error, without what is secret in it."""
    lines = _ADVICE.sub("", str(error)).strip().splitlines() or [type(error).__name__]
    said = without_secrets(lines[0], config.uri)
    message = f"the model store {without_password(config.uri)} cannot be used: {said}"
    return UnavailableError(message).told_as("the model store cannot be used now: try again later")


def require_reachable(config: TrackingConfig) -> None:
    """Connect to a store in a database, once: MLflow tries eleven times in 110 seconds, and says nothing meanwhile.

    Raises UnavailableError if that is not possible.
    """
    path = sqlite_path(config.uri)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)  # as MLflow does
    if not re.match(r"(sqlite|postgresql|postgres|mysql|mssql)(\+\w+)?:", config.uri):
        return
    import sqlalchemy

    kind = config.uri.partition(":")[0]
    options = {"connect_args": {"connect_timeout": _CONNECT_SECONDS}} if kind.startswith("postgresql") else {}
    engine = sqlalchemy.create_engine(config.uri, poolclass=sqlalchemy.NullPool, **options)
    try:
        with engine.connect() as connection:
            if path is not None:
                connection.exec_driver_sql("PRAGMA schema_version")  # opens it; reading may be all that is allowed
    finally:
        engine.dispose()


@contextlib.contextmanager
def no_empty_folder(config: TrackingConfig) -> Iterator[None]:
    """Let MLflow, which makes the folder of a SQLite store as it stands in the address, leave none of that name."""
    literal = pathlib.Path(config.uri.removeprefix("sqlite:///").partition("?")[0]).parent
    known = sqlite_path(config.uri) is None or literal.exists()
    try:
        yield
    finally:
        if not known:
            with contextlib.suppress(OSError):
                literal.rmdir()
