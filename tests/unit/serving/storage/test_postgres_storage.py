"""What is special to PostgreSQL, beside the contract of every storage."""

import hashlib
import pathlib
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from forecaster.errors import ConfigError, DamagedHistoryError, StorageError
from forecaster.model.bundle import WEIGHTS_FILE
from forecaster.serving.storage.contract import Activation
from forecaster.serving.storage.opening import inspect, open_storage
from forecaster.serving.storage.postgres import journal as postgres_journal
from forecaster.serving.storage.postgres import snapshots as postgres_snapshots
from forecaster.serving.storage.postgres.storage import PostgresStorage, open_postgres
from forecaster.serving.storage.records import Attributes, Columns, Deletion, Record, Snapshot
from forecaster.serving.swap.kept_bundle import keep
from tests.postgres import SERVER, Cluster
from tests.unit.serving.folding import make_bundle

EVER = 2**62


def columns(*rows: tuple[str, int, float]) -> Columns:
    ids = tuple(dict.fromkeys(row[0] for row in rows))
    return Columns(
        ids,
        np.array([ids.index(row[0]) for row in rows], dtype=np.int32),
        np.array([row[1] for row in rows], dtype=np.int64),
        np.array([row[2] for row in rows], dtype=np.float64),
    )


def rows(storage: PostgresStorage) -> list[tuple[str, int, float]]:
    return [row for _, record in storage.journal.read(0) for row in rows_of(record)]


def rows_of(record: Record) -> list[tuple[str, int, float]]:
    if not isinstance(record, Columns):
        return []
    names = [record.series_ids[k] for k in record.series.tolist()]
    return list(zip(names, record.time_us.tolist(), record.values.tolist(), strict=True))


@pytest.fixture
def database(postgres: Cluster) -> str:
    return postgres.create_database()


@pytest.fixture
def storage(postgres: Cluster, database: str) -> Iterator[PostgresStorage]:
    storage = open_postgres(postgres.url(database), "commit", "model")
    yield storage
    storage.close()


def held_by_files(folder: pathlib.Path, needles: list[bytes]) -> set[bytes]:
    """Return which of the byte strings are in a file of the folder."""
    contents = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    return {needle for needle in needles if any(needle in content for content in contents)}


def test_no_file_of_the_tables_holds_an_erased_series(
    storage: PostgresStorage, postgres: Cluster, database: str
) -> None:
    gone, kept = 'zebra-5d1c "é"', "kept-77ab"
    value, after = 1234.56789e-30, 77.75e20
    for k in range(300):
        storage.journal.append(columns((gone, k, value), (kept, k, 1.0)))
    storage.journal.append(*(Attributes((gone, kept), ({"area": 1.0}, {}), ({}, {"r": "x"})) for _ in range(3)))
    storage.snapshots.save("f", [Snapshot.of(gone, 301, b"state-of-the-zebra" * 150), Snapshot.of(kept, 301, b"s")])
    assert storage.journal.prune(100, committed_before_us=EVER, keep_history=True) == 100
    storage.journal.append(Deletion(gone))
    storage.journal.append(columns((gone, 1000, after), (kept, 1000, 2.0)))

    escaped = gone.encode().replace(b'"', b'\\"').replace("é".encode(), b"\\u00e9")
    needles = [gone.encode(), escaped, b"state-of-the-zebra", struct.pack("<d", value)]
    base = postgres.data / "base"
    with postgres.connect(database) as connection:
        connection.execute("ANALYZE")  # as the autovacuum daemon would
        connection.execute("CHECKPOINT")
        assert held_by_files(base, needles) == set(needles)
        while storage.journal.erase():
            pass
        connection.execute("CHECKPOINT")
    assert held_by_files(base, [escaped, b"state-of-the-zebra", struct.pack("<d", value)]) == set()
    left = [(gone, 1000, after), (kept, 1000, 2.0)]
    assert rows(storage) == [*((kept, k, 1.0) for k in range(300)), *left]
    assert storage.journal.attributes([gone, kept]).series_ids == (kept,)
    assert [one.series_id for one in storage.snapshots.read("f")] == [kept]

    storage.journal.append(Deletion(gone))  # and now what it got since
    while storage.journal.erase():
        pass
    with postgres.connect(database) as connection:
        connection.execute("CHECKPOINT")
    assert held_by_files(base, [*needles, struct.pack("<d", after)]) == set()
    assert storage.journal.last_sequence() == 306


def test_erasing_goes_on_after_a_restart(postgres: Cluster, database: str) -> None:
    url = postgres.url(database)
    storage = open_postgres(url, "commit", "model")
    for k in range(3000):  # more than are looked through at once
        storage.journal.append(columns(("gone" if k % 500 == 0 else "kept", k, 1.0)))
    storage.journal.append(Deletion("gone"))
    assert storage.journal.erase() > 0
    storage.close()
    storage = open_postgres(url, "commit", "model")
    parts = 0
    while storage.journal.erase():
        parts += 1
    assert parts >= 3
    assert {name for name, _, _ in rows(storage)} == {"kept"}
    assert storage.journal.last_sequence() == 3001
    assert storage.journal.append(Deletion("kept")) == 3002
    storage.close()


def test_a_table_in_use_holds_nobody_up(storage: PostgresStorage, postgres: Cluster, database: str) -> None:
    """A backup reads the journal for hours: what needs the table for itself gives up soon, and is made up for."""
    storage.journal.append(columns(("a", 1, 1.0), ("b", 1, 1.0)))
    storage.journal.append(Deletion("a"))
    with postgres.connect(database) as backup, backup.transaction():
        backup.execute("SELECT FROM forecaster.journal")
        assert [storage.journal.erase() for _ in range(2)] == [1, 1]  # the record, the deletion
        with pytest.raises(StorageError, match=r"cannot be vacuumed: .*lock timeout"):
            storage.journal.erase()
        assert storage.journal.append(columns(("b", 2, 1.0))) == 3
    assert storage.journal.erase() == 1
    assert storage.journal.erase() == 0


def test_ids_are_ordered_by_code_points(storage: PostgresStorage) -> None:
    names = ["a", "B", "Z", "é", "z", "\uffff", "😀", "_", "10", "9"]
    storage.snapshots.save("f", [Snapshot.of(name, 1, b"x") for name in names])
    assert [one.series_id for one in storage.snapshots.read("f")] == sorted(names)
    assert [one.series_id for one in storage.snapshots.read("f", "Z")] == [n for n in sorted(names) if n > "Z"]


def test_ids_and_times_are_looked_up_by_their_indexes(
    storage: PostgresStorage, postgres: Cluster, database: str
) -> None:
    """There are no statistics on ids, and a list of them must not make the planner read a whole table."""
    several = [f"series {k}" for k in range(300)]
    queries: list[tuple[str, tuple[object, ...]]] = [
        (postgres_snapshots._FETCH, (several, "model", 1, "f")),
        (postgres_journal.LATEST_ATTRIBUTES, (several, "model", 20_000, 20_000)),
        (postgres_journal._SPANNING, ("model", 5001, 5000, 20_000)),
        (postgres_journal._AT, (list(range(300)), "model")),
    ]
    with postgres.connect(database) as connection:
        for table, made in {
            "snapshots": "SELECT 'model', 'series ' || k, 'f', 1, 0, sha512(k::text::bytea)",
            "attributes": "SELECT 'model', 'series ' || k, k, sha512(k::text::bytea)",
            "journal": "SELECT 'model', k, k, k, k, sha512(k::text::bytea)",
        }.items():
            connection.execute(f"INSERT INTO forecaster.{table} {made} FROM generate_series(1, 20000) AS k")
        for state in ("fresh", "VACUUM ANALYZE"):
            if state != "fresh":
                connection.execute("VACUUM ANALYZE")
            for query, values in queries if state != "fresh" else queries[:3]:
                plan = "\n".join(row[0] for row in connection.execute(f"EXPLAIN {query}", values).fetchall())
                assert "Seq Scan on journal" not in plan, plan
                assert "Seq Scan on attributes" not in plan, plan
                assert "Seq Scan on snapshots" not in plan, plan
    fetched = {one.series_id: one.state for one in storage.snapshots.fetch("f", several)}
    assert fetched == {f"series {k}": hashlib.sha512(str(k).encode()).digest() for k in range(1, 300)}


def test_many_snapshots_are_read_in_parts(storage: PostgresStorage) -> None:
    names = [f"{k:05d}" for k in range(3000)]
    storage.snapshots.save("f", [Snapshot.of(name, 1, name.encode()) for name in names])
    assert [(one.series_id, one.state) for one in storage.snapshots.read("f")] == [(n, n.encode()) for n in names]
    assert len(storage.snapshots.fetch("f", names[::3])) == 1000


def test_sessions_beside_append_in_one_order(storage: PostgresStorage) -> None:
    others = [storage.beside() for _ in range(3)]

    def work(one: PostgresStorage, name: str) -> None:
        for k in range(50):
            one.journal.append(columns((name, k, 1.0)))

    threads = [threading.Thread(target=work, args=(one, str(k))) for k, one in enumerate([storage, *others])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [sequence for sequence, _ in storage.journal.read(0)] == list(range(1, 201))
    for name in "0123":
        assert [time for one, time, _ in rows(storage) if one == name] == list(range(50))
    for other in others:
        other.close()


def test_a_late_snapshot_of_a_deleted_series_does_not_count(storage: PostgresStorage) -> None:
    storage.journal.append(columns(("a", 1, 1.0)))
    storage.journal.append(Deletion("a"))
    storage.snapshots.save("f", [Snapshot.of("a", 1, b"old")])
    assert storage.snapshots.count("f") == 0
    storage.journal.append(columns(("a", 2, 1.0)))
    storage.snapshots.save("f", [Snapshot.of("a", 3, b"new")])
    assert storage.snapshots.fetch("f", ["a"]) == [Snapshot.of("a", 3, b"new")]


def test_a_corrupted_record_is_named(storage: PostgresStorage, postgres: Cluster, database: str) -> None:
    for k in range(3):
        storage.journal.append(columns(("a", k, 1.0)))
    with postgres.connect(database) as connection:
        connection.execute("UPDATE forecaster.journal SET payload = '\\x01020304' WHERE sequence = 2")
    with pytest.raises(StorageError, match=r"/test\d+: record 2 of 'model' is corrupted"):
        rows(storage)


def test_a_refused_write_is_said_and_keeps_nothing(storage: PostgresStorage, postgres: Cluster, database: str) -> None:
    """What the server itself refuses, as it does when its disk is full, is no matter of the connection."""
    with postgres.connect(database) as connection:
        connection.execute("ALTER TABLE forecaster.journal ADD CONSTRAINT small CHECK (length(payload) < 1000)")
        with pytest.raises(StorageError, match=r'cannot be written: .*violates check constraint "small"'):
            storage.journal.append(columns(("a", 0, 1.0)), columns(*(("a", k, 1.0) for k in range(1, 100))))
        assert storage.journal.append(columns(("a", 0, 1.0))) == 1
        connection.execute("ALTER TABLE forecaster.journal DROP CONSTRAINT small")
    assert rows(storage) == [("a", 0, 1.0)]


def test_interval_does_not_wait_for_the_disk_until_it_is_asked_to(postgres: Cluster, database: str) -> None:
    def flushed() -> bool:
        with postgres.connect(database) as connection:
            found = connection.execute("SELECT pg_current_wal_insert_lsn() <= pg_current_wal_flush_lsn()").fetchone()
            assert found is not None
            return bool(found[0])

    storage = open_postgres(postgres.url(database), "interval", "model")
    seen = set()
    for k in range(50):  # the server's own writer may be faster now and then
        storage.journal.append(columns(("a", k, 1.0)))
        seen.add(flushed())
    assert False in seen
    for k in range(50):
        storage.journal.append(columns(("a", 100 + k, 1.0)))
        before = lsn(postgres, database, "insert")
        storage.journal.sync()
        assert lsn(postgres, database, "flush") >= before
    storage.close()


def lsn(postgres: Cluster, database: str, which: str) -> int:
    with postgres.connect(database) as connection:
        found = connection.execute(f"SELECT pg_current_wal_{which}_lsn() - '0/0'::pg_lsn").fetchone()
        assert found is not None
        return int(found[0])


def test_servers_that_start_together_make_the_tables_once(postgres: Cluster, database: str) -> None:
    opened: list[PostgresStorage] = []
    barrier = threading.Barrier(5)

    def start(name: str) -> None:
        barrier.wait()
        opened.append(open_postgres(postgres.url(database), "commit", name))

    threads = [threading.Thread(target=start, args=(f"model {k}",)) for k in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for storage in opened:
        storage.close()
    assert len(opened) == 5


def test_tables_of_another_version_are_refused(postgres: Cluster, database: str) -> None:
    open_postgres(postgres.url(database), "commit", "model").close()
    with postgres.connect(database) as connection:
        connection.execute("UPDATE forecaster.schema_version SET version = 99")
    with pytest.raises(StorageError, match="version 99, this server knows 3"):
        open_postgres(postgres.url(database), "commit", "model")


@pytest.mark.parametrize("version", [1, 2])
def test_tables_of_an_earlier_version_are_brought_up_to_date(postgres: Cluster, database: str, version: int) -> None:
    storage = open_postgres(postgres.url(database), "commit", "model")
    storage.journal.append(columns(("a", 1, 1.0)), columns(("a", 2, 1.0)))
    storage.close()
    with postgres.connect(database) as connection:
        connection.execute("DROP TABLE forecaster.bundles")
        if version == 1:
            connection.execute("ALTER TABLE forecaster.leases DROP COLUMN dropped_through")
        connection.execute("UPDATE forecaster.schema_version SET version = %s", (version,))
    for _ in range(2):
        storage = open_postgres(postgres.url(database), "commit", "model")
        assert rows(storage) == [("a", 1, 1.0), ("a", 2, 1.0)]
        storage.close()
    storage = open_postgres(postgres.url(database), "commit", "model")
    assert storage.journal.prune(1, committed_before_us=EVER, keep_history=False) == 1
    assert rows(storage) == [("a", 2, 1.0)]
    storage.snapshots.keep_bundle("f", {"one": b"1"})
    assert storage.snapshots.kept_bundle("f") == {"one": b"1"}
    storage.close()


def test_the_check_names_what_is_damaged_beside_the_owner(
    storage: PostgresStorage, postgres: Cluster, database: str
) -> None:
    for k in range(3):
        storage.journal.append(columns(("a", k, 1.0)))
    storage.journal.prune(1, committed_before_us=EVER, keep_history=True)
    storage.snapshots.save("f", [Snapshot.of("a", 3, b"x"), Snapshot.of("b", 3, b"y")])
    assert inspect(postgres.url(database), "model").report().endswith("3 records, 2 snapshots: all as it was written")
    with postgres.connect(database) as connection:
        connection.execute("UPDATE forecaster.history SET payload = '\\x01020304'")
        connection.execute("UPDATE forecaster.snapshots SET state = 'z' WHERE series_id = 'b'")
    storage.snapshots.complete("f", 7)
    assert inspect(postgres.url(database), "model").wrong == [
        "the journal ends with record 3, but records up to 7 were acknowledged",
        "record 1 is corrupted: it is shorter than its header",
        "the snapshot of series 'b' is corrupted",
    ]
    left: list[DamagedHistoryError] = []
    assert [sequence for sequence, _ in storage.journal.read(0, on_damage=left.append)] == [2, 3]
    assert len(left) == 1


def test_a_kept_model_that_was_changed_is_told(storage: PostgresStorage, postgres: Cluster, database: str) -> None:
    bundle = make_bundle()
    keep(storage.snapshots, bundle)
    storage.snapshots.activate(Activation("1", bundle.fingerprint))
    assert inspect(postgres.url(database), "model").report().endswith("1 models: all as it was written")
    with postgres.connect(database) as connection:
        changed = "set_byte(content, octet_length(content) - 1, 255)"
        connection.execute(f"UPDATE forecaster.bundles SET content = {changed} WHERE name = '{WEIGHTS_FILE}'")
    assert inspect(postgres.url(database), "model").wrong == [
        f"the kept model {bundle.fingerprint[:12]} is not what was kept"
    ]


def test_a_database_that_cannot_hold_all_ids_is_refused(postgres: Cluster, database: str) -> None:
    with postgres.connect() as connection:
        connection.execute(f"CREATE DATABASE {database}ascii ENCODING 'SQL_ASCII' TEMPLATE template0")
    with pytest.raises(StorageError, match="ENCODING 'UTF8'"):
        open_postgres(postgres.url(f"{database}ascii"), "commit", "model")


def test_a_database_that_is_not_there_is_told_without_the_password(postgres: Cluster) -> None:
    url = f"postgresql://{SERVER}:s3cret@127.0.0.1:{postgres.port}/nowhere"
    with pytest.raises(StorageError, match="/nowhere: cannot be opened") as caught:
        open_postgres(url, "commit", "model")
    assert "s3cret" not in str(caught.value)
    with pytest.raises(ConfigError, match="not a PostgreSQL URL"):
        open_postgres("postgresql://[::1/x", "commit", "model")


def test_the_url_chooses_the_storage(postgres: Cluster, database: str) -> None:
    url = postgres.url(database)
    storage = open_storage(url, "commit", "model")
    assert isinstance(storage, PostgresStorage)
    assert storage.journal.append(columns(("a", 1, 1.0))) == 1
    storage.close()
    assert not isinstance(open_storage(url, "none", "model"), PostgresStorage)


def test_a_missing_client_library_is_told() -> None:
    script = "import sys; sys.modules['psycopg'] = None; import forecaster.serving.storage.postgres.storage"
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert "ConfigError: --serving.state postgresql://… needs psycopg" in done.stderr
    assert "pip install 'psycopg[binary]'" in done.stderr
