"""What an append is worth when the connection to PostgreSQL breaks: cut at chosen bytes, late, killed, restarted."""

import random
import signal
from collections.abc import Iterator

import numpy as np
import pytest

from forecaster.errors import StorageError
from forecaster.serving.storage.postgres import lease as lease_module
from forecaster.serving.storage.postgres.storage import PostgresStorage, open_postgres
from forecaster.serving.storage.records import Attributes, Columns, Deletion, Record, Snapshot
from tests.postgres import Cluster
from tests.unit.serving.cutting_proxy import CuttingProxy, Direction, Fault

ALL = 1 << 40  # bytes that are never reached


def row(k: int) -> Columns:
    return Columns(("a",), np.zeros(1, np.int32), np.array([k]), np.array([float(k)]))


def times(storage: PostgresStorage) -> list[int]:
    return [int(t) for _, record in storage.journal.read(0) if isinstance(record, Columns) for t in record.time_us]


@pytest.fixture
def proxy(postgres: Cluster) -> Iterator[CuttingProxy]:
    proxy = CuttingProxy(postgres.port)
    yield proxy
    proxy.close()


@pytest.fixture
def database(postgres: Cluster) -> str:
    return postgres.create_database()


@pytest.fixture
def storage(postgres: Cluster, proxy: CuttingProxy, database: str) -> Iterator[PostgresStorage]:
    """Return a storage behind the proxy, whose lease is not renewed during the test."""
    storage = open_postgres(postgres.url(database, proxy.port), "commit", "model", lease_seconds=600)
    storage.journal.append(row(0))
    yield storage
    storage.close()


@pytest.mark.parametrize("after_bytes", [0, 40, 200])
def test_a_request_that_is_cut_is_not_kept(storage: PostgresStorage, proxy: CuttingProxy, after_bytes: int) -> None:
    proxy.set(Fault("request", after_bytes))
    with pytest.raises(StorageError, match="nothing was written"):
        storage.journal.append(row(1))
    assert times(storage) == [0]
    assert storage.journal.append(row(2)) == 2
    assert times(storage) == [0, 2]


@pytest.mark.parametrize("after_bytes", [0, 1, 30])
def test_a_commit_whose_answer_is_lost_counts(storage: PostgresStorage, proxy: CuttingProxy, after_bytes: int) -> None:
    proxy.set(Fault("answer", after_bytes))
    assert storage.journal.append(row(1)) == 2
    assert storage.journal.append(row(2)) == 3
    assert times(storage) == [0, 1, 2]


def test_a_commit_that_was_reported_as_failed_is_undone(
    storage: PostgresStorage, proxy: CuttingProxy, postgres: Cluster, database: str
) -> None:
    """The database is away when the answer is lost: the append has to raise before its outcome can be known."""
    storage.journal.append(Attributes(("a", "b"), ({"area": 1.0}, {}), ({}, {})))
    storage.snapshots.save("f", [Snapshot.of("a", 1, b"state")])
    proxy.set(Fault("answer", 0, refused=ALL))
    lost: list[Record] = [
        row(1),
        Attributes(("a",), ({"area": 2.0},), ({},)),
        Attributes(("a",), ({"area": 3.0},), ({},)),
        Deletion("a"),
    ]
    with pytest.raises(StorageError):
        storage.journal.append(*lost)
    with postgres.connect(database) as connection:  # it is there all the same
        assert connection.execute("SELECT max(sequence) FROM forecaster.journal").fetchone() == (6,)
    with pytest.raises(StorageError):
        storage.journal.append(row(2))
    proxy.refuse(0)
    assert times(storage) == [0]
    assert storage.journal.attributes(["a"]).numbers == ({"area": 1.0},)
    assert storage.snapshots.fetch("f", ["a"]) == [Snapshot.of("a", 1, b"state")]
    assert storage.journal.append(row(3)) == 3
    assert times(storage) == [0, 3]
    assert storage.journal.attributes(["a"]).numbers == ({"area": 1.0},)
    assert storage.snapshots.count("f") == 1
    assert storage.journal.erase() == 0


def test_closing_undoes_it_too(storage: PostgresStorage, proxy: CuttingProxy, postgres: Cluster, database: str) -> None:
    proxy.set(Fault("answer", 0, refused=1))
    with pytest.raises(StorageError):
        storage.journal.append(row(1))
    storage.close()
    again = open_postgres(postgres.url(database), "commit", "model")
    assert times(again) == [0]
    again.close()


@pytest.mark.parametrize("is_ended", [True, False])
def test_a_request_that_arrives_late_is_refused(
    storage: PostgresStorage, proxy: CuttingProxy, monkeypatch: pytest.MonkeyPatch, is_ended: bool
) -> None:
    """The old session is ended; and where that is not possible, its token is an old one."""
    if not is_ended:
        monkeypatch.setattr(lease_module, "_END_SESSIONS", "SELECT %s::text[]")
    beside = storage.beside()
    beside.snapshots.complete("f", 1)
    proxy.set(Fault("request", 0, is_late=True))
    with pytest.raises(StorageError, match="nothing was written"):
        storage.journal.append(row(1))
    answer = proxy.deliver()
    assert (b"FC001" in answer) is not is_ended
    assert storage.journal.append(row(2)) == 2
    assert times(storage) == [0, 2]
    beside.snapshots.complete("f", 2)  # its own session goes on under the new token
    assert beside.snapshots.complete_through("f") == 2
    beside.close()


def test_a_session_that_was_ended_is_made_anew(storage: PostgresStorage, postgres: Cluster, database: str) -> None:
    def end_all() -> None:
        with postgres.connect() as connection:
            end = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s"
            connection.execute(end, (database,))

    end_all()
    assert times(storage) == [0]  # reading needs no second try by the caller
    end_all()
    with pytest.raises(StorageError):
        storage.journal.append(row(1))
    assert storage.journal.append(row(2)) == 2
    assert times(storage) == [0, 2]
    end_all()
    with pytest.raises(StorageError):
        storage.snapshots.save("f", [Snapshot.of("a", 2, b"state")])
    storage.snapshots.save("f", [Snapshot.of("a", 2, b"state")])
    assert storage.snapshots.count("f") == 1


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
def test_an_acknowledged_append_survives_the_cluster(postgres: Cluster, how: signal.Signals) -> None:
    """SIGQUIT ends all processes of the cluster at once; it then recovers from its log as after a crash."""
    storage = open_postgres(postgres.url(postgres.create_database()), "commit", "model", lease_seconds=3)
    try:
        for k in range(20):
            storage.journal.append(row(k))
        postgres.stop(how)
        try:
            with pytest.raises(StorageError):
                storage.journal.append(row(20))
            with pytest.raises(StorageError):
                list(storage.journal.read(0))
        finally:
            postgres.start()
        assert storage.journal.append(row(21)) == 21
        assert times(storage) == [*range(20), 21]
    finally:
        storage.close()


def test_whatever_is_cut_what_is_acknowledged_is_what_is_kept(
    storage: PostgresStorage, proxy: CuttingProxy, postgres: Cluster, database: str
) -> None:
    rng = random.Random(7)
    expected, failed = [0], 0
    for k in range(1, 120):
        if rng.random() < 0.6:
            direction: Direction = rng.choice(["request", "answer"])
            proxy.refuse(0)
            proxy.set(Fault(direction, rng.randrange(500), refused=rng.choice([0, 0, 1, 2])))
        try:
            storage.journal.append(row(k))
            expected.append(k)
        except StorageError:
            failed += 1
        if rng.random() < 0.3:
            try:
                assert times(storage) == expected
            except StorageError:
                failed += 1
    proxy.refuse(0)
    proxy.set(Fault("request", ALL))
    storage.journal.append(row(999))
    assert times(storage) == [*expected, 999]
    assert failed > 20
    assert len(expected) > 40
    storage.close()
    again = open_postgres(postgres.url(database), "commit", "model")
    assert times(again) == [*expected, 999]
    again.close()
