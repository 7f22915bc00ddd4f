"""Who owns a shard: one server at a time, by a row in the database that it renews, and a token that fences late writes.

The lease says how long others wait for a silent owner, by the database's clock. The token is what keeps the journal
whole: whoever takes the lease raises it, and a write under an older one is refused, however late it comes.
"""

import itertools
import os
import secrets
import socket
import threading
import time

import psycopg

from forecaster.errors import FencedError, StorageError
from forecaster.serving.storage.postgres.connection import Database

_POLL_SECONDS = 0.25
_RETRY_SECONDS = 1.0  # after a renewal that did not reach the database

# A paused owner's sessions may be in the middle of a write, whose lock would have to be waited for without an end.
_END_EXPIRED_SESSIONS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity, forecaster.leases
WHERE shard = %s AND expires_at <= clock_timestamp() AND usename = current_user
  AND starts_with(application_name, 'forecaster ' || right(owner, 16) || ' ')
"""
_END_SESSIONS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = current_user AND application_name = ANY(%s)
"""
_LOCK = "SELECT FROM forecaster.leases WHERE shard = %s FOR UPDATE"
_TAKE = """
UPDATE forecaster.leases
SET token = token + 1, owner = %s, expires_at = clock_timestamp() + make_interval(secs => %s)
WHERE shard = %s AND expires_at <= clock_timestamp() RETURNING token
"""
_RENEW = """
UPDATE forecaster.leases SET expires_at = clock_timestamp() + make_interval(secs => %s) WHERE shard = %s AND owner = %s
"""
_RAISE = "UPDATE forecaster.leases SET token = token + 1 WHERE shard = %s AND owner = %s RETURNING token"
_RELEASE = "UPDATE forecaster.leases SET owner = '', expires_at = 'epoch' WHERE shard = %s AND owner = %s"


class Lease:
    """The ownership of a shard, taken when made and renewed by a thread until `close`.

    All of it may be called from several threads.

    Args:
        database: with the tables.
        shard: the registered model's name.
        lease_seconds: how long the lease lasts without a renewal; it is renewed at a third of that.
        wait_seconds: for a lease that another server holds; None waits until it runs out, unless it is renewed.

    Raises StorageError if another server holds the lease, and psycopg.Error.
    """

    def __init__(
        self, database: Database, shard: str, *, lease_seconds: float = 15.0, wait_seconds: float | None = None
    ) -> None:
        self._database, self.shard, self._lease_seconds = database, shard, lease_seconds
        self._id = secrets.token_hex(8)
        self._owner = f"{socket.gethostname()}, process {os.getpid()}, {self._id}"
        self._numbers = itertools.count()
        self._mutex = threading.RLock()
        self._distrusted: list[str] = []
        self._lost: str | None = None
        self._stop = threading.Event()
        with self._database.connect(self.new_name()) as connection:
            self._token = self._acquire(connection, wait_seconds)
        self._thread = threading.Thread(target=self._renew, name=f"lease of {shard}", daemon=True)
        self._thread.start()

    def new_name(self) -> str:
        """Return a name for one connection, by which the database finds it, and all of this owner's."""
        return f"forecaster {self._id} {next(self._numbers)}"

    def check(self) -> None:
        """Raise FencedError if the lease is known to be lost."""
        if self._lost is not None:
            raise FencedError(self._lost)

    def distrust(self, name: str) -> None:
        """Note that the connection of this name broke while it wrote: what it has under way must not be kept later."""
        with self._mutex:
            self._distrusted.append(name)

    def token(self, connection: psycopg.Connection) -> int:
        """Return the token to write under. If a connection was lost, it is a new one, and the lost one's write is over.

        Raises FencedError if the lease is lost, and psycopg.Error.
        """
        with self._mutex:
            self.check()
            if self._distrusted:
                connection.execute(_END_SESSIONS, (self._distrusted,))
                with connection.transaction():
                    connection.execute(_LOCK, (self.shard,))  # waits for a write that is being committed
                    found = connection.execute(_RAISE, (self.shard, self._owner)).fetchone()
                if found is not None:
                    self._distrusted.clear()
                self._look(connection)
            return self._token

    def refused(self, connection: psycopg.Connection) -> None:
        """Look who holds the lease after a write was refused.

        Returns if it is still this server, which raised the token itself; raises FencedError, and psycopg.Error.
        """
        with self._mutex:
            self._look(connection)

    def close(self) -> None:
        """Give the lease back at once; if the database is not there it runs out by itself."""
        self._stop.set()
        self._thread.join()
        if self._lost is None:
            self._lost = f"{self._database.label}: the storage is closed"
            try:
                with self._database.connect(self.new_name()) as connection:
                    connection.execute(_RELEASE, (self.shard, self._owner))
            except psycopg.Error:
                pass

    def _acquire(self, connection: psycopg.Connection, wait_seconds: float | None) -> int:
        insert = "INSERT INTO forecaster.leases (shard) VALUES (%s) ON CONFLICT DO NOTHING"
        connection.execute(insert, (self.shard,))
        look = """
        SELECT owner, expires_at, expires_at > clock_timestamp() FROM forecaster.leases WHERE shard = %s
        """
        first_end, began = None, time.monotonic()
        while True:
            found = connection.execute(look, (self.shard,)).fetchone()
            assert found is not None
            owner, end, is_held = found
            if not is_held:
                token = self._take(connection)
                if token is not None:
                    return token
                continue  # another server was faster
            first_end = first_end or end
            waited = time.monotonic() - began
            if end > first_end if wait_seconds is None else waited >= wait_seconds:
                raise StorageError(
                    f"{self._database.label}: {self.shard!r} is in use by another server ({owner}) until "
                    f"{end:%H:%M:%S %Z} or longer: stop that one or choose another --serving.state"
                )
            time.sleep(_POLL_SECONDS)

    def _take(self, connection: psycopg.Connection) -> int | None:
        connection.execute(_END_EXPIRED_SESSIONS, (self.shard,))
        with connection.transaction():
            connection.execute(_LOCK, (self.shard,))  # waits for a write that is being committed
            values = (self._owner, self._lease_seconds, self.shard)
            found = connection.execute(_TAKE, values).fetchone()
        return int(found[0]) if found else None

    def _look(self, connection: psycopg.Connection) -> None:
        """Learn the token; raises FencedError if the lease is another's."""
        query = "SELECT owner, token FROM forecaster.leases WHERE shard = %s"
        owner, token = connection.execute(query, (self.shard,)).fetchone() or ("", 0)
        if owner != self._owner:
            by = f" by another server ({owner})" if owner else ""
            self._lost = f"{self._database.label}: {self.shard!r} was taken over{by}: this server has to end"
        self.check()
        self._token = int(token)

    def _renew(self) -> None:
        """Renew until `close` or until the lease is lost; through outages of the database too."""
        connection: psycopg.Connection | None = None
        wait = self._lease_seconds / 3
        while not self._stop.wait(wait):
            wait = self._lease_seconds / 3
            try:
                connection = connection or self._database.connect(self.new_name())
                renewed = connection.execute(_RENEW, (self._lease_seconds, self.shard, self._owner))
                if renewed.rowcount == 0:
                    self.refused(connection)
            except FencedError:
                break
            except psycopg.Error:
                wait = min(wait, _RETRY_SECONDS)
                if connection is not None:
                    connection.close()
                connection = None
        if connection is not None:
            connection.close()
