"""What `make bench-accuracy` scores, without the other programs."""

import pathlib

import numpy as np
import polars as pl
import pytest

from forecaster.data.windows import Series
from forecaster.evaluation.baseline_scores import score, score_baselines
from forecaster.evaluation.rolling import mase_units
from tests.benchmarks.accuracy import HOUR_US, LEVELS, Task, looked_up, make_task, row, text


@pytest.fixture(scope="module")
def weather() -> Task:
    return make_task("weather", pathlib.Path("nowhere"), 24)


def naive_rows(task: Task, spread: float) -> pl.DataFrame:
    """Return the seasonal naive as another program would write it, the quantiles `spread` apart, in any order."""
    frames = []
    for one in task.series:
        filled = pl.Series(one.values).fill_nan(None).to_numpy()
        for at in task.origins.of(one):
            ahead = np.arange(1, task.origins.horizon + 1)
            point = filled[at + ahead - task.origins.season]
            ds = one.time_us[at] + HOUR_US * ahead
            columns = {"unique_id": one.unique_id, "cutoff": one.time_us[at], "ds": ds}
            values = {f"q{level}": point + spread * k for k, level in zip((1, 0, -1), LEVELS, strict=True)}
            frames.append(pl.DataFrame(columns | values))
    stamped = pl.concat(frames).with_columns(pl.from_epoch("cutoff", "us"), pl.from_epoch("ds", "us"))
    return stamped.sample(fraction=1.0, shuffle=True, seed=1)


def test_all_origins_have_a_whole_horizon_and_nothing_scored_is_learnt_from(weather: Task) -> None:
    assert len({int(one.time_us[-1]) for one in weather.series}) == 1
    for one, known in zip(weather.series, weather.history, strict=True):
        at = weather.origins.of(one)
        assert at[-1] + weather.origins.horizon == len(one) - 1
        assert set(np.diff(at)) == {24}
        assert int(known.time_us[-1]) == int(one.time_us[at[0]])


def test_written_forecasts_are_found_again_whatever_their_order(weather: Task) -> None:
    units = mase_units(weather.history, weather.origins.season)
    baselines = score_baselines(weather.series, weather.origins, units)
    complete = [one for one in weather.series if np.isfinite(one.values[-400:]).all()]
    task = Task("weather", tuple(complete), weather.origins)
    assert len(complete) >= 10
    scored = score(complete, looked_up(naive_rows(task, 1.0), 24), task.origins, units, levels=LEVELS)
    expected = {one.unique_id: one for one in baselines["seasonal_naive"].series}
    for one in scored.series:
        assert one.mase == pytest.approx(expected[one.unique_id].mase)
        assert one.msis > 2 / units[one.unique_id]  # the crossed ends were put in order
    assert "weather" in text(row(task, "somebody", scored, baselines["naive2"], 3.0))


def test_a_missing_origin_is_not_passed_over(weather: Task) -> None:
    one: Series = weather.series[0]
    rows = naive_rows(Task("weather", (one,), weather.origins), 1.0)
    forecasts = looked_up(rows.filter(pl.col("cutoff") != rows["cutoff"].min()), 24)
    with pytest.raises(AssertionError, match="every scored origin"):
        forecasts(one, weather.origins.of(one))
    with pytest.raises(ValueError, match="reshape"):
        looked_up(rows.slice(1), 24)(one, weather.origins.of(one))
