"""Our scores, which are sums over origins in torch, against utilsforecast's and scoringrules' on random data.

Where definitions differ: utilsforecast's sMAPE is half of M4's and a share, its RMSE is of whatever point it is given
(ours of the mean of the quantiles), its losses are in the series' units (ours are divided by MASE's denominator), and
its scaled CRPS is the weighted quantile loss of one series (ours has it for each series, and pooled over all). Neither
library leaves out missing values: they are given the observed rows only.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
import pytest
import scoringrules
import torch
import utilsforecast.losses as oracle

from forecaster.evaluation.rolling import mase_unit
from forecaster.evaluation.scores import COVERAGES, Backtest, Sums, interval_score, mean_of_quantiles

LEVELS = (0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975)
COLUMNS = [f"m-q{level}" for level in LEVELS]
SEASON, HISTORY, ORIGINS, HORIZON = 4, 40, 5, 6
SERIES = 7


@dataclass(frozen=True)
class Case:
    """Random forecasts of `SERIES` series, our scores of them, and the same as long frames."""

    ours: Backtest
    frame: pl.DataFrame
    history: pl.DataFrame
    units: dict[str, float]


def make_case(seed: int) -> Case:
    rng = np.random.default_rng(seed)
    ids = [f"s{k}" for k in range(SERIES)]
    scale = 10.0 ** rng.integers(-2, 4, SERIES)
    history = scale[:, None] * (rng.standard_normal((SERIES, HISTORY)) + 3)
    shape = (SERIES, ORIGINS, HORIZON)
    target = scale[:, None, None] * (rng.standard_normal(shape) + rng.uniform(-1, 3))
    target[rng.random(shape) < 0.2] = np.nan
    spread = np.sort(rng.standard_normal((*shape, len(LEVELS))), axis=-1)
    quantiles = scale[:, None, None, None] * (spread + 1 + 0.5 * rng.standard_normal((*shape, 1)))
    units = {name: mase_unit(values, SEASON) for name, values in zip(ids, history, strict=True)}
    sums = Sums.zeros(SERIES, HORIZON, len(LEVELS), torch.device("cpu"))
    for part in np.array_split(np.arange(ORIGINS), 2):  # it takes origins piece by piece
        arrays = (quantiles[:, part], target[:, part], np.zeros_like(target[:, part]))
        sums.add(*(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays), LEVELS)
    ours = sums.summary(ids, torch.tensor([units[name] for name in ids], dtype=torch.float64), LEVELS)
    flat = pl.DataFrame({"unique_id": np.repeat(ids, ORIGINS * HORIZON), "y": target.ravel()})
    flat = flat.with_columns(pl.from_numpy(quantiles.reshape(-1, len(LEVELS)), schema=COLUMNS))
    flat = flat.with_columns(
        pl.int_range(pl.len()).over("unique_id").alias("ds") + HISTORY,
        pl.col("m-q0.5").alias("m"),
        pl.Series("mean", mean_of_quantiles(torch.from_numpy(quantiles), LEVELS).numpy().ravel()),
        *(
            pl.col(f"m-q{level}").alias(f"m-{side}-{coverage}")
            for coverage, low, high in ((50, 0.25, 0.75), (80, 0.1, 0.9), (90, 0.05, 0.95), (95, 0.025, 0.975))
            for side, level in (("lo", low), ("hi", high))
        ),
    )
    past = pl.DataFrame({"unique_id": np.repeat(ids, HISTORY), "y": history.ravel()})
    past = past.with_columns(pl.int_range(pl.len()).over("unique_id").alias("ds"))
    return Case(ours, flat.filter(pl.col("y").is_not_nan()), past, units)


@pytest.fixture(params=range(8))
def case(request: pytest.FixtureRequest) -> Case:
    return make_case(request.param)


def same(case: Case, name: str, theirs: pl.DataFrame, factor: float = 1.0, *, in_units: bool = False) -> None:
    """Compare a score of every series with an oracle's column."""
    column = next(c for c in theirs.columns if c != "unique_id")
    expected = {key: factor * value for key, value in theirs.select("unique_id", column).iter_rows()}
    assert len(expected) == SERIES
    for one in case.ours.series:
        divisor = case.units[one.unique_id] if in_units else 1.0
        assert getattr(one, name) == pytest.approx(expected[one.unique_id] / divisor, rel=1e-9), (name, one.unique_id)


def test_point_scores(case: Case) -> None:
    same(case, "mae", oracle.mae(case.frame, ["m"]))
    same(case, "rmse", oracle.rmse(case.frame, ["mean"]))
    same(case, "smape", oracle.smape(case.frame, ["m"]), 200.0)
    same(case, "mase", oracle.mase(case.frame, ["m"], seasonality=SEASON, train_df=case.history))
    same(case, "bias", oracle.bias(case.frame, ["m"]), in_units=True)


def test_quantile_scores(case: Case) -> None:
    quantiles, levels = {"m": COLUMNS}, np.array(LEVELS)
    same(case, "pinball", oracle.mqloss(case.frame, quantiles, levels), in_units=True)
    same(
        case, "pinball", oracle.scaled_mqloss(case.frame, quantiles, levels, seasonality=SEASON, train_df=case.history)
    )
    same(case, "wql", oracle.scaled_crps(case.frame, quantiles, levels))
    pooled = oracle.scaled_crps(case.frame.with_columns(unique_id=pl.lit("all")), quantiles, levels)
    assert case.ours.wql == pytest.approx(pooled["m"].item(), rel=1e-9)
    for level, column in zip(LEVELS, COLUMNS, strict=True):
        below = case.frame.with_columns(unique_id=pl.lit("all"))
        share = oracle.calibration(below, {"m": column})["m"].item()
        assert case.ours.calibration[level] == pytest.approx(share)


def test_intervals(case: Case) -> None:
    same(case, "msis", oracle.winkler_score(case.frame, ["m"], level=95), in_units=True)
    for coverage in COVERAGES:
        theirs = oracle.coverage(case.frame, ["m"], level=round(100 * coverage))
        expected = dict(theirs.select("unique_id", "m").iter_rows())
        assert {one.unique_id: one.coverage[coverage] for one in case.ours.series} == pytest.approx(expected)
    scored = scoringrules.interval_score(*(case.frame[c].to_numpy() for c in ("y", "m-lo-95", "m-hi-95")), 0.05)
    means = case.frame.with_columns(score=scored).group_by("unique_id").agg(pl.col("score").mean())
    same(case, "msis", means, in_units=True)


def test_the_mean_over_series_is_the_mean_of_theirs(case: Case) -> None:
    theirs = oracle.mase(case.frame, ["m"], seasonality=SEASON, train_df=case.history)
    assert case.ours.mase == pytest.approx(theirs["m"].mean())
    assert case.ours.smape == pytest.approx(200 * oracle.smape(case.frame, ["m"])["m"].mean())
    assert case.ours.mae == pytest.approx(oracle.mae(case.frame, ["m"])["m"].mean())
    assert case.ours.rmse == pytest.approx(oracle.rmse(case.frame, ["mean"])["mean"].mean())


@pytest.mark.parametrize("seed", range(4))
def test_pinball_and_interval_score_of_single_forecasts_against_scoringrules(seed: int) -> None:
    frame = make_case(seed).frame
    y, quantiles = frame["y"].to_numpy(), frame.select(COLUMNS).to_numpy()
    losses = np.stack([scoringrules.quantile_score(y, quantiles[:, k], p) for k, p in enumerate(LEVELS)])
    by_id = frame.with_columns(loss=losses.mean(axis=0)).group_by("unique_id").agg(pl.col("loss").mean())
    same(make_case(seed), "pinball", by_id, in_units=True)
    for miss, low, high in ((0.05, 0, -1), (0.1, 1, -2), (0.2, 2, -3), (0.5, 3, -4)):
        ours = interval_score(torch.tensor(quantiles), torch.tensor(y), LEVELS, miss)
        theirs = scoringrules.interval_score(y, quantiles[:, low], quantiles[:, high], miss)
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-9)


def test_twice_the_pinball_loss_of_many_levels_is_the_continuous_ranked_probability_score() -> None:
    rng = np.random.default_rng(0)
    n, count = 200, 999
    levels = tuple(round((k + 1) / (count + 1), 6) for k in range(count))
    mu, sigma, y = rng.standard_normal(n), rng.uniform(0.5, 2, n), 2 * rng.standard_normal(n)
    standard = torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(levels, dtype=torch.float64)).numpy()
    quantiles = mu[:, None] + sigma[:, None] * standard
    sums = Sums.zeros(1, n, count, torch.device("cpu"))
    one = torch.from_numpy(y)[None, None]
    sums.add(torch.from_numpy(quantiles)[None, None], one, torch.zeros_like(one), levels)
    ours = sums.summary(["a"], torch.ones(1, dtype=torch.float64), levels)
    assert 2 * ours.pinball == pytest.approx(scoringrules.crps_normal(y, mu, sigma).mean(), rel=3e-3)
