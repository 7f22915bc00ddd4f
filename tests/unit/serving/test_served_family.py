"""Every kind of model is served with carried states that survive a restart, with a snapshot and without."""

import pathlib
from contextlib import closing

import numpy as np
import pytest
import torch

from forecaster.model.bundle import Bundle
from forecaster.serving.engine import Engine
from forecaster.serving.opening import open_storage
from forecaster.serving.records import Columns
from forecaster.serving.work import ForecastWork, ObserveWork
from tests.unit.model.family import CONFIGURATIONS, HORIZON, HOUR_US, MODELS, draw_observations

IDS = ("a", "b", "c")
STEPS = 40


def rows(low: int, high: int) -> ObserveWork:
    """Return the hours `low` to `high` of three series, hour by hour."""
    observations = draw_observations(1, 3, STEPS, 0.1)
    values = torch.where(observations.observed, observations.values, torch.nan)[:, low:high]
    steps = np.arange(low, high, dtype=np.int64)
    series = np.tile(np.arange(3, dtype=np.int32), len(steps))
    return ObserveWork(Columns(IDS, series, np.repeat(steps * HOUR_US, 3), values.T.flatten().numpy()))


def forecasts(engine: Engine, bundle: Bundle) -> np.ndarray:
    levels = bundle.model.config.quantile_levels
    answer = engine.forecast([ForecastWork(IDS, HORIZON, levels)])[0]
    assert not answer.failures
    return answer.quantiles


@pytest.mark.parametrize("name", sorted(CONFIGURATIONS))
def test_a_restart_changes_nothing(name: str, tmp_path: pathlib.Path) -> None:
    bundle = Bundle.of(MODELS[name], frequency="1h", max_gap_steps=100)
    bundle.save(tmp_path / "bundle")
    with closing(open_storage(str(tmp_path / "state"), "interval")) as storage:
        engine = Engine(bundle, storage, max_series=10)
        for low in range(0, 20, 5):
            assert (engine.observe([rows(low, low + 5)])[0].outcomes == 1).all()
        engine.snapshot()
        engine.observe([rows(20, STEPS)])
        before = forecasts(engine, bundle)
    loaded = Bundle.load(tmp_path / "bundle")
    assert loaded.fingerprint == bundle.fingerprint
    for snapshots in (True, False):
        with closing(open_storage(str(tmp_path / "state"), "interval")) as storage:
            if not snapshots:  # those of another fingerprint are not taken over
                loaded = Bundle(loaded.model, loaded.frequency, loaded.max_gap_steps, "0" * 64)
            engine = Engine(loaded, storage, max_series=10)
            recovered, replayed = engine.recover()
            assert (recovered, replayed) == (3, 60 if snapshots else 120)
            after = forecasts(engine, loaded)
            retry = engine.observe([rows(STEPS - 5, STEPS)])[0]
            assert (retry.outcomes == 2).all()
        counts = bundle.model.config.head == "negative_binomial"  # one off where a probability lies between two
        np.testing.assert_allclose(after, before, rtol=1e-4, atol=1.0 if counts else 1e-6 * np.abs(before).max())
