"""An engine that starts again: its states are the fold of the journal, whatever there is of snapshots."""

import pathlib
import sqlite3
from collections.abc import Sequence
from contextlib import closing

import numpy as np
import pytest

from forecaster.errors import SeriesNotFoundError, StateLostError, StorageError, UnavailableError
from forecaster.serving.engine.engine import Engine
from forecaster.serving.storage.opening import open_storage
from forecaster.serving.storage.records import Snapshot
from forecaster.serving.storage.sqlite.snapshots import SqliteSnapshots
from tests.unit.serving.folding import BUNDLE, columns, forecast, make_bundle, offline, stream
from tests.unit.serving.storages import Opener, prune_all


@pytest.mark.parametrize("with_snapshot", [False, True])
def test_recovery_is_the_fold_of_the_journal(tmp_path: pathlib.Path, with_snapshot: bool) -> None:
    rows = stream(40)
    with closing(open_storage(str(tmp_path), "commit")) as storage:
        engine = Engine(BUNDLE, storage, max_series=10)
        engine.observe([columns(rows[:60])])
        if with_snapshot:
            assert engine.snapshot() == 3
        for row in rows[60:]:
            engine.observe([columns([row])])
        before = [forecast(engine, f"s{k}") for k in range(3)]
    with closing(open_storage(str(tmp_path), "commit")) as storage:
        engine = Engine(BUNDLE, storage, max_series=10)
        assert engine.recover() == (3, 60 if with_snapshot else 120)
        for k in range(3):
            np.testing.assert_allclose(forecast(engine, f"s{k}"), before[k], rtol=1e-4, atol=1e-5)
            assert engine.describe(f"s{k}").length == 40
        retry = engine.observe([columns(rows[-9:])])[0]
        assert (retry.outcomes == 2).all()


def test_an_interrupted_snapshot_loses_nothing(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forecaster.serving.states.store._SNAPSHOTS_AT_ONCE", 1)
    rows = stream(40)
    with closing(open_storage(str(tmp_path), "commit")) as storage:
        engine = Engine(BUNDLE, storage, max_series=10)
        engine.observe([columns(rows)])
        before = [forecast(engine, f"s{k}") for k in range(3)]
        saved: list[object] = []
        save = SqliteSnapshots.save

        def interrupted(self: SqliteSnapshots, fingerprint: str, snapshots: Sequence[Snapshot]) -> None:
            saved.append(snapshots)
            if len(saved) > 2:
                raise StorageError("the disk is full")
            save(self, fingerprint, snapshots)

        monkeypatch.setattr(SqliteSnapshots, "save", interrupted)
        with pytest.raises(StorageError):
            engine.snapshot()
        monkeypatch.undo()
    with closing(open_storage(str(tmp_path), "commit")) as storage:
        engine = Engine(BUNDLE, storage, max_series=10)
        assert engine.recover() == (3, 40)  # two series come from their snapshots
        for k in range(3):
            np.testing.assert_allclose(forecast(engine, f"s{k}"), before[k], rtol=1e-4, atol=1e-5)


def test_a_corrupted_snapshot_is_replayed(tmp_path: pathlib.Path) -> None:
    rows = stream(40)
    with closing(open_storage(str(tmp_path), "commit")) as storage:
        engine = Engine(BUNDLE, storage, max_series=10)
        engine.observe([columns(rows)])
        engine.snapshot()
        before = forecast(engine, "s1")
    with sqlite3.connect(tmp_path / "snapshots.db") as database:
        database.execute("UPDATE snapshots SET state = zeroblob(length(state)) WHERE series_id = 's1'")
    database.close()
    with closing(open_storage(str(tmp_path), "commit")) as storage:
        engine = Engine(BUNDLE, storage, max_series=10)
        assert engine.recover() == (3, 40)
        np.testing.assert_allclose(forecast(engine, "s1"), before, rtol=1e-4, atol=1e-5)


def test_a_lower_limit_keeps_what_is_there_and_takes_no_more(tmp_path: pathlib.Path) -> None:
    for with_snapshot in (False, True):
        folder = str(tmp_path / str(with_snapshot))
        with closing(open_storage(folder, "commit")) as storage:
            engine = Engine(BUNDLE, storage, max_series=10)
            engine.observe([columns(stream(5))])
            if with_snapshot:
                engine.snapshot()
        with closing(open_storage(folder, "commit")) as storage:
            engine = Engine(BUNDLE, storage, max_series=1)
            assert engine.recover()[0] == 3
            new = engine.observe([columns([(f"new{k}", 1, 1.0) for k in range(4)])])[0]
            assert (new.outcomes == 3).all()


def test_recovery_stops_when_told(tmp_path: pathlib.Path) -> None:
    with closing(open_storage(str(tmp_path), "commit")) as storage:
        engine = Engine(BUNDLE, storage, max_series=10)
        engine.observe([columns(stream(5))])
        with pytest.raises(UnavailableError, match="told to stop"):
            Engine(BUNDLE, storage, max_series=10).recover(lambda: True)


def test_another_models_snapshot_is_not_used(tmp_path: pathlib.Path) -> None:
    rows = stream(30)
    other = make_bundle(seed=9, cell="lstm")
    with closing(open_storage(str(tmp_path), "commit")) as storage:
        engine = Engine(BUNDLE, storage, max_series=10)
        engine.observe([columns(rows)])
        engine.snapshot()
    with closing(open_storage(str(tmp_path), "commit")) as storage:
        engine = Engine(other, storage, max_series=10)
        assert engine.recover() == (3, 90)
        expected = offline(other, [(hour, value) for name, hour, value in rows if name == "s1"])
        np.testing.assert_allclose(forecast(engine, "s1"), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("with_snapshot", [False, True])
def test_a_deleted_series_stays_deleted_and_may_start_afresh(tmp_path: pathlib.Path, with_snapshot: bool) -> None:
    with closing(open_storage(str(tmp_path), "commit")) as storage:
        engine = Engine(BUNDLE, storage, max_series=10)
        engine.observe([columns(stream(20))])
        if with_snapshot:
            engine.snapshot()
        engine.delete("s0")
        engine.delete("s1")
        engine.observe([columns([("s1", 3, 1.0)])])
        with pytest.raises(SeriesNotFoundError):
            engine.describe("s0")
    with closing(open_storage(str(tmp_path), "commit")) as storage:
        engine = Engine(BUNDLE, storage, max_series=10)
        engine.recover()
        infos, total = engine.page("", 10)
        assert [info.series_id for info in infos] == ["s1", "s2"]
        assert total == 2
        assert infos[0].length == 1


@pytest.mark.parametrize("broken", ["row", "file", "another model"])
def test_where_nothing_else_was_kept_no_series_begins_anew_in_silence(opener: Opener, broken: str) -> None:
    """Without a history pruned records live on in the snapshots alone."""
    rows = stream(40)
    with closing(opener()) as storage:
        engine = Engine(BUNDLE, storage)
        for row in rows:
            engine.observe([columns([row])])
        engine.snapshot()
        before = {name: forecast(engine, name) for name in ("s0", "s1", "s2")}
        prune_all(storage, 100, keep_history=False)
        if broken == "row":
            (whole,) = storage.snapshots.fetch(BUNDLE.fingerprint, ["s1"])
            torn = Snapshot("s1", whole.sequence, whole.state[:-1] + b"?", whole.checksum)
            storage.snapshots.save(BUNDLE.fingerprint, [torn])
        elif broken == "file":
            storage.snapshots.drop(BUNDLE.fingerprint)
    with closing(opener()) as storage:
        engine = Engine(make_bundle(seed=9) if broken == "another model" else BUNDLE, storage)
        if broken != "row":
            with pytest.raises(StateLostError, match=r"records up to 100 were not kept .*accept_loss_through 100"):
                engine.recover()
            return
        assert engine.recover() == (2, 0)
        for name in ("s0", "s2"):
            np.testing.assert_allclose(forecast(engine, name), before[name], rtol=1e-5)
        assert "records up to 100 were not kept" in engine.describe("s1").failure
        with pytest.raises(StateLostError):
            engine.observe([columns([rows[4]])])  # a retry of an old row is no news
        engine.delete("s1")
        engine.observe([columns([("s1", 50, 1.0)])])
        assert engine.describe("s1").length == 1
