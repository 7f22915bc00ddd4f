"""Live scores and corrections in the engine: restarts, evictions and batches change nothing of them."""

import pathlib
from contextlib import closing

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from forecaster.errors import StorageError
from forecaster.model.state import State
from forecaster.serving.engine.engine import Engine
from forecaster.serving.storage.opening import open_storage
from forecaster.serving.work.forecasting import ForecastWork
from tests.unit.serving.failing import FailingStorage
from tests.unit.serving.folding import BUNDLE, GAP, columns

LEVELS = (0.1, 0.5, 0.9)
NAMES = ("a", "b", "c", "d")


def tensors(engine: Engine) -> dict[str, State]:
    """Return the whole state of each series."""
    store = engine.lanes.active.store
    store.begin_turn()
    slots = store.bring(NAMES)
    whole = store.gather_whole(np.maximum(slots, 0))
    return {name: {key: tensor[k] for key, tensor in whole.items()} for k, name in enumerate(NAMES) if slots[k] >= 0}


def assert_same(engine: Engine, other: Engine) -> None:
    ours, theirs = tensors(engine), tensors(other)
    assert ours.keys() == theirs.keys()
    for name, state in ours.items():
        for key, tensor in state.items():
            if key.startswith("calibration"):
                assert torch.equal(tensor, theirs[name][key]), (name, key)


events = st.one_of(
    st.tuples(
        st.just("observe"), st.lists(st.tuples(st.sampled_from(NAMES), st.integers(1, 3)), min_size=1, max_size=6)
    ),
    st.tuples(st.just("jump"), st.lists(st.tuples(st.sampled_from(NAMES), st.just(GAP + 5)), min_size=1, max_size=1)),
    st.tuples(
        st.just("forecast"), st.lists(st.tuples(st.sampled_from(NAMES), st.integers(1, 5)), min_size=1, max_size=3)
    ),
    st.tuples(st.just("snapshot"), st.just([])),
    st.tuples(st.just("delete"), st.lists(st.tuples(st.sampled_from(NAMES), st.just(0)), min_size=1, max_size=1)),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(events, min_size=1, max_size=25), st.integers(0, 2**32 - 1), st.sampled_from([2**62, 4]))
def test_scores_are_the_fold_of_the_journal(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[str, list[tuple[str, int]]]], seed: int, limit: int
) -> None:
    folder = str(tmp_path_factory.mktemp("scores"))
    with closing(open_storage(folder, "interval")) as storage:
        engine = Engine(BUNDLE, storage, max_resident=limit)
        play(engine, drawn, np.random.default_rng(seed))
        engine.observe([columns([(name, 100_000, 1.0)]) for name in NAMES])  # what was issued is journaled before
        again = Engine(BUNDLE, storage, max_resident=2**62)
        again.recover()
        assert_same(engine, again)


def play(engine: Engine, drawn: list[tuple[str, list[tuple[str, int]]]], rng: np.random.Generator) -> None:
    clocks: dict[str, int] = {}
    for kind, parts in drawn:
        if kind in ("observe", "jump"):
            rows = []
            for name, steps in parts:
                clocks[name] = clocks.get(name, 0) + steps
                rows.append((name, clocks[name], float(rng.normal()) if rng.random() < 0.9 else float("nan")))
            engine.observe([columns(rows)])
        elif kind == "forecast":
            ids = tuple(dict.fromkeys(name for name, _ in parts))
            engine.forecast([ForecastWork(ids, parts[0][1], LEVELS), ForecastWork(ids[:1], 1, LEVELS)])
        elif kind == "snapshot":
            engine.snapshot()
        elif parts[0][0] in clocks:
            engine.delete(parts[0][0])
            del clocks[parts[0][0]]


def test_scores_are_what_a_plain_loop_says(tmp_path: pathlib.Path) -> None:
    with closing(open_storage(str(tmp_path), "interval")) as storage:
        engine = Engine(BUNDLE, storage)
        rng = np.random.default_rng(0)
        errors, held = [], []
        expected = None
        for hour in range(400):
            value = float(rng.normal(10, 2))
            if expected is not None:
                errors.append(expected[1] - value)
                held.append(expected[0] <= value <= expected[2])
            engine.observe([columns([("a", hour, value)])])
            expected = engine.forecast([ForecastWork(("a",), 1, LEVELS)])[0].quantiles[0, 0]
        live = engine.describe("a").live[0]
        weights = 0.99 ** np.arange(len(errors))[::-1]
        assert live.horizon == 1
        assert live.scored == 399
        assert live.coverage == pytest.approx(np.average(held, weights=weights), abs=1e-3)
        assert np.sign(live.bias) == np.sign(np.average(errors, weights=weights))
        assert live.mase > 0


def test_calibrated_quantiles_follow_the_data() -> None:
    engine = Engine(BUNDLE, FailingStorage())
    rng = np.random.default_rng(0)
    held: dict[bool, list[bool]] = {True: [], False: []}
    asked: dict[bool, np.ndarray] = {}
    for hour in range(1500):
        value = float(rng.normal(10, 2))
        if hour > 500:
            for calibrated, now in asked.items():
                held[calibrated].append(now[0] <= value <= now[2])
        engine.observe([columns([("a", hour, value)])])
        asked = {
            calibrated: engine.forecast([ForecastWork(("a",), 1, LEVELS, calibrated=calibrated)])[0].quantiles[0, 0]
            for calibrated in (True, False)
        }
    assert 0.77 <= np.mean(held[True]) <= 0.83
    assert not 0.77 <= np.mean(held[False]) <= 0.83  # the weights are random


def test_what_could_not_be_journaled_is_journaled_with_the_next() -> None:
    storage = FailingStorage()
    engine = Engine(BUNDLE, storage)
    engine.observe([columns([("a", hour, float(hour))]) for hour in range(10)])
    engine.forecast([ForecastWork(("a",), 5, LEVELS)])
    scoring = engine.lanes.active.scoring
    assert scoring is not None
    waiting = len(scoring.pending)
    assert waiting
    storage.journal.full = True
    with pytest.raises(StorageError):
        engine.observe([columns([("a", 10, 1.0)])])
    assert len(scoring.pending) == waiting
    storage.journal.full = False
    before = storage.journal.last_sequence()
    engine.observe([columns([("a", 10, 1.0)])])
    assert storage.journal.last_sequence() == before + waiting + 1
    assert not scoring.pending


def test_warming_up_changes_nothing() -> None:
    engine = Engine(BUNDLE, FailingStorage())
    engine.observe([columns([(name, hour, float(hour)) for hour in range(10) for name in NAMES])])
    engine.forecast([ForecastWork(NAMES, 5, LEVELS)])
    before, scoring = tensors(engine), engine.lanes.active.scoring
    assert scoring is not None
    pending = list(scoring.pending)
    scoring.warm_up()
    assert scoring.pending == pending
    for name, state in tensors(engine).items():
        for key, tensor in state.items():
            assert torch.equal(tensor, before[name][key]), (name, key)
