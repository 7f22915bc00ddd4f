"""Forecasts that are told of the time ahead: the steps that a future is laid on, and one that fits none."""

import math
from collections.abc import Sequence

import numpy as np
import torch

from forecaster.errors import InvalidArgumentError, SeriesNotFoundError
from forecaster.serving.engine.engine import Engine
from forecaster.serving.storage.volatile import VolatileStorage
from forecaster.serving.work.forecasting import ForecastWork, Futures
from tests.unit.model.family import HORIZON
from tests.unit.serving.folding import HOUR_US
from tests.unit.serving.with_covariates import BUNDLE, LEVELS, folded, history, work


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
    one, two = folded(history("a")), folded(history("b", 25))
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
    assert not np.allclose(one.forecast(BUNDLE, ahead[:1]), one.forecast(BUNDLE), rtol=1e-3)
    np.testing.assert_allclose(first.quantiles[0], one.forecast(BUNDLE, ahead[:1]), rtol=1e-4)
    np.testing.assert_allclose(first.quantiles[1], two.forecast(BUNDLE, ahead[1:]), rtol=1e-4)
    np.testing.assert_allclose(second.quantiles[0], two.forecast(BUNDLE)[:3], rtol=1e-4)
    np.testing.assert_allclose(second.quantiles[1], one.forecast(BUNDLE)[:3], rtol=1e-4)
    np.testing.assert_allclose(third.quantiles[0], one.forecast(BUNDLE), rtol=1e-4)


def test_a_future_of_series_that_nobody_has_observed_fails_them_alone() -> None:
    """Where there is no series at all, and where there are others."""
    engine = Engine(BUNDLE, VolatileStorage(), max_series=10)
    ahead = futures([0, 1], [28, None], np.zeros((2, 2, 2)))
    for known in ((), ("b",)):
        (answer,) = engine.forecast([ForecastWork(("a", "b"), HORIZON, LEVELS, (ahead,))])
        assert answer.series_ids == known
        assert all(isinstance(error, SeriesNotFoundError) for error in answer.failures.values())
        engine.observe([work(history("b"))])


def test_a_future_off_the_grid_fails_its_series_alone() -> None:
    engine = Engine(BUNDLE, VolatileStorage(), max_series=10)
    engine.observe([work([*history("a"), *history("b")])])
    odd = Futures(np.array([0]), np.array([True]), np.array([HOUR_US // 2]), np.zeros((1, 1, 2)))
    answer = engine.forecast([ForecastWork(("a", "b"), HORIZON, LEVELS, (odd,))])[0]
    assert answer.series_ids == ("b",)
    assert isinstance(answer.failures["a"], InvalidArgumentError)


def test_forecasts_that_know_the_time_ahead_are_scored_and_assumptions_are_not() -> None:
    engine = Engine(BUNDLE, VolatileStorage(), max_series=10)
    engine.observe([work([*history("a"), *history("b")])])
    rows = history("a", 60)

    def ahead(hour: int) -> tuple[Futures, ...]:
        return (futures([0], [None], np.array([[row[3][1:] for row in rows[hour : hour + HORIZON]]])),)

    def scored(name: str) -> list[int]:
        return [one.scored for one in engine.describe(name).live]

    for hour in range(30, 50):
        asked = [
            ForecastWork(("a",), HORIZON, LEVELS, ahead(hour)),
            ForecastWork(("b",), HORIZON, LEVELS, ahead(hour), hypothetical=True),
        ]
        engine.forecast(asked if hour % 2 else asked[::-1])
        engine.forecast(asked[1:])
        engine.observe([work([rows[hour], *history("b", 1, hour)])])
    assert scored("a")[0] == 20
    assert min(scored("a")) > 0
    assert scored("b") == [0] * len(scored("a"))


def test_what_a_correction_learns_from_known_futures_moves_their_quantiles() -> None:
    """A model asked only with its known future has `calibrated` quantiles that are other ones."""
    engine = Engine(BUNDLE, VolatileStorage(), max_series=10)
    rows = [
        (name, hour, 1e3 * value, beside) for name, hour, value, beside in history("a", 90)
    ]  # far from its intervals
    engine.observe([work(rows[:30])])
    known = (futures([0], [None], np.zeros((1, HORIZON, 2))),)
    for row in rows[30:]:
        engine.forecast([ForecastWork(("a",), HORIZON, LEVELS, known)])
        engine.observe([work([row])])
    raw, corrected = (
        engine.forecast([ForecastWork(("a",), HORIZON, LEVELS, known, calibrated=calibrated)])[0].quantiles
        for calibrated in (False, True)
    )
    assert not np.allclose(raw, corrected, rtol=1e-3)
