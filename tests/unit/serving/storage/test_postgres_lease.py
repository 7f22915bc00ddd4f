"""One owner at a time: takeover from a paused or killed process, late writes, races; real processes and sessions."""

import concurrent.futures
import contextlib
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import psycopg
import pytest

from forecaster.errors import FencedError, StorageError
from forecaster.serving.storage.postgres import lease as lease_module
from forecaster.serving.storage.postgres.storage import PostgresStorage, open_postgres
from forecaster.serving.storage.records import Columns
from tests.postgres import Cluster

# Takes the lease, says so, and does what it is told, line by line.
OWNER = """
    import os, signal, sys
    import numpy as np
    from forecaster.errors import StorageError
    from forecaster.serving.storage.postgres.storage import open_postgres
    from forecaster.serving.storage.records import Columns

    def row(k):
        return Columns(("a",), np.zeros(1, np.int32), np.array([k]), np.array([1.0]))

    storage = open_postgres(sys.argv[1], "commit", "model", lease_seconds=float(sys.argv[2]))
    print("owner", flush=True)
    for line in sys.stdin:
        verb, *rest = line.split()
        try:
            if verb == "append":
                print(storage.journal.append(row(int(rest[0]))), flush=True)
            elif verb == "read":
                print(sum(1 for _ in storage.journal.read(0)), flush=True)
            elif verb == "pause":  # holding the lock of a write that is about to be committed
                def work(connection):
                    insert = "INSERT INTO forecaster.journal VALUES ('model', 1000, 0, 0, 0, 'late')"
                    connection.execute(insert)
                    os.kill(os.getpid(), signal.SIGSTOP)
                storage._session.write(work)
            elif verb == "close":
                storage.close()
                print("closed", flush=True)
        except StorageError as error:
            print(type(error).__name__, flush=True)
"""


def row(k: int) -> Columns:
    return Columns(("a",), np.zeros(1, np.int32), np.array([k]), np.array([1.0]))


def times(storage: PostgresStorage) -> list[int]:
    return [int(t) for _, record in storage.journal.read(0) if isinstance(record, Columns) for t in record.time_us]


class Owner:
    """Another process that owns the shard."""

    def __init__(self, url: str, lease_seconds: float) -> None:
        command = [sys.executable, "-c", textwrap.dedent(OWNER), url, str(lease_seconds)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.answer() == "owner"

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def ask(self, line: str) -> str:
        self.tell(line)
        return self.answer()

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        self.process.wait()


@pytest.fixture
def database(postgres: Cluster) -> str:
    return postgres.create_database()


@pytest.fixture
def url(postgres: Cluster, database: str) -> str:
    return postgres.url(database)


@pytest.fixture
def start_owner(url: str) -> Iterator[Callable[[float], Owner]]:
    owners = []

    def start(lease_seconds: float) -> Owner:
        owners.append(Owner(url, lease_seconds))
        return owners[-1]

    yield start
    for owner in owners:
        owner.end()


def test_a_paused_owner_is_fenced_when_it_goes_on(url: str, start_owner: Callable[[float], Owner]) -> None:
    owner = start_owner(1.0)
    assert [owner.ask(f"append {k}") for k in range(3)] == ["1", "2", "3"]
    owner.process.send_signal(signal.SIGSTOP)
    with open_storage(url) as storage:  # waits until the lease has run out
        assert times(storage) == [0, 1, 2]
        assert storage.journal.append(row(10)) == 4
        owner.process.send_signal(signal.SIGCONT)
        assert owner.ask("append 3") == "FencedError"
        assert owner.ask("append 4") == "FencedError"
        assert owner.ask("read") == "FencedError"
        assert times(storage) == [0, 1, 2, 10]
        assert storage.journal.append(row(11)) == 5


def test_an_owner_paused_within_a_write_does_not_hold_the_next_one_up(
    url: str, start_owner: Callable[[float], Owner]
) -> None:
    owner = start_owner(1.0)
    assert owner.ask("append 0") == "1"
    owner.tell("pause")
    began = time.monotonic()
    with open_storage(url) as storage:
        assert time.monotonic() - began < 8
        assert times(storage) == [0]
        owner.process.send_signal(signal.SIGCONT)
        assert owner.answer() == "OutcomeUnknownError"
        assert owner.ask("append 1") == "FencedError"
        assert times(storage) == [0]


def test_a_killed_owner_is_followed_when_its_lease_has_run_out(url: str, start_owner: Callable[[float], Owner]) -> None:
    owner = start_owner(2.0)
    assert owner.ask("append 0") == "1"
    owner.process.kill()
    with pytest.raises(StorageError, match=r"in use by another server \(.*process \d+.*\) until \d\d:\d\d:\d\d"):
        open_postgres(url, "commit", "model", lease_wait_seconds=0)
    with open_storage(url) as storage:
        assert times(storage) == [0]


def test_a_closed_owner_is_followed_at_once(url: str, start_owner: Callable[[float], Owner]) -> None:
    owner = start_owner(60.0)
    assert owner.ask("append 0") == "1"
    assert owner.ask("close") == "closed"
    with open_storage(url, lease_wait_seconds=0) as storage:
        assert times(storage) == [0]
    assert owner.ask("append 1") == "FencedError"


def test_an_owner_that_renews_is_not_waited_for(url: str) -> None:
    with open_storage(url, lease_seconds=1.5), pytest.raises(StorageError, match="in use by another server"):
        open_postgres(url, "commit", "model")


def test_a_replacement_may_wait_for_as_long_as_it_takes(url: str) -> None:
    first = open_postgres(url, "commit", "model", lease_seconds=1.0)
    threading.Timer(2.5, first.close).start()
    with open_storage(url, lease_wait_seconds=30) as second:
        assert second.journal.append(row(1)) == 1


def test_models_have_leases_of_their_own(url: str) -> None:
    with open_storage(url) as one, open_storage(url, name="other") as other:
        one.journal.append(row(1))
        assert other.journal.last_sequence() == 0
        assert list(other.journal.read(0)) == []


def test_one_of_many_wins(url: str) -> None:
    """Servers that start at the same moment, on an empty database and then on one whose lease is free."""

    def open_one(barrier: threading.Barrier) -> PostgresStorage | StorageError:
        barrier.wait()
        try:
            return open_postgres(url, "commit", "model", lease_wait_seconds=0)
        except StorageError as error:
            return error

    for _ in range(3):
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            outcomes = list(pool.map(open_one, [threading.Barrier(6)] * 6))
        won = [outcome for outcome in outcomes if isinstance(outcome, PostgresStorage)]
        for storage in won:
            storage.close()
        assert len(won) == 1
        refused = [str(outcome) for outcome in outcomes if isinstance(outcome, StorageError)]
        assert [text for text in refused if "in use by another server" not in text] == []


def test_a_write_being_committed_is_waited_for_and_seen(
    url: str, postgres: Cluster, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the row's lock alone, as where sessions cannot be ended: a takeover and a write are one after the other."""
    monkeypatch.setattr(lease_module, "_END_EXPIRED_SESSIONS", "SELECT %s::text")
    first = open_postgres(url, "commit", "model", lease_seconds=600)
    first.journal.append(row(0))
    under_way, go_on = threading.Event(), threading.Event()

    def work(connection: psycopg.Connection) -> None:
        values = "SELECT shard, 2, 0, 0, 0, payload FROM forecaster.journal WHERE sequence = 1"
        connection.execute(f"INSERT INTO forecaster.journal {values}")
        under_way.set()
        go_on.wait(180)

    writer = threading.Thread(target=first._session.write, args=(work,))
    writer.start()
    assert under_way.wait(180)
    with postgres.connect(database) as connection:
        renewed = "UPDATE forecaster.leases SET expires_at = clock_timestamp() + interval '10 min'"
        connection.execute("SET lock_timeout = '5s'")
        connection.execute(renewed)  # a renewal does not wait for writes
        connection.execute("UPDATE forecaster.leases SET expires_at = 'epoch'")
    opened: list[PostgresStorage] = []
    taker = threading.Thread(target=lambda: opened.append(open_postgres(url, "commit", "model")))
    taker.start()
    taker.join(1.0)
    assert opened == []
    go_on.set()
    taker.join(180)
    writer.join(180)
    assert opened[0].journal.last_sequence() == 2
    with pytest.raises(FencedError, match="taken over by another server"):
        first.journal.append(row(5))
    with pytest.raises(FencedError):
        first.snapshots.count("f")
    first.close()
    opened[0].close()


def test_the_thread_that_renews_notices_a_takeover(url: str, postgres: Cluster, database: str) -> None:
    storage = open_postgres(url, "commit", "model", lease_seconds=0.6)
    storage.journal.append(row(0))
    with postgres.connect(database) as connection:
        connection.execute("UPDATE forecaster.leases SET owner = 'somebody else', token = token + 1")
    deadline = time.monotonic() + 180

    def look() -> None:
        while time.monotonic() < deadline:
            storage.journal.first_sequence()
            time.sleep(0.05)

    with pytest.raises(FencedError, match="somebody else"):
        look()
    storage.close()
    with postgres.connect(database) as connection:  # closing gives back only what is one's own
        assert connection.execute("SELECT owner FROM forecaster.leases").fetchone() == ("somebody else",)


def test_a_lease_is_kept_through_an_outage(postgres: Cluster) -> None:
    with open_storage(postgres.url(postgres.create_database()), lease_seconds=0.6) as storage:
        storage.journal.append(row(0))
        postgres.stop()
        time.sleep(1.0)
        postgres.start()
        time.sleep(2.0)  # the renewing thread tries every second
        with pytest.raises(StorageError):
            storage.journal.append(row(1))
        deadline = time.monotonic() + 180
        while True:
            with contextlib.suppress(StorageError):
                assert storage.journal.append(row(2)) == 2
                break
            assert time.monotonic() < deadline
        assert times(storage) == [0, 2]


@contextlib.contextmanager
def open_storage(
    url: str, name: str = "model", lease_seconds: float = 15.0, lease_wait_seconds: float | None = None
) -> Iterator[PostgresStorage]:
    """Open with `commit`, and close at the end."""
    storage = open_postgres(url, "commit", name, lease_seconds=lease_seconds, lease_wait_seconds=lease_wait_seconds)
    try:
        yield storage
    finally:
        storage.close()
