"""The pictures: what they show is what was computed, every axis has a name and a unit."""

import io
import math

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from small import HOUR, make_series

from forecaster.config import ModelConfig
from forecaster.data.windows import Series
from forecaster.evaluation.rolling import forecast
from forecaster.model.seq2seq import Seq2Seq
from forecaster.training.pictures import figures


@pytest.fixture(scope="module")
def model() -> Seq2Seq:
    torch.manual_seed(0)
    return Seq2Seq(ModelConfig(hidden_size=4, num_layers=1, horizon=6, season_lengths=(12,)), HOUR).eval()


def is_drawn(figure: Figure) -> bool:
    """Draw it; a glyph or a layout that does not fit would be a warning, and so an error."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue().startswith(b"\x89PNG")


def test_fans_line_up_forecast_and_what_came(model: Seq2Seq) -> None:
    series = make_series(2, 100)
    first, second = figures.fans(model, series, 94 * HOUR)
    assert (first.unique_id, second.unique_id) == ("s0", "s1")
    assert len(first.time) == len(first.actual) == 3 * 6 + 6
    np.testing.assert_array_equal(first.actual, series[0].values[76:100])
    assert first.time[-6] == np.datetime64(94 * HOUR, "us")
    known = [Series(one.unique_id, 0, HOUR, one.values[:94]) for one in series]
    np.testing.assert_allclose(second.quantiles, forecast(model, known, 6)[1].numpy())


def test_fans_take_the_latest_segment_and_leave_the_unknown_future_open(model: Seq2Seq) -> None:
    values = make_series(1, 60)[0].values
    series = [Series("a", 0, HOUR, values[:20]), Series("a", 40 * HOUR, HOUR, values[40:])]
    (fan,) = figures.fans(model, series, 57 * HOUR)
    np.testing.assert_array_equal(fan.actual[-6:], [*values[57:60], math.nan, math.nan, math.nan])


def test_fan_chart(model: Seq2Seq) -> None:
    shown = figures.fans(model, make_series(3, 100), 94 * HOUR)
    figure = figures.fan_chart(shown)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["s0", "s1", "s2", ""]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["95% interval", "80% interval", "50% interval", "median forecast", "actual"]
    assert figure.get_suptitle() == "Forecasts of 6 steps and what came"
    assert figure.axes[2].get_xlabel() == "time (UTC)"
    assert is_drawn(figure)
    assert is_drawn(figures.fan_chart(shown[:1]))


def test_a_fan_has_only_the_intervals_that_its_levels_reach(model: Seq2Seq) -> None:
    narrow = Seq2Seq(ModelConfig(horizon=2, season_lengths=(12,), quantile_levels=(0.2, 0.5, 0.8)), HOUR).eval()
    figure = figures.fan_chart(figures.fans(narrow, make_series(1, 40), 38 * HOUR))
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["50% interval", "median forecast", "actual"]


def test_calibration_chart() -> None:
    figure = figures.calibration_chart({0.1: 0.12, 0.5: 0.5, 0.9: 0.85})
    (ax,) = figure.axes
    np.testing.assert_allclose(ax.lines[1].get_xydata(), [[10, 12], [50, 50], [90, 85]])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("quantile level (%)", "actual values at or below it (%)")
    assert is_drawn(figure)


@pytest.mark.parametrize("steps", [1, 24])
def test_horizon_chart(steps: int) -> None:
    figure = figures.horizon_chart([0.5] * steps, [0.9] * steps, "1h")
    (ax,) = figure.axes
    assert ax.get_xlabel() == "steps ahead (1 step = 1h)"
    assert {line.get_label(): len(line.get_xdata()) for line in ax.lines} == {"model": steps, "seasonal naive": steps}
    assert ax.get_ylim()[0] == 0
    assert is_drawn(figure)
