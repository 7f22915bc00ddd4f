"""Every kind of model is served: its forecasts are the offline fold's, through gaps, futures and restarts.

With carried states that survive a restart, with a snapshot and without.
"""

import pathlib
from contextlib import closing

import numpy as np
import pytest
import torch

from forecaster.model.bundle import Bundle
from forecaster.serving.engine.engine import Engine
from forecaster.serving.storage.opening import open_storage
from forecaster.serving.work.forecasting import Forecasts, ForecastWork, Futures
from forecaster.serving.work.observing import ObserveWork
from tests.unit.model.family import FAMILY, HORIZON, MODELS, NAMES, draw_future
from tests.unit.serving.folding import Row, Series, Static, walk, work

IDS = ("a", "b", "c")
STEPS, SAVED = 40, 20
GAP = 100
STATIC: dict[str, Static] = {
    "a": ({"area": 80.0}, {"region": "south", "kind": "b"}),
    "b": ({}, {"region": "elsewhere"}),
}


def rows_of(bundle: Bundle) -> list[Row]:
    """Return hourly rows of three series, one of which has gaps."""
    width = len(bundle.model.covariates.dynamic)
    hours = {name: [hour for hour in range(STEPS) if name != "c" or hour % 11 not in (4, 5)] for name in IDS}
    rows = [row for seed, name in enumerate(IDS) for row in walk(name, hours[name], seed, width)]
    return sorted(rows, key=lambda row: row[1])


def observe(engine: Engine, bundle: Bundle, rows: list[Row], static: dict[str, Static] | None = None) -> np.ndarray:
    spec = bundle.model.covariates
    known = {
        name: (numbers if spec.static else {}, categories if spec.categories else {})
        for name, (numbers, categories) in (static or {}).items()
    }
    request: ObserveWork = work(rows, known, spec.dynamic)
    return engine.observe([request])[0].outcomes


def forecasts(engine: Engine, bundle: Bundle, future: torch.Tensor | None) -> np.ndarray:
    """Return the quantiles of the three series, [N, D, Q], with what is known of the time ahead."""
    levels, parts = bundle.model.config.quantile_levels, ()
    if future is not None:
        places = np.arange(len(IDS))
        parts = (Futures(places, np.zeros(len(IDS), bool), np.zeros(len(IDS), np.int64), future.numpy()),)
    answer: Forecasts = engine.forecast([ForecastWork(IDS, HORIZON, levels, parts)])[0]
    assert not answer.failures
    return answer.quantiles


def assert_same(found: np.ndarray, expected: np.ndarray, head: str | None) -> None:
    counts = head == "negative_binomial"  # one off where a probability lies between two
    tolerance = 1.0 if counts else 2e-5 * (1.0 + np.abs(expected).max())
    np.testing.assert_allclose(found, expected, rtol=1e-3 if counts else 1e-4, atol=tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_it_forecasts_as_offline_and_a_restart_changes_nothing(name: str, tmp_path: pathlib.Path) -> None:
    bundle = Bundle.of(MODELS[name], frequency="1h", max_gap_steps=GAP)
    bundle.save(tmp_path / "bundle")
    rows, future, head = rows_of(bundle), draw_future(bundle.model, 1, len(IDS)), FAMILY[name]["head"]
    plain = {one: Series(bundle.model.covariates.dynamic, static=STATIC.get(one, ({}, {}))) for one in IDS}
    for series, hour, value, beside in rows:
        plain[series].observe(hour, value, beside)
    blind = np.stack([plain[one].forecast(bundle) for one in IDS])
    told = blind
    if future is not None:
        told = np.stack([plain[one].forecast(bundle, future[k : k + 1]) for k, one in enumerate(IDS)])
        assert not np.allclose(told, blind, rtol=1e-3)
    with closing(open_storage(str(tmp_path / "state"), "interval")) as storage:
        engine = Engine(bundle, storage, max_series=10)
        for low in range(0, SAVED, 5):
            part = [row for row in rows if low <= row[1] < low + 5]
            assert (observe(engine, bundle, part, STATIC if low == 0 else None) == 1).all()
        engine.snapshot()
        assert (observe(engine, bundle, [row for row in rows if row[1] >= SAVED]) == 1).all()
        assert_same(forecasts(engine, bundle, future), told, head)
        assert_same(forecasts(engine, bundle, None), blind, head)
    loaded = Bundle.load(tmp_path / "bundle")
    assert loaded.fingerprint == bundle.fingerprint
    for snapshots in (True, False):
        with closing(open_storage(str(tmp_path / "state"), "interval")) as storage:
            if not snapshots:  # those of another fingerprint are not taken over
                loaded = Bundle(loaded.model, loaded.frequency, loaded.max_gap_steps, "0" * 64)
            engine = Engine(loaded, storage, max_series=10)
            replayed = sum(row[1] >= SAVED for row in rows) if snapshots else len(rows)
            assert engine.recover() == (3, replayed)
            assert_same(forecasts(engine, loaded, future), told, head)
            assert (observe(engine, loaded, [row for row in rows if row[1] >= STEPS - 5]) == 2).all()
