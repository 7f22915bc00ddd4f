"""A journal that ends before what was acknowledged is noticed, said, and gone on with only if somebody says so."""

import logging
import pathlib
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.errors import StorageError
from forecaster.serving.storage.contract import Storage
from forecaster.serving.storage.opening import open_storage
from forecaster.serving.storage.records import Snapshot
from forecaster.serving.storage.sqlite.high_water_mark import HighWaterMark, read_mark
from tests.unit.serving.storage.sqlite_files import MODEL, files, opened
from tests.unit.serving.storages import Opener, columns, contents, prune_all

RECORDS = 8
Lose = Callable[[Storage, int], None]


def killed(folder: pathlib.Path, copy: pathlib.Path, durability: str = "commit", *, synced: int = 0) -> pathlib.Path:
    """Write records and copy the files while the storage is open: what a kill -9 leaves."""
    storage = opened(folder, durability)
    for k in range(1, RECORDS + 1):
        storage.journal.append(columns(("a", k, float(k))))
        if k == synced:
            storage.journal.sync()
    shutil.copytree(folder, copy)
    storage.close()
    return files(copy)


def flip(path: pathlib.Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


def cut_log(folder: pathlib.Path) -> None:
    log = folder / "journal.db-wal"
    log.write_bytes(log.read_bytes()[: -log.stat().st_size // 4])


def flip_log(folder: pathlib.Path) -> None:
    flip(folder / "journal.db-wal", (folder / "journal.db-wal").stat().st_size * 3 // 4)


def empty(folder: pathlib.Path) -> None:
    (folder / "journal.db").write_bytes(b"")
    (folder / "journal.db-wal").unlink()


def remove(folder: pathlib.Path) -> None:
    for path in folder.glob("journal.db*"):
        path.unlink()


def sequences(storage: Storage) -> list[int]:
    return [sequence for sequence, _ in contents(storage)]


@pytest.mark.parametrize("damage", [cut_log, flip_log, empty, remove])
def test_a_lost_end_is_refused_until_it_is_accepted(
    tmp_path: pathlib.Path, damage: Callable[[pathlib.Path], None]
) -> None:
    folder = killed(tmp_path / "one", tmp_path / "two")
    damage(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.endswith("-shm")}
    for accepted in (None, RECORDS - 1):
        with pytest.raises(StorageError, match="Restore it from a copy, or go on") as refused:
            open_storage(str(tmp_path / "two"), "commit", MODEL, accepted_loss=accepted)
    told = re.search(
        r"ends with record (\d+), but records up to (\d+) .* --serving.accept_loss_through 8", str(refused.value)
    )
    assert told is not None
    end = int(told[1])
    assert (0 <= end < RECORDS, int(told[2])) == (True, RECORDS)
    after = {name: (folder / name).read_bytes() for name in before}
    assert after == before  # whoever can repair the log still can
    storage = open_storage(str(tmp_path / "two"), "commit", MODEL, accepted_loss=RECORDS)
    for _ in range(2):
        assert sequences(storage) == list(range(1, end + 1))
        assert storage.journal.last_sequence() == RECORDS
        storage.close()
        storage = opened(tmp_path / "two")  # once is enough
    assert storage.journal.append(columns(("a", 9, 9.0))) == RECORDS + 1
    storage.close()


def test_a_whole_journal_is_opened_however_the_server_ended(tmp_path: pathlib.Path) -> None:
    killed(tmp_path / "one", tmp_path / "two")
    for folder in (tmp_path / "one", tmp_path / "two"):  # stopped, killed
        storage = opened(folder)
        assert sequences(storage) == list(range(1, RECORDS + 1))
        storage.close()
    shutil.copytree(tmp_path / "one", tmp_path / "backup")
    storage = opened(tmp_path / "one")
    storage.journal.append(columns(("a", 99, 1.0)))
    storage.close()
    storage = opened(tmp_path / "backup")  # whole, if older
    assert storage.journal.append(columns(("a", 99, 1.0))) == RECORDS + 1
    storage.close()


def test_an_older_journal_put_back_alone_is_noticed(tmp_path: pathlib.Path) -> None:
    killed(tmp_path / "one", tmp_path / "two")
    shutil.copy(files(tmp_path / "one") / "journal.db", tmp_path / "older")
    storage = opened(tmp_path / "one")
    storage.journal.append(columns(("a", 99, 1.0)))
    storage.close()
    shutil.copy(tmp_path / "older", files(tmp_path / "one") / "journal.db")
    with pytest.raises(StorageError, match="ends with record 8, but records up to 9 were acknowledged"):
        opened(tmp_path / "one")


def test_snapshots_know_it_where_there_is_no_mark(tmp_path: pathlib.Path) -> None:
    """As in a folder of an earlier version, or where the mark was damaged too."""
    folder = killed(tmp_path / "one", tmp_path / "two")
    storage = opened(tmp_path / "two")
    storage.snapshots.save("f", [Snapshot.of("a", 5, b"x")])
    storage.snapshots.complete("f", 6)
    storage.close()
    flip(folder / "journal.mark", 3)
    flip(folder / "journal.mark", 67)
    opened(tmp_path / "two").close()  # the journal is whole
    assert read_mark(folder / "journal.mark") == RECORDS
    (folder / "journal.mark").unlink()
    with sqlite3.connect(folder / "journal.db") as database:
        database.execute("DELETE FROM journal WHERE sequence > 4")
    database.close()
    with pytest.raises(StorageError, match="ends with record 4, but records up to 6 were acknowledged"):
        opened(tmp_path / "two")


def test_under_interval_a_loss_is_said_in_the_log(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its promise ends with a power cut; what was not synced is not known to be acknowledged for good."""
    folder = killed(tmp_path / "one", tmp_path / "two", "interval", synced=6)
    assert read_mark(folder / "journal.mark") == 6
    cut_log(folder)
    with caplog.at_level(logging.WARNING):
        storage = opened(tmp_path / "two", "interval")
    end = sequences(storage)[-1]
    assert (f"records {end + 1} to 6 are gone" in caplog.text) == (end < 6)
    storage.close()
    opened(tmp_path / "two").close()  # under `commit` too: it was told


def test_where_the_journal_does_not_reach_back_the_snapshots_stay(
    opener: Opener, accepting: Opener, lose: Lose
) -> None:
    storage = opener()
    for k in range(1, RECORDS + 1):
        storage.journal.append(columns(("a", k, float(k))))
        if k == 5:
            prune_all(storage, 3, keep_history=False)
    storage.snapshots.save("f", [Snapshot.of("a", 8, b"x")])
    storage.snapshots.complete("f", 8)
    lose(storage, 5)
    with pytest.raises(StorageError, match="ends with record 5, but records up to 8 were acknowledged"):
        opener()
    storage = accepting()
    assert storage.snapshots.fetch("f", ["a"]) == [Snapshot.of("a", 8, b"x")]
    assert (storage.snapshots.complete_through("f"), storage.journal.first_sequence(), contents(storage)) == (8, 9, [])
    storage.close()


def test_where_it_does_they_are_folded_again(opener: Opener, accepting: Opener, lose: Lose) -> None:
    storage = opener()
    for k in range(1, RECORDS + 1):
        storage.journal.append(columns(("a", k, float(k)), ("b", k, 1.0)))
    storage.snapshots.save("f", [Snapshot.of("a", 8, b"x"), Snapshot.of("b", 2, b"y")])
    storage.snapshots.complete("f", 8)
    lose(storage, 5)
    with pytest.raises(StorageError, match="ends with record 5, but records up to 8 were acknowledged"):
        opener()
    storage = accepting()
    assert [one.series_id for one in storage.snapshots.read("f")] == ["b"]
    assert (storage.snapshots.complete_through("f"), sequences(storage)) == (None, [1, 2, 3, 4, 5])
    assert storage.journal.append(columns(("a", 9, 9.0))) == 9
    storage.close()


@settings(deadline=None)  # it syncs
@given(st.lists(st.integers(0, 50), max_size=20))
def test_a_mark_is_the_highest_that_was_reached(reached: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "mark"
        mark = HighWaterMark(path)
        for k, sequence in enumerate(reached):
            mark.reach(sequence)
            assert read_mark(path) == max(reached[: k + 1])  # as after a kill
            if k % 5 == 4:
                mark.close()
                mark = HighWaterMark(path)
        assert mark.value == max(reached, default=0)
        torn = path.read_bytes()
        mark.close()
        path.write_bytes(torn[:70] + b"\xff" + torn[71:])
        assert (read_mark(path) or 0) <= max(reached, default=0)
