"""Paths, searches and ends of an engine's series: each series has its own, whatever else is asked."""

import numpy as np
import pytest

from forecaster.model.bundle import Bundle
from forecaster.serving.engine.engine import Engine
from forecaster.serving.lanes.paths import series_seed
from forecaster.serving.storage.contract import Storage
from forecaster.serving.storage.volatile import VolatileStorage
from forecaster.serving.work.forecasting import ForecastWork, Sampling, Search
from tests.unit.model.family import HORIZON, SPEC, make_model
from tests.unit.serving.folding import GAP
from tests.unit.serving.with_covariates import BUNDLE, LEVELS, STATIC, history, work

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
    np.testing.assert_allclose(three.values[1], alone.values[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(short.values[0], alone.values[0, :, :3], rtol=1e-5, atol=1e-6)
    assert (short.lengths[0] == alone.lengths[0].clip(max=3)).all()
    assert not np.allclose(four.values[1], alone.values[0])
    assert len({series_seed(seed, name) for seed in (-1, 0, 1) for name in ("a", "b")}) == 6


def test_searches_of_several_widths_and_sizes_are_answered_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = drawing_engine()
    searches = [Search(5, 20, 0.0), Search(5, 20, 0.0), Search(2, 2, 1.0), Search(40, 40, 0.0)]
    ids = [("a", "b", "c"), ("c",), ("b",), ("a", "c")]
    asked = [ForecastWork(one, 2, LEVELS, drawing=search) for one, search in zip(ids, searches, strict=True)]
    together = [answer.drawn for answer in engine.forecast(asked)]
    monkeypatch.setattr("forecaster.serving.lanes.paths._SEARCH_CELLS", 1)  # a series at a time
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
