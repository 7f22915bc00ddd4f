"""The engine against the offline model: whatever the batching, retries and restarts, the state is the fold."""

import math
import pathlib
import sqlite3
import tempfile
from collections.abc import Sequence
from contextlib import closing

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from forecaster.config import ModelConfig
from forecaster.errors import InternalError, SeriesNotFoundError, StorageError, TooLittleHistoryError, UnavailableError
from forecaster.model.bundle import Bundle
from forecaster.model.observations import Observations
from forecaster.model.seq2seq import Seq2Seq
from forecaster.serving.engine import Engine
from forecaster.serving.opening import open_storage
from forecaster.serving.records import Columns, Record, Snapshot
from forecaster.serving.sqlite_snapshots import SqliteSnapshots
from forecaster.serving.volatile_storage import VolatileJournal, VolatileStorage
from forecaster.serving.work import ForecastWork, ObserveWork

HOUR_US = 3_600_000_000
GAP = 20


def make_bundle(seed: int = 3, cell: str = "gru", min_history: int = 1) -> Bundle:
    torch.manual_seed(seed)
    config = ModelConfig(
        cell=cell,  # type: ignore[arg-type]
        hidden_size=6,
        decoder_size=6,
        horizon=5,
        season_lengths=(4,),
        min_history=min_history,
    )
    model = Seq2Seq(config, HOUR_US)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return Bundle.of(model, frequency="1h", max_gap_steps=GAP)


BUNDLE = make_bundle()


def columns(rows: Sequence[tuple[str, int, float]]) -> ObserveWork:
    """Rows of (series, hour, value)."""
    ids = tuple(dict.fromkeys(row[0] for row in rows))
    return ObserveWork(
        Columns(
            ids,
            np.array([ids.index(row[0]) for row in rows], dtype=np.int32),
            np.array([row[1] * HOUR_US for row in rows], dtype=np.int64),
            np.array([row[2] for row in rows], dtype=np.float64),
        )
    )


def offline(bundle: Bundle, rows: Sequence[tuple[int, float]]) -> np.ndarray:
    """Forecast [5, Q] by one plain pass over (hour, value) rows from the last long gap on."""
    start = 0
    for k in range(1, len(rows)):
        if rows[k][0] - rows[k - 1][0] > GAP + 1:
            start = k
    rows = rows[start:]
    steps = rows[-1][0] - rows[0][0] + 1
    values = torch.full((1, steps), math.nan, dtype=torch.float64)
    for hour, value in rows:
        values[0, hour - rows[0][0]] = value
    times = HOUR_US * (rows[0][0] + torch.arange(steps))[None]
    with torch.inference_mode():
        observations = Observations(times, values.nan_to_num(0.0), torch.isfinite(values))
        state, _ = bundle.model.scan(bundle.model.initial_state(1), observations)
        return bundle.model.decode(state, 5)[0].numpy()


def forecast(engine: Engine, series_id: str) -> np.ndarray:
    levels = BUNDLE.model.config.quantile_levels
    answer = engine.forecast([ForecastWork((series_id,), 5, levels)])[0]
    assert not answer.failures
    return answer.quantiles[0]


hours = st.lists(st.integers(1, 30), min_size=1, max_size=25)  # steps between observations, some beyond GAP
values = st.one_of(st.floats(-100, 100), st.just(math.nan))
series = st.lists(st.tuples(st.integers(1, 30), values), min_size=1, max_size=25)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(series, min_size=1, max_size=4),
    st.lists(st.integers(1, 12), min_size=1, max_size=30),
    st.randoms(use_true_random=False),
)
def test_any_batching_with_retries_is_the_offline_fold(
    drawn: list[list[tuple[int, float]]], sizes: list[int], random: object
) -> None:
    with tempfile.TemporaryDirectory() as folder, closing(open_storage(folder, "interval")) as storage:
        engine = Engine(BUNDLE, storage, max_series=100)
        check_any_batching(engine, drawn, sizes, random)


def check_any_batching(engine: Engine, drawn: list[list[tuple[int, float]]], sizes: list[int], random: object) -> None:
    rows: dict[str, list[tuple[int, float]]] = {}
    for k, steps in enumerate(drawn):
        clock = 0
        rows[f"s{k}"] = []
        for step, value in steps:
            clock += step
            rows[f"s{k}"].append((clock, value))
    left = {name: list(one) for name, one in rows.items()}
    previous: list[tuple[str, int, float]] = []
    at = 0
    while any(left.values()):
        batch = []
        for _ in range(sizes[at % len(sizes)]):
            name = random.choice([name for name, one in left.items() if one] or [""])  # type: ignore[attr-defined]
            if name:
                batch.append((name, *left[name].pop(0)))
        at += 1
        first, retry = engine.observe([columns(batch), columns(batch)])
        assert not first.errors
        assert (first.outcomes == 1).all()
        assert (retry.outcomes == 2).all(), retry.errors
        previous += batch
    again = engine.observe([columns(previous)])[0]  # however long ago
    assert (again.outcomes == 2).all(), again.errors
    for name, one in rows.items():
        if engine.forecast([ForecastWork((name,), 1, (0.5,))])[0].failures:
            since = max([k for k in range(1, len(one)) if one[k][0] - one[k - 1][0] > GAP + 1], default=0)
            assert all(math.isnan(value) for _, value in one[since:])  # nothing but missing values to go by
            continue
        np.testing.assert_allclose(forecast(engine, name), offline(BUNDLE, one), rtol=1e-4, atol=1e-5)


def stream(n: int, seed: int = 0) -> list[tuple[str, int, float]]:
    rng = np.random.default_rng(seed)
    return [(f"s{k % 3}", k // 3, float(v)) for k, v in enumerate(rng.normal(10, 3, 3 * n))]


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
    monkeypatch.setattr("forecaster.serving.store._SNAPSHOTS_AT_ONCE", 1)
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


class FailingJournal(VolatileJournal):
    """A journal whose disk is full while `full`."""

    full = False

    def append(self, *records: Record) -> int:
        if self.full:
            raise StorageError("the disk is full")
        return super().append(*records)


class FailingStorage(VolatileStorage):
    """Storage with such a journal."""

    def __init__(self) -> None:
        super().__init__()
        self._failing = FailingJournal(self.snapshots)

    @property
    def journal(self) -> FailingJournal:
        return self._failing


def test_what_the_journal_refuses_is_not_applied() -> None:
    storage = FailingStorage()
    journal = storage.journal
    engine = Engine(BUNDLE, storage, max_series=10)
    engine.observe([columns(stream(10))])
    before = forecast(engine, "s0")
    journal.full = True
    with pytest.raises(StorageError):
        engine.observe([columns([("s0", 10, 1.0)])])
    assert np.array_equal(forecast(engine, "s0"), before)
    journal.full = False
    assert (engine.observe([columns([("s0", 10, 1.0)])])[0].outcomes == 1).all()


def test_a_defect_behind_the_journal_stops_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(BUNDLE, VolatileStorage(), max_series=10)
    monkeypatch.setattr("forecaster.serving.lane.advance", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        engine.observe([columns([("a", 1, 1.0)])])
    assert isinstance(engine.broken, ZeroDivisionError)
    with pytest.raises(InternalError, match="restart"):
        engine.forecast([ForecastWork(("a",), 1, (0.5,))])


def test_requests_of_one_batch_get_their_own_answers() -> None:
    engine = Engine(make_bundle(min_history=5), VolatileStorage(), max_series=10)
    engine.observe([columns(stream(10))])
    engine.observe([columns([("short", 1, 1.0)])])
    one, two, three = engine.forecast(
        [
            ForecastWork(("s2", "s0"), 2, (0.1, 0.5)),
            ForecastWork(("nobody", "short", "s1"), 5, (0.5,)),
            ForecastWork(("nobody",), 1, (0.5,)),
        ]
    )
    assert one.series_ids == ("s2", "s0")
    assert one.quantiles.shape == (2, 2, 2)
    assert two.series_ids == ("s1",)
    assert two.median.shape == (1, 5)
    assert {name: type(error) for name, error in two.failures.items()} == {
        "nobody": SeriesNotFoundError,
        "short": TooLittleHistoryError,
    }
    assert three.series_ids == ()
    alone = engine.forecast([ForecastWork(("s0",), 2, (0.1, 0.5))])[0]
    np.testing.assert_allclose(one.quantiles[1], alone.quantiles[0], rtol=1e-5)


def test_errors_go_to_the_request_that_made_them() -> None:
    engine = Engine(BUNDLE, VolatileStorage(), max_series=10)
    engine.observe([columns([("a", 5, 1.0)])])
    good, bad = engine.observe([columns([("b", 1, 1.0)]), columns([("a", 6, 1.0), ("a", 2, 1.0)])])
    assert good.errors == {}
    assert list(bad.errors) == [1]


def test_pages_go_through_all_series() -> None:
    engine = Engine(BUNDLE, VolatileStorage(), max_series=100)
    engine.observe([columns([(f"s{k:02}", 1, 1.0) for k in range(25)])])
    names, after = [], ""
    while True:
        page, total = engine.page(after, 10)
        assert total == 25
        if not page:
            break
        names += [info.series_id for info in page]
        after = names[-1]
    assert names == [f"s{k:02}" for k in range(25)]


def test_room_for_new_series_is_one_for_both_versions() -> None:
    """Some of the series have moved to the next version, where there is as much room as is left in all."""
    engine = Engine(BUNDLE, VolatileStorage(), max_series=5)
    engine.lanes.begin(Engine(make_bundle(seed=4), VolatileStorage()).lanes.active)
    engine.lanes.moved[::2] = True
    names = tuple(f"s{k}" for k in range(40))
    rows = np.append(np.arange(40), np.arange(40))  # two of each
    times = np.repeat([HOUR_US, 2 * HOUR_US], 40)
    answer = engine.observe([ObserveWork(Columns(names, rows.astype(np.int32), times, np.ones(80)))])[0]
    assert not isinstance(answer, Exception)
    assert sorted(set(answer.outcomes.tolist())) == [1, 3]
    assert (answer.outcomes == 1).sum() == 2 * 5
    assert len(engine.lanes) == 5
