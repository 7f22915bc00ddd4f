"""The engine against the offline model: whatever the batching, retries and restarts, the state is the fold."""

import math
import tempfile
from contextlib import closing

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from forecaster.errors import InternalError, SeriesNotFoundError, StorageError, TooLittleHistoryError
from forecaster.serving.engine.engine import Engine
from forecaster.serving.storage.opening import open_storage
from forecaster.serving.storage.records import Columns
from forecaster.serving.storage.volatile import VolatileStorage
from forecaster.serving.work.forecasting import ForecastWork
from forecaster.serving.work.observing import ObserveWork
from tests.unit.serving.failing import FailingStorage
from tests.unit.serving.folding import BUNDLE, GAP, HOUR_US, columns, forecast, make_bundle, offline, stream

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
    for method in ("advance", "run"):
        monkeypatch.setattr(f"forecaster.serving.lanes.lane.Stepper.{method}", lambda *_: 1 / 0)
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
