"""Forecasts from a request's own observations: those of an engine, whatever the pieces, and at a cost that is known."""

import asyncio
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.errors import OutOfOrderError, UnavailableError
from forecaster.serving.engine import scratch
from forecaster.serving.engine.courtesy import Courtesy
from forecaster.serving.engine.engine import Engine
from forecaster.serving.engine.scratch import Scratch, steps_through
from forecaster.serving.storage.volatile import VolatileStorage
from forecaster.serving.work.forecasting import ForecastWork
from forecaster.serving.work.observing import ObserveWork
from tests.unit.serving.folding import BUNDLE, GAP, HORIZON, columns

LEVELS = BUNDLE.model.config.quantile_levels
ENGINE = Engine(BUNDLE, VolatileStorage(), version="7")
HOURS = st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, GAP + 3)), min_size=1, max_size=30)


def asked(rows: list[tuple[str, int, float]]) -> ObserveWork:
    work = columns(rows)
    then = ForecastWork(work.columns.series_ids, HORIZON, LEVELS)
    return ObserveWork(work.columns, None, then)


def rows_of(steps: list[tuple[str, int]]) -> list[tuple[str, int, float]]:
    clocks, rows = {"a": 0, "b": 5}, []
    for name, step in steps:
        clocks[name] += step
        rows.append((name, clocks[name], float(clocks[name] % 7)))
    return rows


@settings(max_examples=60)
@given(HOURS, st.integers(1, 40))
def test_it_is_what_an_engine_forecasts_and_costs_what_it_says(steps: list[tuple[str, int]], at_once: int) -> None:
    work = asked(rows_of(steps))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scratch, "_STEPS", at_once)
        answer = asyncio.run(Scratch(10_000).forecast(ENGINE.lanes.active, work, lambda: False))
    engine = Engine(BUNDLE, VolatileStorage())
    engine.observe([work])
    assert work.then is not None
    (expected,) = engine.forecast([work.then])
    assert answer.series_ids == expected.series_ids
    np.testing.assert_array_equal(answer.quantiles, expected.quantiles)
    assert answer.versions == ("7",)
    assert len(ENGINE.lanes) == 0
    total = steps_through(work.columns, BUNDLE.grid, BUNDLE.max_gap_steps)
    restarts = any(step > GAP + 1 for _, step in steps)  # what was before one is not stepped through
    assert total[-1] == engine.lanes.active.steps or (restarts and total[-1] > engine.lanes.active.steps)


def test_the_first_row_that_is_wrong_is_told() -> None:
    work = asked([("a", 5, 1.0), ("a", 6, 1.0), ("a", 3, 2.0), ("a", 2, 2.0)])
    with pytest.raises(OutOfOrderError, match="1970-01-01T03:00"):
        asyncio.run(Scratch(100).forecast(ENGINE.lanes.active, work, lambda: False))


def test_nothing_goes_on_for_a_caller_that_went_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "_STEPS", 1)
    work = asked([("a", hour, 1.0) for hour in range(1, 200)])
    gone, looked = threading.Event(), [0]

    class Leaving(Courtesy):
        def give_way(self) -> None:
            looked[0] += 1
            if looked[0] == 3:
                gone.set()

    total = steps_through(work.columns, BUNDLE.grid, BUNDLE.max_gap_steps)
    with pytest.raises(UnavailableError, match="went away"):
        scratch._folded(ENGINE.lanes.active, work, total, gone, Leaving(lambda: False))
    assert looked == [3]
