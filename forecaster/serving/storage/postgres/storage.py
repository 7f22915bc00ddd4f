"""PostgreSQL as storage: everything that another machine needs to go on is in the database, nothing is beside it.

Needs psycopg, the optional dependency `postgres`; imported only where `--serving.state` is a PostgreSQL URL.
"""

from forecaster.config import DurabilityName
from forecaster.errors import ConfigError

try:
    import psycopg
except ImportError as missing:
    raise ConfigError(
        "--serving.state postgresql://… needs psycopg, which is not installed: pip install 'psycopg[binary]'"
    ) from missing

from forecaster.serving.storage.postgres import schema as postgres_schema
from forecaster.serving.storage.postgres.connection import Database
from forecaster.serving.storage.postgres.fenced_session import Session
from forecaster.serving.storage.postgres.head import JournalHead, read_head
from forecaster.serving.storage.postgres.journal import PostgresJournal
from forecaster.serving.storage.postgres.lease import Lease
from forecaster.serving.storage.postgres.snapshots import PostgresSnapshots

SCHEMES = ("postgresql://", "postgres://")


class PostgresStorage:
    """See `forecaster.serving.storage.contract.Storage`.

    Args:
        session: of the thread that uses it.
        head: the end of the journal.
        lease: given back by `close`; None leaves that to another storage of the same owner.
        accepted_loss: see `Storage.accepted_loss`.
    """

    def __init__(self, session: Session, head: JournalHead, lease: Lease | None, accepted_loss: int = 0) -> None:
        self._session, self._head, self._lease, self.accepted_loss = session, head, lease, accepted_loss
        self._journal, self._snapshots = PostgresJournal(session, head), PostgresSnapshots(session, head)

    @property
    def journal(self) -> PostgresJournal:
        """The journal."""
        return self._journal

    @property
    def snapshots(self) -> PostgresSnapshots:
        """The snapshots."""
        return self._snapshots

    @property
    def keeps_records(self) -> bool:
        """See `Storage.keeps_records`."""
        return True

    def beside(self) -> "PostgresStorage":
        """See `Storage.beside`; all of them write under the one lease."""
        return PostgresStorage(self._session.beside(), self._head, None)

    def check(self) -> None:
        """See `Storage.check`: the lease's own thread asks."""
        self._session.check()

    def damaged(self) -> list[str]:
        """See `Storage.damaged`: the database answers for its own files."""
        return []

    def close(self) -> None:
        """Close the connection, and give the lease back if this storage took it; another server may take it at once."""
        if self._lease is not None:
            self._journal.settle()
        self._session.close()
        if self._lease is not None:
            self._lease.close()


def open_postgres(
    url: str,
    durability: DurabilityName,
    name: str,
    *,
    lease_seconds: float = 15.0,
    lease_wait_seconds: float | None = None,
    accepted_loss: int | None = None,
) -> PostgresStorage:
    """Open a registered model's storage and own it until `close`.

    Args:
        url: `postgresql://user@host:port/database`.
        durability: `commit` waits for the disk at every append, `interval` when `sync` is called.
        name: the registered model's.
        lease_seconds: how long others have to wait after this process has gone silent.
        lease_wait_seconds: how long to wait for another server's lease; None: until it runs out, but no longer than
            until that server renews it.
        accepted_loss: go on although records up to this one, which was acknowledged, are not all there.

    Raises ConfigError if the URL is none, and StorageError if the database cannot be used, another server has it, or
    the journal ends before what was acknowledged.
    """
    database = Database(url, synchronous=durability == "commit")
    try:
        with database.connect("forecaster start") as connection:
            postgres_schema.prepare(connection, database.label)
        lease = Lease(database, name, lease_seconds=lease_seconds, wait_seconds=lease_wait_seconds)
    except psycopg.Error as error:
        raise database.failed("opened", error) from error
    session = Session(database, lease)
    try:
        head = read_head(session, durability=durability, accepted_loss=accepted_loss)
        return PostgresStorage(session, head, lease, accepted_loss or 0)
    except BaseException:
        session.close()
        lease.close()
        raise
