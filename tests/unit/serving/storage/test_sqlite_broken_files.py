"""SQLite files that are corrupted, torn, or older than others: what was acknowledged stays, a cache is made anew."""

import logging
import pathlib
import sqlite3
import subprocess
import sys
import textwrap
import zlib

import pytest

from forecaster.errors import StorageError
from forecaster.serving.storage.opening import open_storage
from forecaster.serving.storage.records import Snapshot
from tests.unit.serving.storage.sqlite_files import MODEL, files, opened
from tests.unit.serving.storages import columns, contents, plain, prune_all


def test_corruption_in_the_middle_is_named(tmp_path: pathlib.Path) -> None:
    storage = opened(tmp_path)
    for k in range(3):
        storage.journal.append(columns(("a", k, float(k))))
    storage.close()
    with sqlite3.connect(files(tmp_path) / "journal.db") as database:
        database.execute("UPDATE journal SET payload = x'01020304' WHERE sequence = 2")
    database.close()
    storage = opened(tmp_path)
    named = r"journal\.db: record 2 is corrupted .* restore the file from a copy"
    with pytest.raises(StorageError, match=named):
        contents(storage)
    with pytest.raises(StorageError, match=named):
        prune_all(storage, 3)
    assert [s for s, _ in contents(storage, 2)] == [3]
    storage.close()


def test_a_truncated_log_keeps_what_was_acknowledged_before(tmp_path: pathlib.Path) -> None:
    script = f"""
        import os, signal, sys
        from forecaster.serving.storage.opening import open_storage
        from tests.unit.serving.storages import columns
        storage = open_storage({str(tmp_path)!r}, "commit", {MODEL!r})
        log = {str(files(tmp_path) / "journal.db-wal")!r}
        for k in range(5):
            storage.journal.append(columns(("a", k, float(k))))
            print(os.path.getsize(log), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    sizes = [int(size) for size in done.stdout.split()]
    with (files(tmp_path) / "journal.db-wal").open("r+b") as log:
        log.truncate(sizes[3] + (sizes[4] - sizes[3]) // 2)  # in the middle of the last one
    with pytest.raises(StorageError, match="ends with record 4, but records up to 5 were acknowledged"):
        opened(tmp_path)
    storage = open_storage(str(tmp_path), "commit", MODEL, accepted_loss=5)
    assert [record for _, record in contents(storage)] == [plain(columns(("a", k, float(k)))) for k in range(4)]
    assert storage.journal.append(columns(("a", 9, 1.0))) == 6
    storage.close()


@pytest.mark.parametrize("damage", ["missing", "no database", "torn", "later version"])
def test_snapshots_are_a_cache(tmp_path: pathlib.Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    storage = opened(tmp_path)
    storage.journal.append(columns(("a", 1, 1.0)))
    storage.snapshots.save("f", [Snapshot.of(f"{k}", 1, bytes(3000)) for k in range(100)])
    storage.snapshots.complete("f", 1)
    storage.close()
    path = files(tmp_path) / "snapshots.db"
    if damage == "missing":
        path.unlink()
    elif damage == "later version":
        with sqlite3.connect(path) as database:
            database.execute("PRAGMA user_version=9")
        database.close()
    else:
        whole = path.read_bytes()
        path.write_bytes(b"this is no database" * 1000 if damage == "no database" else b"\xff" * 9000 + whole[9000:])
    with caplog.at_level(logging.WARNING):
        storage = opened(tmp_path)
    assert (damage == "missing") == ("set aside" not in caplog.text)
    assert len(list(files(tmp_path).glob("snapshots.db.broken-*"))) == (0 if damage == "missing" else 1)
    assert storage.snapshots.fingerprints() == []
    assert storage.snapshots.complete_through("f") is None
    storage.snapshots.save("f", [Snapshot.of("a", 1, b"x")])
    assert len(contents(storage)) == storage.snapshots.count("f") == 1
    storage.close()


def test_snapshots_of_what_the_journal_lost_are_dropped(tmp_path: pathlib.Path) -> None:
    """Whatever took the journal's end under `interval` may have left the snapshots of it."""
    storage = opened(tmp_path, "interval")
    for k in range(1, 6):
        storage.journal.append(columns(("a", k, 1.0)))
    storage.snapshots.save("f", [Snapshot.of("a", 5, b"x"), Snapshot.of("b", 2, b"y")])
    storage.snapshots.save("g", [Snapshot.of("b", 3, b"z")])
    storage.snapshots.complete("f", 5)
    storage.snapshots.complete("g", 5)
    storage.close()
    with sqlite3.connect(files(tmp_path) / "journal.db") as database:
        database.execute("DELETE FROM journal WHERE sequence > 3")
    database.close()
    storage = opened(tmp_path, "interval")
    assert storage.journal.last_sequence() == 5  # sequences are never given again
    assert list(storage.snapshots.read("f")) == [Snapshot.of("b", 2, b"y")]
    assert list(storage.snapshots.read("g")) == [Snapshot.of("b", 3, b"z")]
    assert storage.snapshots.complete_through("f") is None  # the whole journal has to be replayed
    assert storage.snapshots.complete_through("g") == 3
    storage.close()


def test_sequences_of_the_history_are_not_given_again(tmp_path: pathlib.Path) -> None:
    """After a power cut under `interval` the history, which is synced, may reach further than the journal."""
    storage = opened(tmp_path, "interval")
    for k in range(1, 6):
        storage.journal.append(columns(("a", k, 1.0)))
    prune_all(storage, 5)
    storage.close()
    with sqlite3.connect(files(tmp_path) / "journal.db") as database:
        database.execute("DELETE FROM marks")
    database.close()
    storage = opened(tmp_path, "interval")
    assert storage.journal.append(columns(("a", 6, 1.0))) == 6
    storage.close()
    storage = opened(tmp_path, "interval")
    assert [sequence for sequence, _ in contents(storage)] == [1, 2, 3, 4, 5, 6]
    storage.close()


def test_a_snapshot_that_rotted_is_told_from_a_whole_one(tmp_path: pathlib.Path) -> None:
    storage = opened(tmp_path)
    storage.snapshots.save("f", [Snapshot.of("a", 0, b"state"), Snapshot("b", 0, b"stale", zlib.crc32(b"state"))])
    assert [one.is_whole for one in storage.snapshots.read("f")] == [True, False]
    storage.close()
