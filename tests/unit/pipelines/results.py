"""Results of backtests that nobody ran."""

import dataclasses
import datetime as dt
from collections.abc import Sequence

from forecaster.evaluation.scores import Backtest, SeriesScore
from pipelines.backtest.difference import Difference
from pipelines.backtest.result import BacktestResult, Figures, Fold

START = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)


def backtest_of(mase: Sequence[float]) -> Backtest:
    """Return a backtest in which each series has this MASE."""
    coverage = {0.5: 0.5, 0.8: 0.8, 0.9: 0.9, 0.95: 0.95}
    names = ("seasonal_naive_mase", "smape", "msis", "mae", "rmse", "pinball", "wql", "bias")
    plain = dict.fromkeys(names, 1.0)
    scores = [
        SeriesScore(unique_id=f"s{k}", pairs=10, mase=one, coverage=coverage, **plain) for k, one in enumerate(mase)
    ]
    figures = {name: 1.0 for name in plain if name != "bias"}
    return Backtest(
        series=tuple(scores),
        mase=1.0,
        coverage=coverage,
        mase_by_horizon=(1.0,),
        seasonal_naive_mase_by_horizon=(1.0,),
        calibration={},
        origins=10,
        **figures,
    )


def figures(mase: float, coverage: float | None = None) -> Figures:
    """Return a candidate's figures, a point forecast's without a coverage."""
    point = {"mase": mase, "smape": 10 * mase}
    return point if coverage is None else point | {"pinball": mase / 3, "coverage_80": coverage}


def make_result(
    mase: float = 0.8, champion: float | None = 0.9, coverage: float = 0.8, folds: int = 3
) -> BacktestResult:
    """Return a result; without a champion's MASE there is none."""
    found = {"challenger": figures(mase, coverage), "seasonal_naive": figures(1.0)}
    found |= {"champion": figures(champion, 0.7)} if champion is not None else {}
    whole = Fold(first_time=START, last_time=START + dt.timedelta(hours=9 * folds - 1), origins=300, figures=found)
    parts = [
        dataclasses.replace(
            whole, first_time=START + dt.timedelta(hours=9 * k), last_time=START + dt.timedelta(hours=9 * k + 8)
        )
        for k in range(folds)
    ]
    return BacktestResult(
        run_id="0123abc",
        model="forecaster",
        versions={"challenger": "4"} | ({"champion": "3"} if champion is not None else {}),
        frequency="1h",
        horizon=2,
        data="feed",
        whole=whole,
        folds=tuple(parts),
        by_horizon={name: (one["mase"], one["mase"]) for name, one in found.items()},
        series=7,
        difference=Difference(mean=-0.1, low=-0.2, high=0.0, better=0.7) if champion is not None else None,
        notes=("the champion has learnt from the first 3 of the 27 steps: it is harder to beat",),
    )
