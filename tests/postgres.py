"""A real PostgreSQL of the tests' own: a cluster in a temporary folder, on a free port of loopback.

The programs are those of the distribution's package (Debian: `apt install postgresql`). Without them the tests that
need them are skipped, except in CI, where they fail.
"""

import contextlib
import itertools
import os
import pathlib
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator

import psycopg
import pytest

START_SECONDS = 60.0
ADMINISTRATOR, SERVER = "administrator", "forecaster"  # users: the cluster's own, and one that may do nothing special


def programs() -> pathlib.Path | None:
    """Return the folder of `initdb` and `postgres`, None if PostgreSQL is not installed."""
    packaged = pathlib.Path("/usr/lib/postgresql").glob("*/bin/initdb")
    newest = max(packaged, key=lambda path: int(path.parts[-3]), default=None)
    if newest is not None:
        return newest.parent
    on_path = shutil.which("initdb")  # it looks for `postgres` beside what its link points at
    return pathlib.Path(on_path).resolve().parent if on_path else None


class Cluster:
    """A PostgreSQL cluster, started and stopped at will; `fsync` is on, as its own default has it.

    Args:
        bin_folder: with `initdb` and `postgres`.
        folder: empty, and of the user who runs the cluster.
        user: who runs it, None for the one who runs the tests: PostgreSQL refuses to run as root.
    """

    def __init__(self, bin_folder: pathlib.Path, folder: pathlib.Path, user: str | None) -> None:
        self._bin, self._user, self.data = bin_folder, user, folder / "data"
        self._log = folder / "log"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._numbers = itertools.count()
        self._process: subprocess.Popen[bytes] | None = None
        how = ["--auth=trust", "--encoding=UTF8", "--locale=C", f"--username={ADMINISTRATOR}", "--no-sync"]
        self._popen("initdb", "--pgdata", str(self.data), *how).wait()

    def url(self, database: str, port: int | None = None) -> str:
        """Return a database's URL for the server's user, by way of another port if one is given."""
        return f"postgresql://{SERVER}@127.0.0.1:{port or self.port}/{database}"

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        """Return a connection of the administrator, in autocommit."""
        where = {"host": "127.0.0.1", "port": self.port, "dbname": database}
        return psycopg.connect(user=ADMINISTRATOR, autocommit=True, **where)

    def create_database(self) -> str:
        """Return the name of a new, empty database, which the server's user owns."""
        name = f"test{next(self._numbers)}"
        with self.connect() as connection:
            connection.execute(f"CREATE DATABASE {name} OWNER {SERVER}")
        return name

    def start(self) -> None:
        """Start, and return when connections are taken."""
        where = ["-D", str(self.data), "-p", str(self.port), "-k", "", "-c", "listen_addresses=127.0.0.1"]
        self._process = self._popen("postgres", *where)
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.connect().close()
                return
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"PostgreSQL did not start: {self._log.read_text()}") from None
                time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop: SIGINT ends the sessions and writes everything; SIGQUIT is as after a crash."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait()
            self._process = None

    def _popen(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [self._bin / program, *arguments], user=self._user, cwd=self.data.parent, stdout=log, stderr=log
            )


@contextlib.contextmanager
def running_cluster() -> Iterator[Cluster]:
    """Start a new cluster; stop and remove it at the end."""
    bin_folder = programs()
    if bin_folder is None:
        missing = "PostgreSQL is not installed (Debian: apt install postgresql)"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    user = None
    if os.getuid() == 0:
        known = {entry.pw_name for entry in pwd.getpwall()}
        user = "postgres" if "postgres" in known else "nobody"
    # Not below pytest's folders, which no other user may enter.
    folder = pathlib.Path(tempfile.mkdtemp(prefix="forecaster-postgres-"))
    try:
        if user is not None:
            shutil.chown(folder, user)
        cluster = Cluster(bin_folder, folder, user)
        try:
            cluster.start()
            with cluster.connect() as connection:
                connection.execute(f"CREATE USER {SERVER}")
            yield cluster
        finally:
            cluster.stop()
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    """Return a cluster that the tests of a session share; each test has a database or a shard of its own."""
    with running_cluster() as cluster:
        yield cluster
