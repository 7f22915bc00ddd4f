"""One contract for every journal backend, and what is special to SQLite."""

import dataclasses
import math
import pathlib
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable

import numpy as np
import pytest

from forecaster.errors import StorageError
from forecaster.serving.journal import Journal, SqliteJournal, open_journal
from forecaster.serving.records import Attributes, Columns, Deletion, Record, Snapshot

Opener = Callable[[], Journal]


def columns(*rows: tuple[str, int, float]) -> Columns:
    ids = tuple(dict.fromkeys(row[0] for row in rows))
    return Columns(
        ids,
        np.array([ids.index(row[0]) for row in rows], dtype=np.int32),
        np.array([row[1] for row in rows], dtype=np.int64),
        np.array([row[2] for row in rows], dtype=np.float64),
    )


def plain(record: Record) -> object:
    """Return a record as something that compares by value (NaN as None)."""
    if not isinstance(record, Columns):
        return record
    names = [record.series_ids[i] for i in record.series.tolist()]
    values = [None if math.isnan(v) else v for v in record.values.tolist()]
    rows = list(zip(names, record.time_us.tolist(), values, strict=True))
    if record.covariates is None:
        return rows
    beside = [[None if math.isnan(v) else v for v in row] for row in record.covariates.tolist()]
    return rows, record.covariate_names, beside


@pytest.fixture(params=["sqlite"])
def opener(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Opener:
    """Return how a backend is opened, again and again, on the same place."""
    return {"sqlite": lambda: open_journal(f"sqlite:///{tmp_path}/journal.db", "commit")}[request.param]


class TestContract:
    def test_records_come_back_in_order_after_reopening(self, opener: Opener) -> None:
        records: list[Record] = [
            columns(("a", 1, 1.5), ("b", 1, math.nan), ("a", 2, -0.0)),
            Deletion("b"),
            Attributes(("b", "c"), ({"area": 1.5}, {}), ({}, {"region": "é"})),
            columns(("b", 9, 1e300)),
            dataclasses.replace(columns(("b", 10, 1.0)), covariate_names=("rain",), covariates=np.array([[math.nan]])),
        ]
        journal = opener()
        assert journal.last_sequence() == 0
        sequences = [journal.append(record) for record in records]
        assert sequences == sorted(set(sequences))
        journal.close()
        journal = opener()
        assert [(s, plain(r)) for s, r in journal.read(0)] == list(zip(sequences, map(plain, records), strict=True))
        assert [s for s, _ in journal.read(sequences[0])] == sequences[1:]
        assert journal.last_sequence() == sequences[-1]
        journal.close()

    def test_records_are_written_together(self, opener: Opener) -> None:
        journal = opener()
        pair: list[Record] = [Attributes(("a",), ({"area": 1.0},), ({},)), columns(("a", 1, 1.0))]
        assert journal.append(*pair) == 2
        assert [plain(record) for _, record in journal.read(0)] == [plain(record) for record in pair]
        journal.close()

    def test_the_latest_snapshot_of_a_fingerprint_wins(self, opener: Opener) -> None:
        journal = opener()
        journal.save_snapshots("one", [Snapshot.of("a", 1, b"x"), Snapshot.of("b", 1, b"y")])
        journal.save_snapshots("two", [Snapshot.of("a", 5, b"z")])
        journal.close()
        journal = opener()
        assert list(journal.read_snapshots("one")) == [Snapshot.of("b", 1, b"y")]
        assert list(journal.read_snapshots("two")) == [Snapshot.of("a", 5, b"z")]
        journal.close()

    def test_a_deletion_takes_the_snapshot_along(self, opener: Opener) -> None:
        journal = opener()
        journal.save_snapshots("one", [Snapshot.of("a", 1, b"x")])
        journal.append(Deletion("a"))
        assert list(journal.read_snapshots("one")) == []
        journal.close()

    def test_snapshots_are_complete_only_when_all_are_written(self, opener: Opener) -> None:
        journal = opener()
        assert journal.complete_through("one") == 0
        journal.save_snapshots("one", [Snapshot.of("a", 3, b"x")])
        journal.complete_snapshots("one", 3)
        assert journal.complete_through("one") == 3
        journal.save_snapshots("one", [Snapshot.of("a", 7, b"x")])  # interrupted before the rest
        assert journal.complete_through("one") == 3
        journal.save_snapshots("two", [Snapshot.of("a", 9, b"z")])  # takes the place of the other model's
        assert journal.complete_through("one") == 0
        journal.close()

    def test_rows_are_found_by_series_and_time(self, opener: Opener) -> None:
        journal = opener()
        journal.append(columns(("a", 1, 1.0), ("b", 1, 2.0), ("a", 2, math.nan)))
        journal.append(columns(("a", 5, 3.0), ("c", 2, 4.0)))
        journal.append(Deletion("c"))
        journal.append(Attributes(("a",), ({"area": 1.0},), ({},)))
        journal.append(columns(("b", 7, 5.0)))
        wanted = columns(("a", 2, 0.0), ("c", 2, 0.0), ("b", 1, 0.0), ("a", 3, 0.0), ("x", 1, 0.0), ("b", 1, 0.0))
        found, values = journal.find(wanted)
        assert found.tolist() == [True, False, True, False, False, True]
        assert math.isnan(values[0])
        assert values[[2, 5]].tolist() == [2.0, 2.0]
        journal.close()

    def test_a_second_owner_is_refused(self, opener: Opener) -> None:
        journal = opener()
        with pytest.raises(StorageError, match="in use by another server"):
            opener()
        journal.close()
        opener().close()


def test_corruption_in_the_middle_is_named(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "journal.db"
    with SqliteJournal(path) as journal:
        for k in range(3):
            journal.append(columns(("a", k, float(k))))
    with sqlite3.connect(path) as database:
        database.execute("UPDATE journal SET payload = x'01020304' WHERE sequence = 2")
    database.close()
    with SqliteJournal(path) as journal, pytest.raises(StorageError, match=r"journal\.db: record 2 is corrupted"):
        list(journal.read(0))


def test_a_file_that_is_no_database_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "journal.db").write_bytes(b"this is not a database, it is a text" * 100)
    with pytest.raises(StorageError, match=r"journal\.db: cannot be opened"):
        open_journal(str(tmp_path), "commit")


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be opened"):
        open_journal(str(tmp_path / "file" / "state"), "commit")


def test_another_urls_backend_is_refused() -> None:
    with pytest.raises(StorageError, match="not supported"):
        open_journal("mysql://x/y", "commit")


def test_a_full_disk_refuses_writes_keeps_reading_and_resumes(tmp_path: pathlib.Path) -> None:
    with SqliteJournal(tmp_path / "journal.db") as journal:
        journal.append(columns(("a", 1, 1.0)))
        pages = journal._database.execute("PRAGMA page_count").fetchone()[0]
        journal._database.execute(f"PRAGMA max_page_count={pages}")  # SQLite's own "disk is full"
        big = columns(*(("a", k, 1.0) for k in range(2, 3000)))
        with pytest.raises(StorageError, match="full"):
            journal.append(big)
        with pytest.raises(StorageError, match="full"):
            journal.append(Attributes(("a",), ({"area": 1.0},), ({},)), big)
        assert journal.last_sequence() == 1
        journal._database.execute("PRAGMA max_page_count=1073741823")
        assert journal.append(big) == 2


def test_an_append_survives_sigkill(tmp_path: pathlib.Path) -> None:
    script = f"""
        import os, signal
        import numpy as np
        from forecaster.serving.journal import open_journal
        from forecaster.serving.records import Columns
        journal = open_journal({str(tmp_path)!r}, "commit")
        for k in range(5):
            journal.append(Columns(("a",), np.zeros(1, np.int32), np.array([k]), np.array([1.0])))
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    assert done.returncode == -9
    journal = open_journal(str(tmp_path), "commit")
    assert [plain(record) for _, record in journal.read(0)] == [[("a", k, 1.0)] for k in range(5)]
    journal.close()


def test_none_keeps_nothing(tmp_path: pathlib.Path) -> None:
    journal = open_journal(str(tmp_path), "none")
    assert journal.append(columns(("a", 1, 1.0))) == 1
    assert not journal.find(columns(("a", 1, 1.0)))[0].any()
    assert list(journal.read(0)) == []
    assert list(tmp_path.iterdir()) == []
