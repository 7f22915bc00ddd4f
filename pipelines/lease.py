"""Who retrains: one row in a database, of which whoever works has the lease.

The lease says how long others wait for a silent holder, by the database's clock. Its token rises with every holder:
one that was paused and has lost the lease learns so from the row, however late. A holder whose process is gone from
this very machine is not waited for.

Knows nothing of what is done under the lease.
"""

import contextlib
import datetime as dt
import os
import pathlib
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from forecaster.config import Config
from forecaster.errors import ConfigError, FencedError, StorageError
from forecaster.registry.store_uri import without_password

_POLL_SECONDS = 0.1
_RETRY_SECONDS = 1.0  # after a renewal that did not reach the database
_CLOCKS = {  # seconds since 1970; SQLite's is this machine's, as its file is
    "sqlite": "(julianday('now') - 2440587.5) * 86400.0",
    "postgresql": "CAST(extract(epoch FROM clock_timestamp()) AS double precision)",
}
_TABLE = sa.Table(
    "forecaster_retrain_lease",
    sa.MetaData(),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("token", sa.BigInteger, nullable=False),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("machine", sa.Text, nullable=False),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("pid", sa.BigInteger, nullable=False),
    sa.Column("ticks", sa.BigInteger, nullable=False),
    sa.Column("since", sa.Double, nullable=False),
    sa.Column("expires_at", sa.Double, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Holder:
    """A process as others see it.

    Args:
        machine: the same for all processes that see each other's ids, and for no others.
        host: its name, for people.
        pid: the process's id,
        ticks: and when it began, since the machine's start: ids come again.
    """

    machine: str
    host: str
    pid: int
    ticks: int

    @classmethod
    def this_process(cls) -> "Holder":
        """Return this process."""
        pid = os.getpid()
        return cls(_machine(), socket.gethostname(), pid, (_stat(pid) or ("", 0))[1])

    def is_gone(self) -> bool:
        """Whether it was a process of this machine that has ended; False where that cannot be known."""
        if not self.machine or self.machine != _machine():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        found = _stat(self.pid)
        return found is not None and (found[0] == "Z" or found[1] != self.ticks)


def _machine() -> str:
    """Return what names this boot of this machine and this space of process ids; empty where that is not Linux."""
    try:
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _stat(pid: int) -> tuple[str, int] | None:
    """Return a process's state and the clock ticks at which it began, None where they cannot be seen (proc(5))."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], int(fields[19])


class RetrainingLease:
    """The right to retrain, taken when made and renewed by a thread until `close`; see `held`.

    Args:
        url: SQLAlchemy's, of SQLite or PostgreSQL.
        name: of what is retrained.
        lease_seconds: how long it lasts without a renewal; it is renewed at a third of that.
        wait_seconds: for another holder.

    Raises:
        StorageError: somebody else has it, or the database cannot be used.
        ConfigError: it is another kind of database.
    """

    def __init__(self, url: str | sa.URL, name: str, *, lease_seconds: float, wait_seconds: float) -> None:
        self._name, self._seconds, self._label = name, lease_seconds, without_password(str(url))
        self._engine = _engine(url)
        self._now = sa.text(_CLOCKS[self._engine.dialect.name])
        self._owner = secrets.token_hex(8)
        self._stop, self._lost = threading.Event(), ""
        try:
            with self._database_errors():
                self.token = self._acquire(wait_seconds)
        except BaseException:
            self._engine.dispose()
            raise
        self._renewed = time.monotonic()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise FencedError if the lease was lost: somebody else may be at work. The database is asked."""
        if not self._lost:
            try:
                self._renew()
            except sa.exc.SQLAlchemyError as error:
                if time.monotonic() - self._renewed > self._seconds:
                    first = str(error).splitlines()[0]
                    raise FencedError(f"the lease in {self._label} could not be renewed in time: {first}") from error
        if self._lost:
            raise FencedError(self._lost)

    def close(self) -> None:
        """Give the lease back, if it is still held."""
        self._stop.set()
        self._thread.join()
        gone = sa.update(_TABLE).where(*self._mine()).values(owner="", expires_at=0.0)
        try:
            with contextlib.suppress(sa.exc.SQLAlchemyError), self._engine.begin() as connection:  # then it runs out
                connection.execute(gone)
        finally:
            self._engine.dispose()

    def _acquire(self, wait_seconds: float) -> int:
        with contextlib.suppress(sa.exc.ProgrammingError, sa.exc.IntegrityError, sa.exc.OperationalError):
            _TABLE.create(self._engine, checkfirst=True)  # another process may be faster
        with self._engine.begin() as connection:
            connection.execute(
                sa.text(
                    f"INSERT INTO {_TABLE.name} (name, token, owner, machine, host, pid, ticks, since, expires_at)"
                    " VALUES (:name, 0, '', '', '', 0, 0, 0, 0) ON CONFLICT DO NOTHING"
                ),
                {"name": self._name},
            )
        deadline = time.monotonic() + wait_seconds
        while True:
            with self._engine.begin() as connection:
                row = connection.execute(sa.select(_TABLE).where(_TABLE.c.name == self._name)).mappings().one()
                free = _TABLE.c.expires_at <= self._now
                if row["owner"] and _holder(row).is_gone():
                    free = _TABLE.c.token == row["token"]  # unless somebody has taken it over meanwhile
                token = self._take(connection, free)
            if token is not None:
                return token
            if time.monotonic() >= deadline:
                raise StorageError(self._refusal(row))
            self._stop.wait(_POLL_SECONDS)

    def _take(self, connection: sa.Connection, free: sa.ColumnElement[bool]) -> int | None:
        me = Holder.this_process()
        taken = (
            sa.update(_TABLE)
            .where(_TABLE.c.name == self._name, free)
            .values(
                token=_TABLE.c.token + 1,
                owner=self._owner,
                machine=me.machine,
                host=me.host,
                pid=me.pid,
                ticks=me.ticks,
                since=self._now,
                expires_at=self._end(),
            )
            .returning(_TABLE.c.token)
        )
        found = connection.execute(taken).scalar()
        return None if found is None else int(found)

    def _refusal(self, row: sa.RowMapping) -> str:
        since = dt.datetime.fromtimestamp(row["since"], dt.UTC)
        return (
            f"{self._name!r} is being retrained by process {row['pid']} on {row['host']} since"
            f" {since:%Y-%m-%d %H:%M:%S} UTC: wait for it (--schedule.lease_wait_seconds), or stop that one"
        )

    def _end(self) -> sa.TextClause:
        return sa.text(f"{self._now.text} + {float(self._seconds)!r}")

    def _mine(self) -> tuple[sa.ColumnElement[bool], ...]:
        return _TABLE.c.name == self._name, _TABLE.c.owner == self._owner

    def _renew(self) -> None:
        """Renew the lease, or note that it was lost; raises SQLAlchemyError if the database cannot be reached."""
        with self._engine.begin() as connection:
            renewal = sa.update(_TABLE).where(*self._mine()).values(expires_at=self._end())
            if connection.execute(renewal).rowcount == 1:
                self._renewed = time.monotonic()
                return
            row = connection.execute(sa.select(_TABLE).where(_TABLE.c.name == self._name)).mappings().first()
        by = f" by process {row['pid']} on {row['host']}" if row is not None and row["owner"] else ""
        self._lost = f"the lease of {self._name!r} ran out and was taken over{by}: this retraining has to end"

    def _keep(self) -> None:
        """Renew until `close` or until the lease is lost; through outages of the database too."""
        wait = self._seconds / 3
        while not self._stop.wait(wait) and not self._lost:
            wait = self._seconds / 3
            try:
                self._renew()
            except sa.exc.SQLAlchemyError:
                wait = min(wait, _RETRY_SECONDS)

    @contextlib.contextmanager
    def _database_errors(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.SQLAlchemyError as error:
            first = str(error).splitlines()[0]
            raise StorageError(f"the lease in {self._label} cannot be used: {first}") from error


@contextlib.contextmanager
def held(config: Config, wait_seconds: float | None = None) -> Iterator[RetrainingLease]:
    """Hold the lease of the configured model's retraining while the block runs.

    Args:
        config: says where the lease is, and how long it lasts.
        wait_seconds: for another who holds it; left out, `schedule.lease_wait_seconds`.

    Raises:
        StorageError: somebody else retrains, who is named, or the database cannot be used.
    """
    schedule = config.schedule
    wait = schedule.lease_wait_seconds if wait_seconds is None else wait_seconds
    lease = RetrainingLease(
        lease_url(config), config.tracking.model, lease_seconds=schedule.lease_seconds, wait_seconds=wait
    )
    try:
        yield lease
    finally:
        lease.close()


def lease_url(config: Config) -> str | sa.URL:
    """Return the URL of the lease's database: as configured, else a file beside the data set."""
    if config.schedule.lease is not None:
        return config.schedule.lease
    folder = pathlib.Path(config.ingest.output).resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    return sa.URL.create("sqlite", database=str(folder.with_name(folder.name + ".lease.db")))  # paths may hold a `?`


def _engine(url: str | sa.URL) -> sa.Engine:
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError as error:
        raise ConfigError(f"schedule.lease={without_password(str(url))!r} is no database's URL") from error
    options: dict[str, Any] = {"connect_args": {"timeout": 30}}
    backend = parsed.get_backend_name()
    if backend in ("postgresql", "postgres"):
        parsed, options = parsed.set(drivername="postgresql+psycopg"), {"pool_pre_ping": True}
    elif backend != "sqlite":
        raise ConfigError(f"schedule.lease={without_password(str(url))!r}: use SQLite or PostgreSQL")
    try:
        return sa.create_engine(parsed, **options)
    except ImportError as error:
        raise ConfigError("schedule.lease in PostgreSQL needs psycopg: pip install 'psycopg[binary]'") from error


def _holder(row: sa.RowMapping) -> Holder:
    return Holder(row["machine"], row["host"], int(row["pid"]), int(row["ticks"]))
