"""Connections to PostgreSQL: how they are made, and how their errors are told. Knows nothing of journals or leases."""

import psycopg
from psycopg.conninfo import conninfo_to_dict

from forecaster.errors import ConfigError, StorageError

_DEFAULTS: dict[str, str | int] = {  # where the URL does not say otherwise; a dead machine is noticed in ten seconds
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
_SETTINGS = """
SELECT set_config('synchronous_commit', %s, false), set_config('lock_timeout', '10s', false),
       set_config('idle_in_transaction_session_timeout', '60s', false), set_config('bytea_output', 'hex', false)
"""


class Database:
    """A database by its URL.

    Args:
        url: `postgresql://user@host:port/name`, as libpq takes it; what it leaves out comes from libpq's environment.
        synchronous: whether a commit waits until it is on disk.
    """

    def __init__(self, url: str, *, synchronous: bool) -> None:
        try:
            given = conninfo_to_dict(url)
        except psycopg.ProgrammingError as error:
            raise ConfigError(f"--serving.state is not a PostgreSQL URL: {_line(error)}") from error
        self._url, self._synchronous = url, synchronous
        self._defaults = {name: value for name, value in _DEFAULTS.items() if name not in given}
        user, host = given.get("user"), given.get("host") or "localhost"
        port = f":{given['port']}" if given.get("port") else ""
        self.label = f"postgresql://{f'{user}@' if user else ''}{host}{port}/{given.get('dbname') or ''}"
        """The URL without its password."""

    def connect(self, application_name: str) -> psycopg.Connection:
        """Return a new connection in autocommit; raises psycopg.Error."""
        connection = psycopg.connect(
            self._url,
            autocommit=True,
            application_name=application_name,
            **self._defaults,  # type: ignore[arg-type]
        )
        try:
            connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
            connection.execute(_SETTINGS, ("on" if self._synchronous else "off",))
        except BaseException:
            connection.close()
            raise
        return connection

    def failed(self, verb: str, error: psycopg.Error) -> StorageError:
        """Return the error of a verb such as "written"."""
        return StorageError(f"{self.label}: cannot be {verb}: {_line(error)}; check that the database is up")


def _line(error: psycopg.Error) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
