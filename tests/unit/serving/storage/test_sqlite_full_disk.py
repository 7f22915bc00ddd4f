"""A full disk: writes are refused whole, reading goes on, and so does everything when there is room again."""

import pathlib
import random
import resource
import sqlite3

import pytest

from forecaster.errors import StorageError
from forecaster.serving.storage.records import Attributes, Snapshot
from forecaster.serving.storage.sqlite import history
from forecaster.serving.storage.sqlite import pruning as sqlite_pruning
from forecaster.serving.storage.sqlite import schema as sqlite_schema
from tests.unit.serving.storage.sqlite_files import files, opened
from tests.unit.serving.storages import FOR_EVER_US, columns, contents, plain, prune_all


def test_it_refuses_writes_keeps_reading_and_resumes(tmp_path: pathlib.Path) -> None:
    storage = opened(tmp_path)
    storage.journal.append(columns(("a", 1, 1.0)))
    big = columns(*(("a", k, 1.0) for k in range(2, 300_000)))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))  # "file too large": all that a test can fill
    try:
        for records in ([big], [Attributes(("a",), ({"area": 1.0},), ({},)), big]):
            with pytest.raises(StorageError, match=r"journal\.db: cannot be written: .*check disk space"):
                storage.journal.append(*records)
        with pytest.raises(StorageError, match=r"snapshots\.db: cannot be written"):
            storage.snapshots.save("f", [Snapshot.of(f"{k}", 1, random.randbytes(9000)) for k in range(300)])
        assert contents(storage) == [(1, plain(columns(("a", 1, 1.0))))]
        assert storage.journal.last_sequence() == 1
        assert len(storage.journal.attributes(["a"])) == storage.snapshots.count("f") == 0
        assert storage.journal.append(columns(("a", 2, 1.0))) == 2  # a small one fits
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert storage.journal.append(big) == 3
    storage.close()
    storage = opened(tmp_path)
    assert [sequence for sequence, _ in contents(storage)] == [1, 2, 3]
    storage.close()


def test_pruning_takes_nothing_that_the_history_cannot_take(tmp_path: pathlib.Path) -> None:
    storage = opened(tmp_path)
    rng = random.Random(1)
    for k in range(3):
        storage.journal.append(columns(*((f"s{n}", k, rng.random()) for n in range(50_000))))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
    try:
        with pytest.raises(StorageError, match=r"parquet: cannot be written"):
            storage.journal.prune(3, committed_before_us=FOR_EVER_US, keep_history=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list((files(tmp_path) / "history").iterdir()) == []
    assert [sequence for sequence, _ in contents(storage)] == [1, 2, 3]
    assert prune_all(storage, 3) == 3
    assert sum(len(record) for _, record in storage.journal.read(0)) == 150_000  # type: ignore[arg-type]
    storage.close()


@pytest.mark.parametrize("transactions", [0, 1, 2])
def test_what_could_not_be_taken_out_is_not_written_twice(
    tmp_path: pathlib.Path, transactions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The history has a part, and some of the transactions that take it out of the journal fail."""
    storage = opened(tmp_path)
    for k in range(300):
        storage.journal.append(columns(("a", k, float(k))))
    assert storage.journal.prune(5, committed_before_us=FOR_EVER_US, keep_history=True) == 5
    left = iter(range(transactions))

    def remember_last(connection: sqlite3.Connection) -> None:
        if next(left, None) is None:
            raise sqlite3.OperationalError("database or disk is full")
        sqlite_schema.remember_last(connection)

    with monkeypatch.context() as full:
        full.setattr(sqlite_pruning, "remember_last", remember_last)
        for _ in range(2):
            with pytest.raises(StorageError, match="check disk space"):
                storage.journal.prune(300, committed_before_us=FOR_EVER_US, keep_history=True)
    assert [sequence for sequence, _ in contents(storage)] == list(range(1, 301))
    for k in range(300, 310):
        storage.journal.append(columns(("a", k, float(k))))
    assert prune_all(storage, 310) == 10  # the others are in the history already
    for _ in range(2):
        assert [sequence for sequence, _ in contents(storage)] == list(range(1, 311))
        assert history.scan(files(tmp_path) / "history").collect()["ds"].to_physical().to_list() == list(range(310))
        storage.close()
        storage = opened(tmp_path)
    storage.close()


def test_reading_only_is_told(tmp_path: pathlib.Path) -> None:
    storage = opened(tmp_path)
    storage.journal.append(columns(("a", 1, 1.0)))
    storage._database._connection.execute("PRAGMA query_only=ON")  # type: ignore[attr-defined]
    with pytest.raises(StorageError, match="readonly"):
        storage.journal.append(columns(("a", 2, 1.0)))
    storage._database._connection.execute("PRAGMA query_only=OFF")  # type: ignore[attr-defined]
    assert storage.journal.append(columns(("a", 2, 1.0))) == 2
    storage.close()
