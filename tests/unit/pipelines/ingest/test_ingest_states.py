"""A server's journal and history, read beside the server: every acknowledged row once, whatever moves meanwhile."""

import dataclasses
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import polars as pl
import pytest

from forecaster.config import Config, DataConfig, IngestConfig
from forecaster.data.manifest import Changes
from forecaster.data.schema import read_frame
from forecaster.errors import StorageError
from forecaster.serving.storage.contract import Storage
from forecaster.serving.storage.export import Export, Position
from forecaster.serving.storage.opening import open_export, open_storage
from forecaster.serving.storage.postgres import export as postgres_export
from forecaster.serving.storage.records import Attributes, Columns, Deletion
from forecaster.serving.storage.sqlite.database import ReadOnly
from forecaster.serving.storage.sqlite.export import SqliteExport
from pipelines.ingest.step import IngestResult, ingest
from pipelines.training.dataset import ingested
from tests.postgres import Cluster
from tests.unit.serving.storages import columns, erase_all, prune_all

HOUR_US = 3_600_000_000
NAN = float("nan")


@dataclasses.dataclass
class State:
    """A server's state in short, and a data set that is made of it."""

    url: str
    output: pathlib.Path
    open: Callable[[], Storage]

    def ingest(self, **data: Any) -> IngestResult:
        return ingest(self.config(**data))

    def config(self, **data: Any) -> Config:
        return Config(data=DataConfig(**data), ingest=IngestConfig(state=self.url, output=str(self.output)))

    def rows(self, **data: Any) -> list[tuple[Any, ...]]:
        """Return what the data set holds: series, hour, value, covariates."""
        frame = read_frame(ingested(self.config(**data)).data)
        return frame.with_columns(pl.col("ds").to_physical() // HOUR_US).rows()


class Moving:
    """A database whose oldest records move to the history before every query, from one on."""

    def __init__(self, database: ReadOnly, storage: Storage, first: int) -> None:
        self.path, self.close = database.path, database.close
        self._database, self._storage, self._first, self._queries = database, storage, first, 0

    def rows(self, query: str, values: Any = ()) -> Any:
        self._queries += 1
        if self._queries > self._first:
            prune_all(self._storage, min(40 * self._first + 13 * self._queries, 390))
        return self._database.rows(query, values)


def hourly(*rows: tuple[str, int, float], **covariates: list[float]) -> Columns:
    return columns(*((name, hour * HOUR_US, value) for name, hour, value in rows), **covariates)


@pytest.fixture
def sqlite_state(tmp_path: pathlib.Path) -> State:
    folder = tmp_path / "state"
    return State(str(folder), tmp_path / "dataset", lambda: open_storage(str(folder), "commit", "a/model"))


@pytest.fixture(params=["sqlite", "postgres"])
def state(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> State:
    """Return an empty state of each backend."""
    if request.param == "sqlite":
        found: State = request.getfixturevalue("sqlite_state")
        return found
    cluster: Cluster = request.getfixturevalue("postgres")
    url = cluster.url(cluster.create_database())
    return State(url, tmp_path / "dataset", lambda: open_storage(url, "commit", "a/model"))


@pytest.fixture
def storage(state: State) -> Iterator[Storage]:
    """Return the state as a running server has it."""
    made = state.open()
    yield made
    made.close()


def test_what_was_acknowledged_is_there_once(state: State, storage: Storage) -> None:
    told = {"past_covariates": ("rain", "sequence"), "future_covariates": ("price",)}
    storage.journal.append(hourly(("a", 0, 1.0), ("b", 0, NAN)))
    storage.journal.append(hourly(("a", 1, 2.0), rain=[0.5]))
    prune_all(storage, 1)
    storage.journal.append(hourly(("a", 2, 3.0), ("b", 2, 4.0), sequence=[7.0, NAN], wind=[1.0, 1.0]))
    first = state.ingest(**told)
    rows = [
        ("a", 0, 1.0, None, None, None),
        ("a", 1, 2.0, 0.5, None, None),
        ("a", 2, 3.0, None, 7.0, None),
        ("b", 0, None, None, None, None),
        ("b", 2, 4.0, None, None, None),
    ]
    assert first.changes == Changes(new=5)
    assert state.rows(**told) == rows
    storage.journal.append(hourly(("b", 3, 5.0), price=[2.0]))
    prune_all(storage, 4)
    assert state.ingest(**told).changes == Changes(new=1)  # the rest is not read again
    assert state.rows(**told) == [*rows, ("b", 3, 5.0, None, None, 2.0)]
    written = (state.output / "manifest.json").stat().st_ino
    assert state.ingest(**told).line().startswith("nothing new; ")
    assert (state.output / "manifest.json").stat().st_ino == written


def test_static_covariates_come_from_what_series_were_given(state: State, storage: Storage) -> None:
    told = {"static_covariates": ("area",), "static_categories": ("region",)}
    given = Attributes(("a", "b"), ({"area": 1.5, "height": 9.0}, {}), ({"region": "north"}, {"region": "x"}))
    storage.journal.append(given, hourly(("a", 0, 1.0), ("b", 0, 2.0)))
    state.ingest(**told)
    prune_all(storage, 2)
    assert state.rows(**told) == [("a", 0, 1.0, 1.5, "north"), ("b", 0, 2.0, None, "x")]
    storage.journal.append(Attributes(("b",), ({"area": 3.0},), ({"region": "y"},)))
    assert state.ingest(**told).changes == Changes(series=1)
    assert state.rows(**told)[1] == ("b", 0, 2.0, 3.0, "y")


@pytest.mark.parametrize("is_erased", [False, True])
def test_rows_of_deleted_series_do_not_come(state: State, storage: Storage, is_erased: bool) -> None:
    storage.journal.append(hourly(("gone", 0, 1.0), ("again", 0, 1.0), ("stays", 0, 1.0)))
    prune_all(storage, 1)
    storage.journal.append(hourly(("gone", 1, 1.0), ("stays", 1, 1.0)))
    storage.journal.append(Deletion("gone"), Deletion("again"))
    storage.journal.append(hourly(("again", 5, 5.0)))
    if is_erased:
        erase_all(storage)
    state.ingest()
    assert state.rows() == [("again", 5, 5.0), ("stays", 0, 1.0), ("stays", 1, 1.0)]
    storage.journal.append(Deletion("stays"))
    erase_all(storage)
    state.ingest()
    assert len(state.rows()) == 3  # what a data set has got, stays there


def test_rows_that_nobody_kept_are_not_missing_in_silence(state: State, storage: Storage) -> None:
    for hour in range(5):
        storage.journal.append(hourly(("a", hour, float(hour))))
    state.ingest()
    storage.journal.append(Deletion("never there"))
    for hour in range(5, 10):
        storage.journal.append(hourly(("a", hour, float(hour))))
    erase_all(storage)
    prune_all(storage, 5, keep_history=False)
    state.ingest()  # those were read
    for hour in range(10, 15):
        storage.journal.append(hourly(("a", hour, float(hour))))
    prune_all(storage, 13, keep_history=False)
    for _ in range(2):
        with pytest.raises(StorageError, match=r"records 12 to 13 left the journal without a history .*accept_dropped"):
            state.ingest()
    assert len(state.rows()) == 10
    result = ingest(
        dataclasses.replace(state.config(), ingest=dataclasses.replace(state.config().ingest, accept_dropped=True))
    )
    assert result.changes.new == 3
    assert state.ingest().line().startswith("nothing new; ")  # once is enough


def test_a_state_that_was_made_anew_is_read_from_its_beginning(state: State, storage: Storage) -> None:
    storage.journal.append(hourly(("a", 0, 1.0)))
    state.ingest()
    position = Position(1, 12345)  # as of a journal of which nothing else is left
    export = open_export(state.url, "a/model")
    assert not export.continues(position)
    assert not export.continues(Position(99, 1))
    (frame,) = export.frames(0)
    there = Position(1, frame["committed_time"].to_physical()[0])
    assert export.continues(there)
    prune_all(storage, 1)
    assert export.continues(there)
    export.close()


def test_a_new_journal_in_the_same_place(sqlite_state: State, tmp_path: pathlib.Path) -> None:
    storage = sqlite_state.open()
    storage.journal.append(hourly(("a", 0, 1.0)))
    storage.journal.append(hourly(("a", 1, 1.0)))
    sqlite_state.ingest()
    storage.close()
    shutil.rmtree(tmp_path / "state")
    storage = sqlite_state.open()
    for hour in range(2, 6):
        storage.journal.append(hourly(("a", hour, 2.0)))
    assert sqlite_state.ingest().changes == Changes(new=4)
    storage.close()


def test_records_that_move_while_they_are_read(sqlite_state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every query, some records leave the journal for the history, whose files are merged with the next ones."""
    storage = sqlite_state.open()
    appended = [storage.journal.append(hourly(("a", k, float(k)), ("b", k, 1.0))) for k in range(400)]
    for first_move in range(8):
        export = open_export(sqlite_state.url, "")
        assert isinstance(export, SqliteExport)
        monkeypatch.setattr(export, "_database", Moving(export._database, storage, first_move))
        sequences = pl.concat(export.frames(0), how="diagonal")["sequence"]
        assert sequences.to_list() == [sequence for sequence in appended for _ in "ab"]
        export.close()
    assert any(storage.journal.read(0))
    storage.close()


def test_leftovers_of_an_interrupted_merge_count_once(sqlite_state: State, tmp_path: pathlib.Path) -> None:
    storage = sqlite_state.open()
    for hour in range(6):
        storage.journal.append(hourly(("a", hour, float(hour))))
    prune_all(storage, 3)
    (small,) = (tmp_path / "state").glob("*/history/*.parquet")
    left = tmp_path / "left"
    shutil.copy(small, left)
    prune_all(storage, 6)
    (whole,) = (tmp_path / "state").glob("*/history/*.parquet")
    assert whole != small
    shutil.copy(left, small)  # the process was killed before it removed what it had merged
    shutil.copy(left, small.with_name(small.name + ".partial"))
    assert sqlite_state.ingest().changes == Changes(new=6)
    storage.close()


def test_reading_changes_nothing(sqlite_state: State, tmp_path: pathlib.Path) -> None:
    storage = sqlite_state.open()
    storage.journal.append(hourly(("a", 0, 1.0)))
    prune_all(storage, 1)
    storage.journal.append(hourly(("a", 1, 1.0)))
    crashed = tmp_path / "crashed"
    shutil.copytree(tmp_path / "state", crashed)  # its log was not written back
    storage.close()
    for folder in (tmp_path / "state", crashed):
        files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.endswith("-shm"))
        before = {path: path.read_bytes() for path in files}
        for _ in range(2):
            sqlite_state.url = f"sqlite:///{folder}"
            assert sqlite_state.ingest().manifest.rows == 2
        assert {path: path.read_bytes() for path in files} == before


def test_states_that_cannot_be_read_are_told_in_a_line(sqlite_state: State, tmp_path: pathlib.Path) -> None:
    def refused(url: str, model: str = "forecaster") -> str:
        with pytest.raises(StorageError) as caught:
            open_export(url, model)
        return str(caught.value)

    assert "holds no journal: start a server with it first" in refused(str(tmp_path / "nothing"))
    assert not (tmp_path / "nothing").exists()
    for name in ("one", "two"):
        open_storage(sqlite_state.url, "commit", name).close()
    assert "holds journals of one, two: name one with --tracking.model" in refused(sqlite_state.url)
    export: Export = open_export(sqlite_state.url, "two")
    assert export.model == "two"
    export.close()
    assert "is not supported" in refused("mysql://there")
    broken = tmp_path / "state" / "one" / "journal.db"
    broken.write_bytes(b"not a database" * 1000)
    assert f"{broken}: cannot be read: " in refused(sqlite_state.url, "one")


def test_a_postgres_export_cannot_write(postgres: Cluster) -> None:
    url = postgres.url(postgres.create_database())
    with pytest.raises(StorageError, match="holds no journal"):
        open_export(url, "a model")
    open_storage(url, "commit", "a model").close()
    export = postgres_export.PostgresExport(url, "a model")
    with pytest.raises(StorageError, match="read-only transaction"):
        export._rows("DELETE FROM forecaster.journal RETURNING 1", ())
    export.close()


def late(*rows: tuple[str, int, float], **covariates: list[float]) -> Columns:
    return dataclasses.replace(hourly(*rows, **covariates), amends=True)


@pytest.mark.parametrize("pruned", [0, 3, 6])
@pytest.mark.parametrize("corrections", ["replace", "keep"])
def test_the_last_word_on_a_time_counts(state: State, storage: Storage, pruned: int, corrections: str) -> None:
    """In one ingest or in several; a value that was corrected to nothing is gone, with its covariates."""
    told = {"past_covariates": ("rain", "said")}

    def ingested_now(output: pathlib.Path) -> IngestResult:
        config = dataclasses.replace(state, output=output).config(**told)
        return ingest(dataclasses.replace(config, ingest=dataclasses.replace(config.ingest, corrections=corrections)))

    storage.journal.append(hourly(*(("a", hour, float(hour)) for hour in range(5)), rain=[9.0] * 5, said=[1.0] * 5))
    storage.journal.append(hourly(("b", 0, 1.0), ("b", 3, 2.0)))
    ingested_now(state.output)
    storage.journal.append(late(("a", 1, 10.0), ("b", 1, 5.0)))
    storage.journal.append(late(("a", 2, NAN), ("a", 1, 11.0), rain=[NAN, 3.0]))
    storage.journal.append(late(("a", 3, 3.0), rain=[NAN]))
    storage.journal.append(late(("b", -2, 7.0)))
    prune_all(storage, pruned)
    changes = ingested_now(state.output).changes
    assert (changes.new, changes.corrected) == (2, 3 if corrections == "replace" else 1)
    ingested_now(state.output.with_name("whole"))
    last = [
        ("a", 0, 0.0, 9.0, 1.0),
        ("a", 1, 11.0, 3.0, None),
        ("a", 2, None, None, None),
        ("a", 3, 3.0, None, None),
        ("a", 4, 4.0, 9.0, 1.0),
        ("b", -2, 7.0, None, None),
        ("b", 0, 1.0, None, None),
        ("b", 1, 5.0, None, None),
        ("b", 3, 2.0, None, None),
    ]
    first = [("a", hour, float(hour), 9.0, 1.0) for hour in range(5)]
    assert dataclasses.replace(state, output=state.output.with_name("whole")).rows(**told) == last
    assert state.rows(**told) == (last if corrections == "replace" else first + last[5:])
