"""Baselines on rolling origins: the pairs of a model's backtest, and plain loops."""

import numpy as np
import pytest

from forecaster.data.windows import Series
from forecaster.evaluation.baseline_scores import BASELINES, score, score_baselines
from forecaster.evaluation.baselines import naive2
from forecaster.evaluation.origins import Origins
from forecaster.evaluation.rolling import mase_units, rolling_origin
from tests.unit.evaluation.test_evaluation import HORIZON, HOUR, SEASON, make_model, make_series

FIRST_US = 25 * HOUR
FOR_EVER_US = 2**62


def origins(**changes: int) -> Origins:
    plain = {"first_time_us": FIRST_US, "last_time_us": FOR_EVER_US, "horizon": HORIZON, "season": SEASON}
    return Origins(**(plain | {"min_history": 5} | changes))


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("last_time_us", [FIRST_US, FIRST_US + 4 * HOUR, FOR_EVER_US])
def test_the_pairs_and_the_seasonal_naive_are_those_of_a_models_backtest(seed: int, last_time_us: int) -> None:
    series = make_series(seed)
    units = mase_units(series, SEASON)
    backtest = rolling_origin(make_model(), series, first_time_us=FIRST_US, last_time_us=last_time_us, units=units)
    baselines = score_baselines(series, origins(last_time_us=last_time_us), units)
    assert tuple(baselines) == BASELINES
    assert backtest.origins >= 3
    for scored in baselines.values():
        assert scored.origins == backtest.origins
        assert [one.pairs for one in scored.series] == [one.pairs for one in backtest.series]
        assert scored.seasonal_naive_mase == pytest.approx(backtest.seasonal_naive_mase)
    assert baselines["seasonal_naive"].mase == pytest.approx(backtest.seasonal_naive_mase)


def test_the_naive_and_naive2_equal_plain_loops() -> None:
    rng = np.random.default_rng(5)
    values = (20 + 5 * np.sin(np.arange(60) * np.pi / 2)) * np.exp(0.1 * rng.standard_normal(60))
    values[[0, 1, 17, 33, 50]] = np.nan
    one = Series("a", 7 * HOUR, HOUR, values)
    first_us = one.start_us + 40 * HOUR
    found = score_baselines([one], origins(first_time_us=first_us), {"a": 2.0})
    filled = values.copy()
    for t in range(2, 60):
        if np.isnan(filled[t]):
            filled[t] = filled[t - SEASON] if t >= SEASON and not np.isnan(filled[t - SEASON]) else filled[t - 1]
    errors: dict[str, list[float]] = {"naive": [], "naive2": []}
    for at in range(39, 59):
        last = values[: at + 1][np.isfinite(values[: at + 1])][-1]
        second = naive2(filled[2 : at + 1], HORIZON, SEASON)
        for ahead in range(1, HORIZON + 1):
            if at + ahead < 60 and np.isfinite(values[at + ahead]):
                errors["naive"].append(last - values[at + ahead])
                errors["naive2"].append(second[ahead - 1] - values[at + ahead])
    for name, expected in errors.items():
        scored = found[name].series[0]
        assert scored.pairs == len(expected)
        assert scored.mae == pytest.approx(np.abs(expected).mean())
        assert scored.rmse == pytest.approx(np.sqrt(np.square(expected).mean()))
        assert scored.mase == pytest.approx(np.abs(expected).mean() / 2)
    assert found["naive2"].mae < 0.7 * found["naive"].mae


def test_quantiles_of_any_making_are_scored_where_the_stride_says() -> None:
    one = Series("a", 0, HOUR, np.arange(60.0))
    asked: list[int] = []

    def forecasts(series: Series, at: np.ndarray) -> np.ndarray:
        asked.extend(at.tolist())
        ahead = series.values[at][:, None] + np.arange(1, HORIZON + 1)
        return np.stack([ahead - 2, ahead + 0.5, ahead + 2], axis=-1)

    scored = score([one], forecasts, origins(stride=6), {"a": 4.0}, levels=(0.025, 0.5, 0.975))
    assert asked == [24, 30, 36, 42, 48, 54]
    assert (scored.mae, scored.mase, scored.msis) == pytest.approx((0.5, 0.125, 1.0))
    assert scored.coverage[0.95] == 1.0
