"""The engine with covariates against the offline model: batching, retries, gaps, restarts and other models."""

import dataclasses
import math
import pathlib
from contextlib import closing

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from forecaster.errors import InvalidArgumentError, StorageError
from forecaster.model.bundle import Bundle
from forecaster.model.covariates import Category, Covariate, CovariateSpec
from forecaster.serving.engine.engine import Engine
from forecaster.serving.storage.opening import open_storage
from forecaster.serving.storage.records import Attributes, Columns
from forecaster.serving.storage.volatile import VolatileStorage
from forecaster.serving.work.forecasting import ForecastWork
from forecaster.serving.work.observing import ObserveWork
from tests.unit.model.family import HORIZON, make_model
from tests.unit.serving.failing import FailingStorage
from tests.unit.serving.folding import GAP, Series, Static, assert_same, forecast
from tests.unit.serving.storages import Opener, prune_all
from tests.unit.serving.with_covariates import BUNDLE, NAMES, STATIC, folded, history, work

# Subnormal numbers have too few digits for two orders of summation to agree.
number = st.one_of(st.floats(-50, 50, width=32, allow_subnormal=False), st.just(math.nan))
static_covariates = st.tuples(
    st.dictionaries(st.just("area"), st.floats(0, 100)),
    st.dictionaries(st.sampled_from(["region", "kind"]), st.sampled_from(["north", "south", "a", "elsewhere"])),
)
event = st.tuples(
    st.sampled_from(["s0", "s1", "s2"]),
    st.integers(1, GAP + 8),
    number,
    st.tuples(number, number, number),
    st.one_of(st.none(), st.none(), static_covariates),
)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(event, min_size=1, max_size=40),
    st.lists(st.integers(1, 6), min_size=1, max_size=20),
    st.integers(1, 4),
    st.booleans(),
)
def test_any_batching_with_retries_and_restarts_is_the_offline_fold(
    tmp_path_factory: pytest.TempPathFactory,
    events: list[tuple[str, int, float, tuple[float, ...], Static | None]],
    sizes: list[int],
    together: int,
    with_snapshot: bool,
) -> None:
    """Static covariates hold from their request on, for the rows before it no more than for the series beside it."""
    plain: dict[str, Series] = {}
    clocks: dict[str, int] = {}
    requests: list[ObserveWork] = []
    at = 0
    while at < len(events):
        part = events[at : at + sizes[len(requests) % len(sizes)]]
        at += len(part)
        rows, attributes = [], {}
        for name, step, value, beside, static in part:
            clocks[name] = clocks.get(name, 0) + step
            rows.append((name, clocks[name], value, beside))
            if static is not None:
                attributes[name] = static
        for name, static in attributes.items():
            plain.setdefault(name, Series(NAMES)).static = static
        for name, hour, value, beside in rows:
            plain.setdefault(name, Series(NAMES)).observe(hour, value, beside)
        requests.append(work(rows, attributes))
    folder = str(tmp_path_factory.mktemp("fold"))
    with closing(open_storage(folder, "interval")) as storage:
        engine = Engine(BUNDLE, storage, max_series=10)
        for low in range(0, len(requests), together):
            batch = requests[low : low + together]
            late = requests[low // 2 : low // 2 + 1] if low else []  # a retry of long ago, in the same turn
            for k, answer in enumerate(engine.observe([*late, *batch])):
                assert answer.refused is None
                assert (answer.outcomes == (2 if k < len(late) else 1)).all()
            repeated = engine.observe([ObserveWork(batch[-1].columns), batch[-1]])
            assert all((answer.outcomes == 2).all() for answer in repeated)
            if with_snapshot and low == 0:
                engine.snapshot()
        check(engine, plain, BUNDLE)
    with closing(open_storage(folder, "interval")) as storage:
        engine = Engine(BUNDLE, storage, max_series=10)
        engine.recover()
        check(engine, plain, BUNDLE)


def check(engine: Engine, plain: dict[str, Series], bundle: Bundle) -> None:
    for name, one in plain.items():
        levels = bundle.model.config.quantile_levels
        answer = engine.forecast([ForecastWork((name,), HORIZON, levels)])[0]
        if answer.failures:
            assert all(math.isnan(value) for _, value, *_ in one.steps)
            continue
        expected = one.forecast(bundle)
        size = np.abs(expected).max()
        np.testing.assert_allclose(answer.quantiles[0], expected, rtol=1e-4, atol=1e-5 * max(size, 1))


@pytest.mark.parametrize("restart", [False, True])
def test_a_fresh_start_keeps_static_covariates(tmp_path: pathlib.Path, restart: bool) -> None:
    later = history(start=30 + GAP + 5)
    with closing(open_storage(str(tmp_path), "commit")) as storage:
        engine = Engine(BUNDLE, storage, max_series=10)
        engine.observe([work(history(), {"a": STATIC})])
        engine.observe([work(later)])
        if restart:
            engine = Engine(BUNDLE, storage, max_series=10)
            engine.recover()
        assert engine.describe("a").length == 30
        expected = folded(later, STATIC).forecast(BUNDLE)
        assert not np.allclose(expected, folded(later).forecast(BUNDLE), rtol=1e-3)
        np.testing.assert_allclose(forecast(engine, "a"), expected, rtol=1e-4)


@pytest.mark.parametrize("restart", [False, True])
def test_a_deleted_series_forgets_them(tmp_path: pathlib.Path, restart: bool) -> None:
    with closing(open_storage(str(tmp_path), "commit")) as storage:
        engine = Engine(BUNDLE, storage, max_series=10)
        engine.observe([work(history(), {"a": STATIC})])
        engine.snapshot()
        engine.observe([work([], {"a": ({"area": 1.0}, {})})])
        engine.delete("a")
        engine.observe([work(history())])
        if restart:
            engine = Engine(BUNDLE, storage, max_series=10)
            engine.recover()
        np.testing.assert_allclose(forecast(engine, "a"), folded(history()).forecast(BUNDLE), rtol=1e-4)


@pytest.mark.parametrize("through", [0, 1, 3, 4, 5, 7])
def test_static_covariates_that_changed_are_replayed_as_of_each_row_though_pruned(opener: Opener, through: int) -> None:
    """By a model without snapshots: what held at the rows of the history counts there, and not what holds now."""
    rows, other, one = history(), history("b"), Series(NAMES)
    changes: list[Static] = [STATIC, ({"area": 5.0}, {"region": "north"}), ({}, {"kind": "c"})]
    storage = opener()
    engine = Engine(BUNDLE, storage)
    for k, static in enumerate(changes):
        part = slice(10 * k, 10 * (k + 1))
        engine.observe([work([*rows[part], *other[part]], {"a": static})])
        one.static = static
        for _, hour, value, beside in rows[part]:
            one.observe(hour, value, beside)
    engine.observe([work([], {"a": STATIC})])  # holds from the next row on
    one.static = STATIC
    assert storage.journal.last_sequence() == 7
    assert prune_all(storage, through) == through
    storage.close()
    storage = opener()
    engine = Engine(BUNDLE, storage)
    assert engine.recover() == (2, 60)
    assert_same(forecast(engine, "a"), one.forecast(BUNDLE), "a")
    assert_same(forecast(engine, "b"), folded(other).forecast(BUNDLE), "b")
    for static in changes:
        assert not np.allclose(one.forecast(BUNDLE), folded(rows, static).forecast(BUNDLE), rtol=1e-3)
    (_, hour, value, beside) = later = history(hours=1, start=30)[0]
    engine.observe([work([later], {"a": STATIC})])
    one.observe(hour, value, beside)
    assert_same(forecast(engine, "a"), one.forecast(BUNDLE), "a")
    storage.close()


def test_the_same_static_covariates_are_journaled_once(tmp_path: pathlib.Path) -> None:
    with closing(open_storage(str(tmp_path), "commit")) as storage:
        engine = Engine(BUNDLE, storage, max_series=10)
        for row in history():
            engine.observe([work([row], {"a": STATIC})])
        kinds = [type(record) for _, record in storage.journal.read(0)]
        assert (kinds.count(Attributes), kinds[0]) == (1, Attributes)
        engine.observe([work([], {"a": ({}, {})})])
        engine.observe([work([], {"a": STATIC})])
        assert [type(record) for _, record in storage.journal.read(0)].count(Attributes) == 3
        np.testing.assert_allclose(forecast(engine, "a"), folded(history(), STATIC).forecast(BUNDLE), rtol=1e-4)


@pytest.mark.parametrize("durable", [True, False])
def test_a_late_repetition_brings_no_static_covariates_back(durable: bool, tmp_path: pathlib.Path) -> None:
    """What a series never had is set, though all rows are known: whoever corrects a column sends its rows again."""
    first, second, third = STATIC, ({"area": 99.0}, {"region": "north"}), ({"area": 5.0}, {})
    rows = history(hours=12)
    with closing(open_storage(str(tmp_path), "commit") if durable else VolatileStorage()) as storage:
        engine = Engine(BUNDLE, storage)
        retry = work(rows[:8], {"a": first})
        engine.observe([retry])
        engine.observe([work(rows[8:10], {"a": second})])
        engine.observe([retry, work(rows[10:])])  # together with new rows of the series, which are another request's
        assert storage.journal.attributes(["a"]).numbers == (second[0],)
        assert (engine.observe([work(rows, {"a": third})])[0].outcomes == 2).all()
        assert storage.journal.attributes(["a"]).numbers == (third[0],)
        engine.observe([retry])
        assert storage.journal.attributes(["a"]).numbers == (third[0],)
        engine.observe([work([], {"a": first})])  # alone, they are meant
        assert storage.journal.attributes(["a"]).numbers == (first[0],)


def test_static_covariates_of_nobody_are_refused_and_the_other_requests_are_not() -> None:
    engine = Engine(BUNDLE, VolatileStorage(), max_series=10)
    one, two, three = engine.observe(
        [work(history("a")), work(history("b"), {"b": STATIC, "nobody": STATIC}), work(history("c"), {"c": STATIC})]
    )
    assert (one.refused, three.refused) == (None, None)
    assert (one.outcomes == 1).all()
    assert (three.outcomes == 1).all()
    assert isinstance(two.refused, InvalidArgumentError)
    assert two.refused.violations[0].field == "attributes[1].series_id"
    assert [info.series_id for info in engine.page("", 10)[0]] == ["a", "c"]
    np.testing.assert_allclose(forecast(engine, "c"), folded(history("c"), STATIC).forecast(BUNDLE), rtol=1e-4)


def test_a_series_that_is_named_and_has_no_row_is_nobody() -> None:
    engine = Engine(BUNDLE, VolatileStorage(), max_series=10)
    request = work(history("a"), {"b": STATIC})
    named = dataclasses.replace(request.columns, series_ids=("a", "b"))
    assert isinstance(engine.observe([ObserveWork(named, request.attributes)])[0].refused, InvalidArgumentError)


def test_static_covariates_of_a_row_that_is_refused_make_no_series(tmp_path: pathlib.Path) -> None:
    with closing(open_storage(str(tmp_path), "commit")) as storage:
        engine = Engine(BUNDLE, storage, max_series=1)
        engine.observe([work(history("a"))])
        answer = engine.observe([work(history("b"), {"b": STATIC})])[0]
        assert (answer.outcomes == 3).all()
        assert engine.page("", 10)[1] == 1
        assert [type(record) for _, record in storage.journal.read(0)] == [Columns]


def test_what_was_written_before_the_disk_was_full_is_answered() -> None:
    storage = FailingStorage()
    storage.journal.most = 1
    engine = Engine(BUNDLE, storage, max_series=10)
    row = history()
    first, second, third = engine.observe([work(row[:1]), work(row[1:2], {"a": STATIC}), work(row[2:3])])
    assert first.outcomes.tolist() == [1]
    assert isinstance(second.refused, StorageError)
    assert isinstance(third.refused, StorageError)
    with pytest.raises(StorageError):
        engine.observe([work(row[1:2])])
    assert engine.describe("a").length == 1


def test_the_value_of_a_repeated_row_decides() -> None:
    engine = Engine(BUNDLE, VolatileStorage(), max_series=10)
    rows = history()
    engine.observe([work(rows)])
    other = [(name, hour, value, (1.0, 2.0, 3.0)) for name, hour, value, _ in rows[10:]]
    assert (engine.observe([work(other)])[0].outcomes == 2).all()
    np.testing.assert_allclose(forecast(engine, "a"), folded(rows).forecast(BUNDLE), rtol=1e-4)


OTHER = CovariateSpec(
    past=(Covariate("wind"), Covariate("holiday", 0.1, 0.3)),
    future=(Covariate("rain", 1.0, 2.0),),
    static=(Covariate("age"), Covariate("area", 50.0, 20.0)),
    categories=(Category("region", ("elsewhere", "south")),),
)


@pytest.mark.parametrize("spec", [OTHER, CovariateSpec()], ids=["others", "none"])
def test_a_model_of_other_covariates_replays_by_name(tmp_path: pathlib.Path, spec: CovariateSpec) -> None:
    bundle = Bundle.of(make_model(spec, min_history=1), frequency="1h", max_gap_steps=GAP)
    rows = history()
    with closing(open_storage(str(tmp_path), "commit")) as storage:
        engine = Engine(BUNDLE, storage, max_series=10)
        engine.observe([work(rows[:10], {"a": ({"area": 80.0}, {"region": "elsewhere", "kind": "b"})})])
        engine.observe([ObserveWork(Columns(*(getattr(work(rows[10:20]).columns, name) for name in PLAIN_FIELDS)))])
        engine.observe([work([(*row[:3], row[3][:1]) for row in rows[20:]], names=["rain"])])
        engine = Engine(bundle, storage, max_series=10)
        assert engine.recover() == (1, 30)
    none = (math.nan,) * 3
    given = [(n, h, v, c if h < 10 else none if h < 20 else (c[0], math.nan, math.nan)) for n, h, v, c in rows]
    expected = folded(given, ({"area": 80.0}, {"region": "elsewhere", "kind": "b"})).forecast(bundle)
    np.testing.assert_allclose(forecast(engine, "a"), expected, rtol=1e-4, atol=1e-5)


PLAIN_FIELDS = ("series_ids", "series", "time_us", "values")
