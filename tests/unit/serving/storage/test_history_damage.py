"""History files that are changed or gone: noticed, named, and a matter of those series only that need them."""

import dataclasses
import pathlib
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing

import numpy as np
import polars as pl
import pytest

from forecaster.cli import main
from forecaster.errors import DamagedHistoryError, StateLostError
from forecaster.serving.engine.engine import Engine
from forecaster.serving.storage.contract import Storage
from forecaster.serving.storage.opening import inspect
from forecaster.serving.storage.records import Columns, Deletion, Snapshot
from forecaster.serving.storage.sqlite.history import History
from forecaster.serving.storage.sqlite.history_ledger import digest_of
from forecaster.serving.storage.sqlite.history_reader import HistoryFile, HistoryReader
from forecaster.serving.work.forecasting import ForecastWork
from tests.unit.serving.folding import BUNDLE, forecast, stream
from tests.unit.serving.folding import columns as requested
from tests.unit.serving.storage import sqlite_files
from tests.unit.serving.storage.sqlite_files import MODEL, files, opened
from tests.unit.serving.storages import columns, contents, erase_all, plain, prune_all

Damage = Callable[[pathlib.Path], None]


def flip(path: pathlib.Path) -> None:
    """Change one bit of a value."""
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)


def cut(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def rewrite(path: pathlib.Path) -> None:
    """Leave a file that is whole, with other values, as a copy of another day would be."""
    other = History(path.parent)
    other.erase(next(file for file in other.files() if file.path == path), ["a"])


def remove(path: pathlib.Path) -> None:
    path.unlink()


DAMAGES = [flip, cut, rewrite, remove]


def with_history(folder: pathlib.Path, *, first: int = 30, second: int = 3) -> Storage:
    """Return a storage with two history files, too unlike in size to be merged, and a record behind them."""
    storage = opened(folder)
    for start, count in ((0, first), (first, second)):
        storage.journal.append(columns(*((name, k, float(k)) for k in range(start, start + count) for name in "ab")))
        prune_all(storage, storage.journal.last_sequence())
    storage.journal.append(columns(("b", 100, 1.0)))
    assert len(history(folder)) == 2
    return storage


def history(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted((files(folder) / "history").glob("*.parquet"))


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("reopened", [False, True])
def test_damage_is_noticed_wherever_the_file_is_read(tmp_path: pathlib.Path, damage: Damage, reopened: bool) -> None:
    storage = with_history(tmp_path)
    path = history(tmp_path)[0]
    expected = contents(storage)
    shutil.copy(path, tmp_path / "copy")
    damage(path)
    if reopened:
        storage.close()
        storage = opened(tmp_path)
    for use in (lambda: contents(storage), lambda: storage.journal.find(columns(("a", 1, 0.0)))):
        with pytest.raises(DamagedHistoryError, match=rf"{path.name}: cannot be read .* restore the file from a copy"):
            use()
    assert len(storage.journal.damage()) == len(storage.damaged()) == 1
    assert path.name in storage.damaged()[0]
    found = storage.journal.find(columns(("b", 31, 0.0), ("b", 100, 0.0))).found
    assert found.all()  # the other file, and the journal
    left: list[DamagedHistoryError] = []
    assert [s for s, _ in storage.journal.read(0, on_damage=left.append)] == [2, 3]
    assert [error.last_us for error in left] == [29]
    shutil.copy(tmp_path / "copy", path)
    assert contents(storage) == expected  # it was put back
    assert storage.damaged() == []
    storage.close()


@pytest.mark.parametrize("damage", DAMAGES)
def test_pruning_and_erasing_go_on(tmp_path: pathlib.Path, damage: Damage) -> None:
    storage = with_history(tmp_path, second=2)  # so few that the next ones would be merged with them
    path = history(tmp_path)[1]
    shutil.copy(path, tmp_path / "copy")
    damage(path)
    storage.journal.append(columns(("a", 200, 1.0), ("b", 200, 2.0)))
    storage.journal.append(Deletion("a"))
    storage.snapshots.save("f", [Snapshot.of("a", 1, b"x"), Snapshot.of("b", 4, b"y")])
    assert erase_all(storage) > 0
    assert storage.journal.erase() == 0  # it does not begin again
    assert [one.series_id for one in storage.snapshots.read("f")] == ["b"]
    assert prune_all(storage, 5) == 2
    storage.journal.append(columns(("a", 300, 3.0)))
    for _ in range(2):
        kept = [record for _, record in storage.journal.read(0, on_damage=lambda error: None)]
        names = [name for record in kept for name, *_ in plain(record)]  # type: ignore[union-attr]
        assert set(names[:-1]) == {"b"}
        assert names[-1] == "a"
        storage.close()
        storage = opened(tmp_path)
    shutil.copy(tmp_path / "copy", path)  # of before the deletion
    rows = [row for record in (plain(record) for _, record in storage.journal.read(0)) for row in record]  # type: ignore[union-attr]
    assert [row[1] for row in rows if row[0] == "a"] == [300]
    assert [row[1] for row in rows if row[0] == "b"] == [*range(32), 100, 200]
    assert erase_all(storage) == 1  # what was owed
    assert inspect(str(tmp_path), MODEL).wrong == []
    frame = History(path.parent).frame(next(f for f in History(path.parent).files() if f.path == path))
    assert set(frame["unique_id"]) == {"b"}
    storage.close()


def test_files_of_a_version_that_knew_no_digests_are_taken_over(tmp_path: pathlib.Path) -> None:
    storage = with_history(tmp_path)
    expected = contents(storage)
    storage.close()
    with sqlite3.connect(files(tmp_path) / "journal.db") as database:
        database.executescript("DROP TABLE history_files; DROP TABLE unerased; PRAGMA user_version=2")
    database.close()
    (files(tmp_path) / "journal.mark").unlink()
    storage = opened(tmp_path)
    assert contents(storage) == expected
    flip(history(tmp_path)[1])
    with pytest.raises(DamagedHistoryError):
        contents(storage)
    storage.close()


ROWS = stream(40)  # of s0, s1, s2


def served(folder: pathlib.Path, hours: int = 40) -> np.ndarray:
    """Let an engine observe `ROWS`, snapshot them and move them to the history; return a forecast of s1."""
    with closing(opened(folder)) as storage:
        engine = Engine(BUNDLE, storage)
        engine.recover()
        engine.observe([requested(ROWS)])
        engine.snapshot()
        prune_all(storage, 1)
        return forecast(engine, "s1")


def corrupt(folder: pathlib.Path, series: str) -> None:
    with closing(sqlite3.connect(files(folder) / "snapshots.db")) as database, database:
        database.execute("UPDATE snapshots SET state = zeroblob(length(state)) WHERE series_id = ?", (series,))


@pytest.mark.parametrize("damage", DAMAGES)
def test_only_the_series_that_needs_a_damaged_file_is_refused(tmp_path: pathlib.Path, damage: Damage) -> None:
    before = served(tmp_path)
    (path,) = history(tmp_path)
    shutil.copy(path, tmp_path / "copy")
    damage(path) if damage is not rewrite else path.write_bytes(b"PAR1" * 100)
    corrupt(tmp_path, "s0")
    with closing(opened(tmp_path)) as storage:
        engine = Engine(BUNDLE, storage)
        assert engine.recover()[0] == 2
        np.testing.assert_allclose(forecast(engine, "s1"), before, rtol=1e-6)
        answer = engine.forecast([ForecastWork(("s1", "s0", "s2"), 5, (0.5,))])[0]
        assert answer.series_ids == ("s1", "s2")
        assert {name: type(error) for name, error in answer.failures.items()} == {"s0": StateLostError}
        with pytest.raises(StateLostError, match="'s0'"):
            engine.observe([requested([("s0", 41, 1.0)])])
        infos = {info.series_id: info for info in engine.page("", 10)[0]}
        assert "restore it from a copy, or delete" in infos["s0"].failure
        assert [infos[name].length for name in ("s1", "s2")] == [40, 40]
        assert engine.describe("s0").failure
        turn = engine.observe([requested([("s0", 40, 1.0)]), requested([("s1", 40, 1.0)])])
        assert turn[1].outcomes.tolist() == [1]
        shutil.copy(tmp_path / "copy", path)
        assert engine.describe("s0").length == 40  # the file is back
    with closing(opened(tmp_path)) as storage:
        engine = Engine(BUNDLE, storage)
        assert engine.recover()[0] == 3


def test_a_lost_series_may_be_deleted_and_begin_anew(tmp_path: pathlib.Path) -> None:
    served(tmp_path)
    remove(history(tmp_path)[0])
    corrupt(tmp_path, "s0")
    with closing(opened(tmp_path)) as storage:
        engine = Engine(BUNDLE, storage)
        engine.recover()
        engine.delete("s0")
        assert len(engine.lanes) == 2
        engine.observe([requested([("s0", 50, 1.0)])])
        assert engine.describe("s0").length == 1
        engine.snapshot()
    with closing(opened(tmp_path)) as storage:
        engine = Engine(BUNDLE, storage)
        assert engine.recover()[0] == 3
        assert engine.describe("s0").length == 1


def test_the_command_says_what_is_damaged_beside_an_open_state(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_files, "MODEL", "mine")  # MLflow takes no name with a slash
    arguments = ["verify-state", f"--serving.state={tmp_path}", "--tracking.model=mine"]
    storage = with_history(tmp_path)
    storage.snapshots.save("f", [Snapshot.of("a", 1, b"state")])
    assert main(arguments) == 0
    assert "1 records, 1 snapshots, 2 history files: all as it was written" in capsys.readouterr().out.replace(
        "1 snapshots, 1 records", "1 records, 1 snapshots"
    )
    storage.snapshots.save("f", [Snapshot("a", 1, b"stale", 1)])
    flip(history(tmp_path)[0])
    remove(history(tmp_path)[1])
    storage._database.commit("UPDATE journal SET payload = x'0102' WHERE sequence = ?", (3,))  # type: ignore[attr-defined]
    assert main(arguments) == 1
    said = capsys.readouterr().out
    assert "4 faults" in said
    assert "record 3 is corrupted" in said
    assert "the snapshot of series 'a' is corrupted" in said
    assert said.count("cannot be read") == 2
    storage.close()


@pytest.mark.parametrize("is_renamed", [False, True])
def test_a_rewriting_that_was_cut_short_leaves_what_is_owed_and_known(tmp_path: pathlib.Path, is_renamed: bool) -> None:
    """Two digests stand there for a moment; a damaged file must not become the known one by that."""
    storage = with_history(tmp_path)
    path = history(tmp_path)[0]
    ledger = storage._history._ledger  # type: ignore[attr-defined]
    entries = [entry for entry in ledger.entries()[0] if entry.name == path.name]
    ledger.note(dataclasses.replace(entries[0], digest=digest_of(path.read_bytes() + b"?")))
    ledger.owe(path.name, ["a"])
    path.write_bytes(path.read_bytes() + (b"?" if is_renamed else b"damaged"))
    storage.close()
    storage = opened(tmp_path)
    left = [entry.digest for entry in storage._history._ledger.entries()[0] if entry.name == path.name]  # type: ignore[attr-defined]
    assert len(left) == (1 if is_renamed else 2)
    assert storage._history._ledger.owed(path.name) == ["a"]  # type: ignore[attr-defined]
    assert bool(storage.journal.damage()) is not is_renamed
    storage.close()


@pytest.mark.parametrize("fails", [False, True])
def test_a_file_that_is_rewritten_while_it_is_read_is_not_damaged(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """A scan opens a file more than once, and may find the end of one and the beginning of another, or worse."""
    folder = tmp_path / "history"
    writer, reader, damaged = History(folder), HistoryReader(folder), dict[str, str]()
    reader._damaged = damaged
    hours = range(2000)
    writer.append(1, 9, [(1, 0, columns(*((name, k, float(k)) for k in hours for name in "ab")))])
    without_owed = HistoryReader._without_owed
    erased = False

    def rewritten(self: HistoryReader, file: HistoryFile, frame: pl.LazyFrame) -> pl.LazyFrame:
        nonlocal erased
        if not erased:
            erased = True
            assert writer.erase(writer.files()[0], ["b"])
            if fails:
                return frame.select(pl.col("no such column"))
        return without_owed(self, file, frame)

    monkeypatch.setattr(HistoryReader, "_without_owed", rewritten)
    wanted = columns(("a", 7, 0.0), ("b", 7, 0.0))
    found = []
    for _, part in reader.newest_first(wanted):
        assert isinstance(part, Columns)
        found += [(part.series_ids[k], value) for k, value in zip(part.series, part.values, strict=True)]
    assert erased
    assert found == [("a", 7.0)]
    assert not damaged
