"""What is special to SQLite: files, older versions' files, what is left of the deleted."""

import logging
import pathlib
import random
import sqlite3
import struct
import subprocess

import polars as pl
import pytest

from forecaster.errors import StorageError
from forecaster.serving.storage.opening import open_storage
from forecaster.serving.storage.records import Attributes, Deletion, Record, Snapshot, encode
from forecaster.serving.storage.sqlite import history
from forecaster.serving.storage.sqlite.folder import quoted
from forecaster.serving.storage.sqlite.storage import own
from tests.unit.serving.storage.sqlite_files import MODEL, files, opened
from tests.unit.serving.storages import columns, contents, erase_all, plain, prune_all


def holding(folder: pathlib.Path, needle: bytes) -> list[str]:
    """Return the files that hold a byte string. The storage is closed: reading beside it would drop its locks."""
    return sorted(p.name for p in folder.rglob("*") if p.is_file() and needle in p.read_bytes())


def held_beside(folder: pathlib.Path, needle: str) -> str:
    """Return the files that hold a text, looked for by another process: the storage is open."""
    return subprocess.run(["grep", "-rla", needle, folder], check=False, capture_output=True, text=True).stdout


class TestFiles:
    def test_each_model_has_a_folder(self, tmp_path: pathlib.Path) -> None:
        one, other = open_storage(str(tmp_path), "commit", "one"), open_storage(f"sqlite:///{tmp_path}", "commit", "..")
        one.journal.append(columns(("a", 1, 1.0)))
        assert contents(other) == []
        one.close()
        other.close()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["%2E%2E", "one"]
        assert (tmp_path / "one" / "journal.db").is_file()

    def test_names_of_models_become_names_of_folders(self) -> None:
        assert quoted("a/b") == "a%2Fb"
        assert quoted("../x") == "%2E%2E%2Fx"
        assert quoted("Zähler 1.5") == "Z%C3%A4hler 1.5"

    def test_another_urls_backend_is_refused(self) -> None:
        with pytest.raises(StorageError, match="not supported"):
            open_storage("mysql://x/y", "commit", MODEL)

    def test_a_folder_that_cannot_be_made_is_refused(self, tmp_path: pathlib.Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(StorageError, match="cannot be opened"):
            opened(tmp_path / "file" / "state")

    def test_a_file_that_is_no_database_is_refused(self, tmp_path: pathlib.Path) -> None:
        files(tmp_path).mkdir()
        (files(tmp_path) / "journal.db").write_bytes(b"this is not a database, it is a text" * 100)
        with pytest.raises(StorageError, match=r"journal\.db: cannot be opened"):
            opened(tmp_path)
        (files(tmp_path) / "journal.db").unlink()
        opened(tmp_path).close()  # nothing holds it any more

    def test_a_later_versions_file_is_refused(self, tmp_path: pathlib.Path) -> None:
        opened(tmp_path).close()
        with sqlite3.connect(files(tmp_path) / "journal.db") as database:
            database.execute("PRAGMA user_version=9")
        database.close()
        with pytest.raises(StorageError, match="schema version 9"):
            opened(tmp_path)


OLD_SCHEMA = """
CREATE TABLE IF NOT EXISTS journal (
    sequence INTEGER PRIMARY KEY, committed_us INTEGER NOT NULL,
    first_us INTEGER NOT NULL, last_us INTEGER NOT NULL, payload BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS snapshots (
    series_id TEXT PRIMARY KEY, sequence INTEGER NOT NULL, fingerprint TEXT NOT NULL, state BLOB NOT NULL,
    checksum INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS complete_snapshots (fingerprint TEXT PRIMARY KEY, sequence INTEGER NOT NULL);
PRAGMA user_version=1;
"""
OLD_RECORDS: list[tuple[Record, int, int]] = [
    (columns(("a", 5, 1.0), ("b", 7, 2.0)), 5, 7),
    (Attributes(("a", "b"), ({"area": 1.0}, {"area": 2.0}), ({}, {})), 2**63 - 1, -(2**63)),
    (Deletion("a"), -(2**63), 2**63 - 1),
    (columns(("a", 9, 3.0)), 9, 9),
]


def write_old(path: pathlib.Path) -> None:
    """Write a journal as version 0.1 did."""
    path.parent.mkdir(exist_ok=True)
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.executescript(OLD_SCHEMA)
        rows = [(k + 1, 10**15, *times, encode(record)) for k, (record, *times) in enumerate(OLD_RECORDS)]
        database.executemany("INSERT INTO journal VALUES (?, ?, ?, ?, ?)", rows)
        database.execute("INSERT INTO snapshots VALUES ('b', 4, 'f', x'00', 0)")
        database.execute("INSERT INTO complete_snapshots VALUES ('f', 4)")
    database.close()


class TestOlderVersions:
    @pytest.mark.parametrize(
        ("older", "state"),
        [
            ("journal.db", "{}"),
            ("journal.db", "sqlite:///{}"),
            ("journal.db", "sqlite:///{}/journal.db"),
            ("other.db", "sqlite:///{}/other.db"),
            ("a model%2Fof mine/journal.db", "{}"),
        ],
    )
    def test_their_journal_is_taken_over(self, tmp_path: pathlib.Path, older: str, state: str) -> None:
        write_old(tmp_path / older)
        for _ in range(2):
            storage = open_storage(state.format(tmp_path), "commit", MODEL)
            assert contents(storage) == [(k + 1, plain(record)) for k, (record, *_) in enumerate(OLD_RECORDS)]
            assert storage.journal.attributes(["a", "b"]) == Attributes(("b",), ({"area": 2.0},), ({},))
            assert storage.snapshots.fingerprints() == []
            assert storage.journal.find(columns(("a", 5, 0.0), ("b", 7, 0.0))).found.tolist() == [False, True]
            storage.close()
        assert len(list(tmp_path.rglob("*.db"))) == 2
        storage = open_storage(state.format(tmp_path), "commit", MODEL)
        erase_all(storage)
        assert contents(storage)[0] == (1, plain(columns(("b", 7, 2.0))))
        assert storage.journal.append(columns(("b", 10, 1.0))) == 5
        storage.close()

    def test_it_is_not_taken_from_a_running_server(self, tmp_path: pathlib.Path) -> None:
        write_old(tmp_path / "journal.db")
        running = own(tmp_path / "journal.db")  # as an older server does
        with pytest.raises(StorageError, match="in use by another server"):
            opened(tmp_path)
        running.close()
        storage = opened(tmp_path)
        assert len(contents(storage)) == len(OLD_RECORDS)
        storage.close()

    def test_a_storage_without_a_name_stays_where_it_is(self, tmp_path: pathlib.Path) -> None:
        nameless = open_storage(str(tmp_path), "commit")
        nameless.journal.append(columns(("a", 1, 1.0)))
        nameless.close()
        storage = opened(tmp_path)
        assert contents(storage) == []
        storage.close()
        nameless = open_storage(str(tmp_path), "commit")
        assert len(contents(nameless)) == 1
        nameless.close()


GONE, STAYS = "meter of Mrs Möller", "another meter"
SECRET = 1234.5678901234567


class TestWhatIsForgotten:
    @pytest.mark.parametrize("durability", ["commit", "interval"])
    def test_no_file_holds_a_byte_of_it(self, tmp_path: pathlib.Path, durability: str) -> None:
        storage = opened(tmp_path, durability)
        rng = random.Random(1)
        for k in range(300):
            names = [f"{rng.randrange(10**9)}" for _ in range(rng.randrange(30))]
            rows = [*((name, k, rng.random()) for name in names), (STAYS, k, 1.0), (GONE, k, SECRET)]
            rng.shuffle(rows)
            beside = [SECRET if row[0] == GONE else 0.0 for row in rows]
            storage.journal.append(columns(*rows, **({"rain": beside} if k % 3 else {})))
        storage.journal.append(Attributes((STAYS, GONE), ({}, {"area": SECRET}), ({}, {"owner": "Erika"})))
        state = struct.pack("<d", SECRET) + GONE.encode()
        many = [Snapshot.of(f"{k}", 1, rng.randbytes(60)) for k in range(500)]
        storage.snapshots.save("f", [*many, Snapshot.of(GONE, 301, state), Snapshot.of(STAYS, 301, b"x" * 40)])
        storage.snapshots.save("g", [Snapshot.of(GONE, 301, state)])
        storage.snapshots.sync()
        prune_all(storage, 100)
        prune_all(storage, 150)
        (files(tmp_path) / "snapshots.db.broken-1").write_bytes(state)
        needles = [GONE.encode(), b"M\\u00f6ller", struct.pack("<d", SECRET), repr(SECRET).encode(), b"Erika"]
        beside = storage.beside()
        storage.journal.append(Deletion(GONE))
        storage.journal.append(columns((STAYS, 1000, 2.0)))
        assert erase_all(beside) >= 3
        assert held_beside(tmp_path, "Mrs M") == ""  # while the server runs
        beside.close()
        storage.close()
        assert [holding(tmp_path, needle) for needle in needles] == [[]] * len(needles)
        assert holding(tmp_path, STAYS.encode()) != []
        storage = opened(tmp_path, durability)
        rows = [row for _, record in contents(storage) if isinstance(record, list) for row in record]
        assert len(rows) > 3000
        assert [row[1] for row in rows if row[0] == STAYS] == [*range(300), 1000]
        assert not any(row[0] == GONE for row in rows)
        storage.close()

    def test_a_reader_keeps_it_in_the_log_only_until_the_next_call(self, tmp_path: pathlib.Path) -> None:
        storage = opened(tmp_path)
        storage.journal.append(columns((GONE, 1, SECRET), (STAYS, 1, 1.0)))
        reader = sqlite3.connect(files(tmp_path) / "journal.db", isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM journal").fetchall()
        storage.journal.append(Deletion(GONE))
        erase_all(storage)
        assert "journal.db-wal" in held_beside(tmp_path, "Mrs M")
        reader.close()
        assert storage.journal.erase() == 0
        assert held_beside(tmp_path, "Mrs M") == ""
        storage.close()

    def test_what_could_not_be_removed_at_once_does_not_come_back(
        self, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        storage = opened(tmp_path)
        storage.journal.append(columns((GONE, 1, 1.0)))
        storage.snapshots.save("f", [Snapshot.of(GONE, 1, b"x")])
        storage.snapshots.sync()
        with sqlite3.connect(files(tmp_path) / "snapshots.db") as database:
            database.execute("CREATE TRIGGER no BEFORE DELETE ON snapshots BEGIN SELECT RAISE(ABORT, 'broken'); END")
        database.close()
        with caplog.at_level(logging.WARNING):
            storage.journal.append(Deletion(GONE))
        assert "stay for now" in caplog.text
        assert storage.snapshots.fetch("f", [GONE]) == list(storage.snapshots.read("f")) == []
        storage.snapshots.save("f", [Snapshot.of(GONE, 1, b"late")])
        assert storage.snapshots.fetch("f", [GONE]) == []
        with pytest.raises(StorageError, match="broken"):
            erase_all(storage)
        assert [type(record) for _, record in storage.journal.read(0)] == [Deletion]  # it is still known
        with sqlite3.connect(files(tmp_path) / "snapshots.db") as database:
            database.execute("DROP TRIGGER no")
        database.close()
        erase_all(storage)
        assert storage.snapshots.fetch("f", [GONE]) == contents(storage) == []
        storage.close()


class TestHistoryFiles:
    def test_they_are_a_data_set(self, tmp_path: pathlib.Path) -> None:
        storage = opened(tmp_path)
        storage.journal.append(columns(("a", 3_600_000_000, 1.0), ("b", 0, float("nan"))))
        prune_all(storage, 1)
        storage.journal.append(columns(("a", 7_200_000_000, 2.0), rain=[0.5], y=[7.0]))
        for _ in range(20):
            storage.journal.append(columns(("a", 1, 2.0)))
        prune_all(storage, 2)
        storage.close()
        frame = history.scan(files(tmp_path) / "history").collect()
        assert frame.columns == ["sequence", "committed_time", "unique_id", "ds", "y", "rain", "covariate:y"]
        assert frame.schema["ds"] == frame.schema["committed_time"] == pl.Datetime("us", "UTC")
        assert frame["sequence"].to_list() == [1, 1, 2]
        assert frame["unique_id"].to_list() == ["a", "b", "a"]
        assert frame["y"].to_list() == [1.0, None, 2.0]
        assert frame["rain"].to_list() == [None, None, 0.5]
        assert frame["ds"].dt.hour().to_list() == [1, 0, 2]
        assert frame["committed_time"].dt.year().min() >= 2024  # type: ignore[operator]

    def test_small_ones_are_merged_and_large_ones_left(self, tmp_path: pathlib.Path) -> None:
        storage = opened(tmp_path)
        for k in range(200):
            assert storage.journal.append(columns(*((f"s{n}", k, 1.0) for n in range(10)))) == k + 1
            prune_all(storage, k + 1)
        found = sorted((files(tmp_path) / "history").iterdir())
        assert 1 <= len(found) <= 12
        assert [sequence for sequence, _ in contents(storage)] == list(range(1, 201))
        storage.close()

    def test_what_is_known_of_merged_ones_is_forgotten(self, tmp_path: pathlib.Path) -> None:
        written, read = history.History(tmp_path), history.History(tmp_path)
        for k in range(1, 100):
            written.append(k, k, [(k, 0, columns(("a", k, 1.0)))])
            for file in read.files():
                assert read.bounds(file).rows == file.last - file.first + 1
        present = {file.path.name for file in written.files()}
        assert len(present) < 10
        assert set(read._bounds) == present
        assert len(written._bounds) < 10
        assert written.erase(written.files()[0], ["a"])
        assert (read.bounds(read.files()[0]).rows, set(read._bounds)) == (0, present)  # the same name, another file

    def test_a_broken_one_is_named(self, tmp_path: pathlib.Path) -> None:
        storage = opened(tmp_path)
        storage.journal.append(columns(("a", 1, 1.0)))
        prune_all(storage, 1)
        (path,) = (files(tmp_path) / "history").iterdir()
        path.write_bytes(path.read_bytes()[:100])
        for use in (lambda: contents(storage), lambda: storage.journal.find(columns(("a", 1, 0.0)))):
            with pytest.raises(StorageError, match=rf"{path.name}: cannot be read .* restore the file from a copy"):
                use()
        storage.close()
