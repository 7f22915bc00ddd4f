"""The engine with covariates against the offline model: batching, retries, gaps, restarts and other models."""

import dataclasses
import math
import pathlib
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from forecaster.errors import InvalidArgumentError, StorageError
from forecaster.model.bundle import Bundle
from forecaster.model.covariates import Category, Covariate, CovariateSpec, with_attributes
from forecaster.model.observations import Observations
from forecaster.serving.engine import Engine
from forecaster.serving.forecasting import series_seed
from forecaster.serving.opening import open_storage
from forecaster.serving.records import Attributes, Columns, Record
from forecaster.serving.storage import Storage
from forecaster.serving.volatile_storage import VolatileJournal, VolatileStorage
from forecaster.serving.work import ForecastWork, Futures, ObserveWork, Sampling, Search
from tests.unit.model.family import HORIZON, HOUR_US, SPEC, make_model

GAP = 20
LEVELS = (0.1, 0.5, 0.9)
BUNDLE = Bundle.of(make_model(SPEC, min_history=1), frequency="1h", max_gap_steps=GAP)
NAMES = SPEC.dynamic

Row = tuple[str, int, float, tuple[float, ...]]  # series, hour, value, covariates
Static = tuple[dict[str, float], dict[str, str]]


def work(rows: Sequence[Row], attributes: dict[str, Static] | None = None, names: Sequence[str] = NAMES) -> ObserveWork:
    ids = tuple(dict.fromkeys(row[0] for row in rows))
    columns = Columns(
        ids,
        np.array([ids.index(row[0]) for row in rows], dtype=np.int32),
        np.array([row[1] * HOUR_US for row in rows], dtype=np.int64),
        np.array([row[2] for row in rows], dtype=np.float64),
        tuple(names),
        np.array([row[3] for row in rows], dtype=np.float64).reshape(len(rows), len(names)),
    )
    static = attributes or {}
    parts = (tuple(static), tuple(n for n, _ in static.values()), tuple(c for _, c in static.values()))
    return ObserveWork(columns, Attributes(*parts) if static else None)


@dataclass
class Plain:
    """One series by the rules: every step of its last run, and the static covariates that held at each."""

    steps: list[tuple[int, float, tuple[float, ...], Static]] = field(default_factory=list)
    static: Static = ({}, {})

    def observe(self, hour: int, value: float, beside: tuple[float, ...]) -> None:
        if self.steps and hour - self.steps[-1][0] > GAP + 1:
            self.steps = []
        missing = (math.nan,) * len(beside)
        while self.steps and self.steps[-1][0] < hour - 1:
            self.steps.append((self.steps[-1][0] + 1, math.nan, missing, self.static))
        self.steps.append((hour, value, beside, self.static))

    def quantiles(self, bundle: Bundle, future: torch.Tensor | None = None) -> np.ndarray:
        model, spec = bundle.model, bundle.model.covariates
        state = model.initial_state(1)
        with torch.inference_mode():
            for hour, value, beside, static in [*self.steps, (None, None, None, self.static)]:
                numbers = [static[0].get(one.name, math.nan) for one in spec.static]
                codes = spec.codes([static[1].get(one.name, "") for one in spec.categories])
                state = with_attributes(
                    state,
                    torch.tensor([numbers], dtype=torch.float64).reshape(1, -1),
                    torch.tensor([codes], dtype=torch.int64).reshape(1, -1),
                )
                if hour is None:
                    break
                beside_of = dict(zip(NAMES, beside, strict=True))
                known = [[beside_of.get(name, math.nan) for name in spec.dynamic]]
                step = Observations.of(
                    torch.tensor([hour * HOUR_US]),
                    torch.tensor([value], dtype=torch.float64),
                    torch.tensor(known, dtype=torch.float64),
                )
                state = model.step(state, step)
            return model.decode(state, HORIZON, future)[0].numpy()


def forecast(engine: Engine, series_id: str, **more: object) -> np.ndarray:
    levels = BUNDLE.model.config.quantile_levels
    answer = engine.forecast([ForecastWork((series_id,), HORIZON, levels, **more)])[0]  # type: ignore[arg-type]
    assert not answer.failures
    return answer.quantiles[0]


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
    plain: dict[str, Plain] = {}
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
            plain.setdefault(name, Plain()).static = static
        for name, hour, value, beside in rows:
            plain.setdefault(name, Plain()).observe(hour, value, beside)
        requests.append(work(rows, attributes))
    folder = str(tmp_path_factory.mktemp("fold"))
    with closing(open_storage(folder, "interval")) as storage:
        engine = Engine(BUNDLE, storage, max_series=10)
        for low in range(0, len(requests), together):
            batch = requests[low : low + together]
            for answer in engine.observe(batch):
                assert answer.refused is None
                assert (answer.outcomes == 1).all()
            repeated = engine.observe([ObserveWork(batch[-1].columns), batch[-1]])
            assert all((answer.outcomes == 2).all() for answer in repeated)
            if with_snapshot and low == 0:
                engine.snapshot()
        check(engine, plain, BUNDLE)
    with closing(open_storage(folder, "interval")) as storage:
        engine = Engine(BUNDLE, storage, max_series=10)
        engine.recover()
        check(engine, plain, BUNDLE)


def check(engine: Engine, plain: dict[str, Plain], bundle: Bundle) -> None:
    for name, one in plain.items():
        levels = bundle.model.config.quantile_levels
        answer = engine.forecast([ForecastWork((name,), HORIZON, levels)])[0]
        if answer.failures:
            assert all(math.isnan(value) for _, value, *_ in one.steps)
            continue
        expected = one.quantiles(bundle)
        size = np.abs(expected).max()
        np.testing.assert_allclose(answer.quantiles[0], expected, rtol=1e-4, atol=1e-5 * max(size, 1))


def history(name: str = "a", hours: int = 30, start: int = 0) -> list[Row]:
    rng = np.random.default_rng(4)
    drawn = rng.normal(10, 3, (start + hours, 4))
    return [(name, hour, drawn[hour, 0], tuple(drawn[hour, 1:])) for hour in range(start, start + hours)]


def plainly(rows: Sequence[Row], static: Static = ({}, {})) -> Plain:
    one = Plain(static=static)
    for _, hour, value, beside in rows:
        one.observe(hour, value, beside)
    return one


STATIC: Static = ({"area": 80.0}, {"region": "south", "kind": "b"})


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
        expected = plainly(later, STATIC).quantiles(BUNDLE)
        assert not np.allclose(expected, plainly(later).quantiles(BUNDLE), rtol=1e-3)
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
        np.testing.assert_allclose(forecast(engine, "a"), plainly(history()).quantiles(BUNDLE), rtol=1e-4)


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
        np.testing.assert_allclose(forecast(engine, "a"), plainly(history(), STATIC).quantiles(BUNDLE), rtol=1e-4)


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
    np.testing.assert_allclose(forecast(engine, "c"), plainly(history("c"), STATIC).quantiles(BUNDLE), rtol=1e-4)


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


class FullAfterOne(VolatileJournal):
    """A journal whose disk is full after one commit."""

    def append(self, *records: Record) -> int:
        if self.last_sequence():
            raise StorageError("the disk is full")
        return super().append(*records)


class FullStorage(VolatileStorage):
    """Storage with such a journal."""

    def __init__(self) -> None:
        super().__init__()
        self._full = FullAfterOne(self.snapshots)

    @property
    def journal(self) -> FullAfterOne:
        return self._full


def test_what_was_written_before_the_disk_was_full_is_answered() -> None:
    engine = Engine(BUNDLE, FullStorage(), max_series=10)
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
    np.testing.assert_allclose(forecast(engine, "a"), plainly(rows).quantiles(BUNDLE), rtol=1e-4)


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
    expected = plainly(given, ({"area": 80.0}, {"region": "elsewhere", "kind": "b"})).quantiles(bundle)
    np.testing.assert_allclose(forecast(engine, "a"), expected, rtol=1e-4, atol=1e-5)


PLAIN_FIELDS = ("series_ids", "series", "time_us", "values")


def futures(series: Sequence[int], first: Sequence[int | None], values: np.ndarray) -> Futures:
    return Futures(
        np.array(series),
        np.array([hour is not None for hour in first]),
        np.array([(hour or 0) * HOUR_US for hour in first]),
        values,
    )


def test_futures_are_laid_on_the_steps_ahead() -> None:
    engine = Engine(BUNDLE, VolatileStorage(), max_series=10)
    engine.observe([work([*history("a"), *history("b", 25)])])
    one, two = plainly(history("a")), plainly(history("b", 25))
    rng = np.random.default_rng(0)
    common, own = rng.normal(10, 3, (8, 2)), rng.normal(10, 3, (3, 2))
    own[1, 0] = math.nan
    levels = BUNDLE.model.config.quantile_levels
    both = (
        futures([0, 1], [28, 28], np.broadcast_to(common, (2, 8, 2))),  # from hour 28 on, for both
        futures([1], [None], own[None]),
    )
    asked = [
        ForecastWork(("a", "b"), HORIZON, levels, both),
        ForecastWork(("b", "a"), 3, levels),
        ForecastWork(("a",), HORIZON, levels, (futures([0], [27], np.zeros((1, 3, 2))),)),  # all of it has passed
    ]
    first, second, third = engine.forecast(asked)
    ahead = torch.full((2, HORIZON, 2), math.nan, dtype=torch.float64)
    ahead[0] = torch.from_numpy(common[2:])  # series a stands at hour 29
    ahead[1, 3:] = torch.from_numpy(common[: HORIZON - 3])  # series b at hour 24
    ahead[1, :3] = torch.from_numpy(own)
    assert not np.allclose(one.quantiles(BUNDLE, ahead[:1]), one.quantiles(BUNDLE), rtol=1e-3)
    np.testing.assert_allclose(first.quantiles[0], one.quantiles(BUNDLE, ahead[:1]), rtol=1e-4)
    np.testing.assert_allclose(first.quantiles[1], two.quantiles(BUNDLE, ahead[1:]), rtol=1e-4)
    np.testing.assert_allclose(second.quantiles[0], two.quantiles(BUNDLE)[:3], rtol=1e-4)
    np.testing.assert_allclose(second.quantiles[1], one.quantiles(BUNDLE)[:3], rtol=1e-4)
    np.testing.assert_allclose(third.quantiles[0], one.quantiles(BUNDLE), rtol=1e-4)


def test_a_future_off_the_grid_fails_its_series_alone() -> None:
    engine = Engine(BUNDLE, VolatileStorage(), max_series=10)
    engine.observe([work([*history("a"), *history("b")])])
    odd = Futures(np.array([0]), np.array([True]), np.array([HOUR_US // 2]), np.zeros((1, 1, 2)))
    answer = engine.forecast([ForecastWork(("a", "b"), HORIZON, LEVELS, (odd,))])[0]
    assert answer.series_ids == ("b",)
    assert isinstance(answer.failures["a"], InvalidArgumentError)


RECURRENT = Bundle.of(
    make_model(SPEC, decoder="recurrent", head="categorical", num_bins=7, end_of_sequence=True, min_history=1),
    frequency="1h",
    max_gap_steps=GAP,
)


def drawing_engine(storage: Storage | None = None) -> Engine:
    engine = Engine(RECURRENT, storage or VolatileStorage(), max_series=10)
    engine.observe([work([*history("a"), *history("b", 25), *history("c", 40)], {"b": STATIC})])
    return engine


def test_paths_are_a_series_own_whatever_else_is_asked() -> None:
    engine = drawing_engine()
    sampling = Sampling(12, 3)
    alone = engine.forecast([ForecastWork(("b",), HORIZON, LEVELS, drawing=sampling)])[0].drawn
    batch = [
        ForecastWork(("a", "b"), HORIZON, LEVELS, drawing=Sampling(12, 4)),
        ForecastWork(("c", "b"), HORIZON, LEVELS, drawing=sampling),
        ForecastWork(("nobody",), HORIZON, LEVELS, drawing=sampling),
        ForecastWork(("b",), 3, LEVELS, drawing=sampling),
        ForecastWork(("a",), HORIZON, LEVELS),
    ]
    four, three, nobody, short, none = (answer.drawn for answer in engine.forecast(batch))
    assert alone is not None
    assert three is not None
    assert four is not None
    assert short is not None
    assert (nobody, none) == (None, None)
    np.testing.assert_allclose(three.values[1], alone.values[0], rtol=1e-5)
    np.testing.assert_allclose(short.values[0], alone.values[0, :, :3], rtol=1e-5)
    assert (short.lengths[0] == alone.lengths[0].clip(max=3)).all()
    assert not np.allclose(four.values[1], alone.values[0])
    assert len({series_seed(seed, name) for seed in (-1, 0, 1) for name in ("a", "b")}) == 6


def test_searches_of_several_widths_and_sizes_are_answered_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = drawing_engine()
    searches = [Search(5, 20, 0.0), Search(5, 20, 0.0), Search(2, 2, 1.0), Search(40, 40, 0.0)]
    ids = [("a", "b", "c"), ("c",), ("b",), ("a", "c")]
    asked = [ForecastWork(one, 2, LEVELS, drawing=search) for one, search in zip(ids, searches, strict=True)]
    together = [answer.drawn for answer in engine.forecast(asked)]
    monkeypatch.setattr("forecaster.serving.forecasting._SEARCH_CELLS", 1)  # a series at a time
    for work_, found in zip(asked, together, strict=True):
        alone = engine.forecast([work_])[0].drawn
        assert alone is not None
        assert found is not None
        assert alone.log_probabilities is not None
        assert found.log_probabilities is not None
        np.testing.assert_allclose(alone.log_probabilities, found.log_probabilities, rtol=1e-5)
        np.testing.assert_allclose(alone.values, found.values, rtol=1e-5)
        power = work_.drawing.length_power if isinstance(work_.drawing, Search) else 0
        ranked = found.log_probabilities / found.lengths**power
        assert (np.diff(ranked, axis=1) <= 1e-12).all()


def test_the_ends_of_series_are_told() -> None:
    engine = drawing_engine()
    answer = engine.forecast([ForecastWork(("a", "b"), 4, LEVELS)])[0]
    assert answer.ended is not None
    assert answer.ended.shape == (2, 4)
    assert (np.diff(answer.ended, axis=1) >= 0).all()
    assert 0 < answer.ended[:, -1].max() <= 1
    other = Engine(BUNDLE, VolatileStorage(), max_series=10)
    other.observe([work(history())])
    assert other.forecast([ForecastWork(("a",), 4, LEVELS)])[0].ended is None
