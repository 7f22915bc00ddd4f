"""The pictures of a backtest hold what they are to show, whatever was scored."""

import math

import polars as pl
import pytest
from matplotlib.figure import Figure

from pipelines.backtest.figures import by_fold, by_horizon, by_series
from pipelines.backtest.result import BacktestResult
from tests.unit.pipelines.results import make_result


def pictures(result: BacktestResult, table: pl.DataFrame) -> list[Figure]:
    return [by_horizon(result), by_fold(result), by_series(result, table)]


@pytest.mark.parametrize("champion", [0.9, None, math.nan])
@pytest.mark.parametrize("mase", [[0.5, 0.7, math.nan], [math.nan], []])
def test_every_picture_has_a_title_axes_and_a_legend(champion: float | None, mase: list[float]) -> None:
    result = make_result(champion=champion)
    table = pl.DataFrame({f"{name}_mase": pl.Series(mase, dtype=pl.Float64) for name in result.candidates()})
    for figure in pictures(result, table):
        (ax,) = figure.axes
        assert ax.get_title(loc="left")
        assert ax.get_xlabel()
        assert "MASE" in ax.get_ylabel()
        assert figure.legends[0].get_texts()
        figure.canvas.draw()


def test_candidates_differ_in_more_than_their_colours() -> None:
    result = make_result()
    lines = by_horizon(result).axes[0].get_lines()
    assert len({line.get_marker() for line in lines}) == len({line.get_color() for line in lines}) == 3
    bars = by_fold(result).axes[0].containers
    assert len({patch.get_hatch() for container in bars for patch in container.patches}) == 3
    assert [len(container.patches) for container in bars] == [3, 3, 3]
