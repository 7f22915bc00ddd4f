"""One thread's work on PostgreSQL: queries, and writes that hold only while this server owns its shard.

Each write checks the fencing token in its own transaction: one of a server that was replaced is refused, however late.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import psycopg
from psycopg.pq import TransactionStatus

from forecaster.errors import StorageError
from forecaster.serving.storage.postgres.connection import Database
from forecaster.serving.storage.postgres.lease import Lease
from forecaster.serving.storage.postgres.schema import FENCED

T = TypeVar("T")
Values = Sequence[Any] | None
_CHECK = "SELECT forecaster.check_lease(%s, %s)"


class OutcomeUnknownError(StorageError):
    """The connection broke before the answer to a commit: the write may be kept. The next one will know."""


class Session:
    """A connection, made anew when it broke.

    Args:
        database: where to.
        lease: of the shard, shared by all sessions of the process.
    """

    def __init__(self, database: Database, lease: Lease) -> None:
        self.database, self._lease = database, lease
        self._connection: psycopg.Connection | None = None
        self._name = ""

    @property
    def shard(self) -> str:
        """Whose rows these are."""
        return self._lease.shard

    def beside(self) -> "Session":
        """Return another one, for another thread."""
        return Session(self.database, self._lease)

    def check(self) -> None:
        """Raise FencedError if the lease is known to be lost."""
        self._lease.check()

    def rows(self, query: str, values: Values) -> list[tuple[Any, ...]]:
        """Return a query's rows, on a new connection if the old one broke; raises FencedError and StorageError."""
        for last in (False, True):
            try:
                return self._connected().execute(query, values, binary=True).fetchall()
            except psycopg.Error as error:
                if not self._is_broken() or last:
                    self._drop_if_broken()
                    raise self.database.failed("read", error) from error
                self.close()
        raise AssertionError("unreachable")

    def send(self, *statements: tuple[str, Values]) -> None:
        """Execute statements in one transaction and one round trip, so that nothing waits for this process in between.

        Raises FencedError, OutcomeUnknownError, and StorageError if nothing of it was done.
        """

        def execute(connection: psycopg.Connection, token: int) -> None:
            fenced = (("BEGIN", None), (_CHECK, (self.shard, token)), *statements, ("COMMIT", None))
            with connection.pipeline():
                for query, values in fenced:
                    connection.execute(query, values)

        self._fenced(execute)

    def write(self, work: Callable[[psycopg.Connection], T]) -> T:
        """Return what `work` returns, done in one transaction; for work that looks at results. Raises as `send`."""

        def execute(connection: psycopg.Connection, token: int) -> T:
            with connection.transaction():
                connection.execute(_CHECK, (self.shard, token))
                return work(connection)

        return self._fenced(execute)

    def vacuum(self, tables: Iterable[str], *, full_below_bytes: int) -> None:
        """Vacuum tables, those below a size fully; raises StorageError."""
        try:
            with self.database.connect(self._lease.new_name()) as connection:
                connection.execute("SET lock_timeout = '1s'")  # others queue up behind what waits for a whole table
                for table in tables:
                    found = connection.execute("SELECT pg_total_relation_size(%s)", (table,)).fetchone()
                    full = "(FULL)" if found is not None and found[0] < full_below_bytes else ""
                    connection.execute(f"VACUUM {full} {table}")
        except psycopg.Error as error:
            raise self.database.failed("vacuumed", error) from error

    def close(self) -> None:
        """Close the connection; the next query makes a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _fenced(self, execute: Callable[[psycopg.Connection, int], T]) -> T:
        while True:
            try:
                connection = self._connected()
                token = self._lease.token(connection)
            except psycopg.Error as error:
                self._drop_if_broken()
                raise self.database.failed("written", error) from error
            try:
                return execute(connection, token)
            except psycopg.Error as error:
                self._roll_back()
                if self._is_broken():
                    raise OutcomeUnknownError(str(self.database.failed("written", error))) from error
                if error.sqlstate != FENCED:
                    raise self.database.failed("written", error) from error
            finally:
                if self._is_broken():
                    self._lease.distrust(self._name)
                    self.close()
            self._refused(connection)

    def _refused(self, connection: psycopg.Connection) -> None:
        """Raise FencedError, or return if another session had to raise the token in between."""
        try:
            self._lease.refused(connection)
        except psycopg.Error as error:
            self._drop_if_broken()
            raise self.database.failed("written", error) from error

    def _roll_back(self) -> None:
        if self._connection is not None and self._connection.info.transaction_status == TransactionStatus.INERROR:
            try:
                self._connection.execute("ROLLBACK")
            except psycopg.Error:
                self._connection.close()

    def _connected(self) -> psycopg.Connection:
        self._lease.check()
        if self._connection is None:
            self._name = self._lease.new_name()
            self._connection = self.database.connect(self._name)
        return self._connection

    def _is_broken(self) -> bool:
        """Whether the connection is not at rest: the end of its transaction was not seen."""
        connection = self._connection
        at_rest = TransactionStatus.IDLE
        return connection is not None and (connection.closed or connection.info.transaction_status != at_rest)

    def _drop_if_broken(self) -> None:
        if self._is_broken():
            self.close()
