"""What is special to SQLite: files, older versions' files, what is left of the deleted, full disks, corruption."""

import logging
import pathlib
import random
import resource
import sqlite3
import struct
import subprocess
import sys
import textwrap
import zlib

import polars as pl
import pytest

from forecaster.errors import StorageError
from forecaster.serving import history, sqlite_pruning, sqlite_schema
from forecaster.serving.opening import open_storage, quoted
from forecaster.serving.records import Attributes, Deletion, Record, Snapshot, encode
from forecaster.serving.sqlite_storage import own
from forecaster.serving.storage import Storage
from tests.unit.serving.storages import FOR_EVER_US, columns, contents, erase_all, plain, prune_all

MODEL = "a model/of mine"


def opened(folder: pathlib.Path, durability: str = "commit") -> Storage:
    return open_storage(str(folder), durability, MODEL)  # type: ignore[arg-type]


def files(folder: pathlib.Path) -> pathlib.Path:
    return folder / quoted(MODEL)


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
            assert storage.journal.find(columns(("a", 5, 0.0), ("b", 7, 0.0)))[0].tolist() == [False, True]
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


class TestBrokenFiles:
    def test_corruption_in_the_middle_is_named(self, tmp_path: pathlib.Path) -> None:
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

    def test_a_truncated_log_keeps_what_was_acknowledged_before(self, tmp_path: pathlib.Path) -> None:
        script = f"""
            import os, signal, sys
            from forecaster.serving.opening import open_storage
            from tests.unit.serving.storages import columns
            storage = open_storage({str(tmp_path)!r}, "commit", {MODEL!r})
            log = {str(files(tmp_path) / "journal.db-wal")!r}
            for k in range(5):
                storage.journal.append(columns(("a", k, float(k))))
                print(os.path.getsize(log), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        """
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script)], check=False, capture_output=True, text=True
        )
        assert done.returncode == -9, done.stderr
        sizes = [int(size) for size in done.stdout.split()]
        with (files(tmp_path) / "journal.db-wal").open("r+b") as log:
            log.truncate(sizes[3] + (sizes[4] - sizes[3]) // 2)  # in the middle of the last one
        storage = opened(tmp_path)
        assert [record for _, record in contents(storage)] == [plain(columns(("a", k, float(k)))) for k in range(4)]
        assert storage.journal.append(columns(("a", 9, 1.0))) == 5
        storage.close()

    @pytest.mark.parametrize("damage", ["missing", "no database", "torn", "later version"])
    def test_snapshots_are_a_cache(self, tmp_path: pathlib.Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
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
            path.write_bytes(
                b"this is no database" * 1000 if damage == "no database" else b"\xff" * 9000 + whole[9000:]
            )
        with caplog.at_level(logging.WARNING):
            storage = opened(tmp_path)
        assert (damage == "missing") == ("set aside" not in caplog.text)
        assert len(list(files(tmp_path).glob("snapshots.db.broken-*"))) == (0 if damage == "missing" else 1)
        assert storage.snapshots.fingerprints() == []
        assert storage.snapshots.complete_through("f") is None
        storage.snapshots.save("f", [Snapshot.of("a", 1, b"x")])
        assert len(contents(storage)) == storage.snapshots.count("f") == 1
        storage.close()

    def test_snapshots_of_what_the_journal_lost_are_dropped(self, tmp_path: pathlib.Path) -> None:
        """A power cut under `interval` may take the journal's end but not the snapshots of it."""
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
        assert storage.journal.last_sequence() == 3
        assert list(storage.snapshots.read("f")) == [Snapshot.of("b", 2, b"y")]
        assert list(storage.snapshots.read("g")) == [Snapshot.of("b", 3, b"z")]
        assert storage.snapshots.complete_through("f") is None  # the whole journal has to be replayed
        assert storage.snapshots.complete_through("g") == 3
        storage.close()

    def test_sequences_of_the_history_are_not_given_again(self, tmp_path: pathlib.Path) -> None:
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


class TestFullDisk:
    def test_it_refuses_writes_keeps_reading_and_resumes(self, tmp_path: pathlib.Path) -> None:
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

    def test_pruning_takes_nothing_that_the_history_cannot_take(self, tmp_path: pathlib.Path) -> None:
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
        self, tmp_path: pathlib.Path, transactions: int, monkeypatch: pytest.MonkeyPatch
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

    def test_reading_only_is_told(self, tmp_path: pathlib.Path) -> None:
        storage = opened(tmp_path)
        storage.journal.append(columns(("a", 1, 1.0)))
        storage._database._connection.execute("PRAGMA query_only=ON")  # type: ignore[attr-defined]
        with pytest.raises(StorageError, match="readonly"):
            storage.journal.append(columns(("a", 2, 1.0)))
        storage._database._connection.execute("PRAGMA query_only=OFF")  # type: ignore[attr-defined]
        assert storage.journal.append(columns(("a", 2, 1.0))) == 2
        storage.close()


def test_a_snapshot_that_rotted_is_told_from_a_whole_one(tmp_path: pathlib.Path) -> None:
    storage = opened(tmp_path)
    storage.snapshots.save("f", [Snapshot.of("a", 0, b"state"), Snapshot("b", 0, b"stale", zlib.crc32(b"state"))])
    assert [one.is_whole for one in storage.snapshots.read("f")] == [True, False]
    storage.close()
