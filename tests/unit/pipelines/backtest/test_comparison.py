"""Different models on the same forecasts: the pairs, the units and the folds against the plain backtest of each."""

import dataclasses
import datetime as dt
import math

import numpy as np
import polars as pl
import pytest
import torch

from forecaster.config import DataConfig, ModelConfig
from forecaster.data.windows import split_at, to_segments
from forecaster.errors import ConfigError
from forecaster.evaluation.rolling import mase_units, rolling_origin
from forecaster.model.bundle import Bundle
from forecaster.model.covariates import Category, Covariate, CovariateSpec
from forecaster.model.seq2seq import Seq2Seq
from pipelines.backtest.comparison import Window, absent_covariates, common_terms, score_all

HOUR = 3_600_000_000
STEPS, FIRST = 80, 60
WINDOW = Window.of(FIRST * HOUR, (STEPS - 1) * HOUR, HOUR, 3)


def make_bundle(
    seed: int = 0, *, covariates: CovariateSpec | None = None, gap: int = 5, step_us: int = HOUR, **changes: object
) -> Bundle:
    """Return a small model with random weights."""
    torch.manual_seed(seed)
    plain = {"hidden_size": 5, "num_layers": 1, "decoder_size": 6, "horizon": 3, "season_lengths": (4,)}
    config = ModelConfig(**(plain | {"min_history": 5} | changes))  # type: ignore[arg-type]
    model = Seq2Seq(config.resolve(step_us), step_us, covariates or CovariateSpec())
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return Bundle.of(model, frequency="1h", max_gap_steps=gap)


def make_frame() -> pl.DataFrame:
    """Return ragged series: one with a gap of eight hours in the window, one that begins there, one constant."""
    rng = np.random.default_rng(1)
    frames = []
    for name, start, skipped in (("a", 0, ()), ("b", 7, range(62, 70)), ("new", 66, ()), ("flat", 0, ())):
        steps = [k for k in range(start, STEPS) if k not in skipped]
        values = [7.0 if name == "flat" else float(10 + 3 * math.sin(k * math.tau / 4) + rng.normal()) for k in steps]
        times = [dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(hours=k) for k in steps]
        frames.append(pl.DataFrame({"unique_id": name, "ds": times, "y": values}))
    return pl.concat(frames).with_columns(pl.col("ds").cast(pl.Datetime("us", "UTC")))


def test_a_single_model_scores_what_its_own_backtest_says() -> None:
    bundle, frame, data = make_bundle(), make_frame(), DataConfig()
    terms = common_terms({"challenger": bundle})
    assert terms.notes == ()
    scores = score_all({"challenger": bundle}, frame, data, WINDOW, terms)
    series = to_segments(frame, HOUR, 5, data)
    units = mase_units(split_at(series, WINDOW.first_us)[0], 4)
    alone = rolling_origin(bundle.model, series, first_time_us=WINDOW.first_us, units=units)
    assert scores["challenger"][0].metrics() == pytest.approx(alone.metrics(), nan_ok=True)
    assert scores["seasonal_naive"][0].mase == pytest.approx(alone.seasonal_naive_mase)
    assert math.isnan(next(one.mase for one in scores["challenger"][0].series if one.unique_id == "new"))


@pytest.mark.parametrize(
    ("changes", "notes"),
    [
        ({"horizon": 2}, ["the horizons differ (challenger 3, champion 2): the first 2 steps are compared"]),
        ({"min_history": 9}, ["the model.min_history differ (challenger 5, champion 9): forecasts after 9 values"]),
        ({"season_lengths": (6,)}, ["the seasons differ (challenger 4, champion 6): the seasonal naive repeats 4"]),
        ({"gap": 10}, ["the data.max_gap_steps differ (challenger 5, champion 10): a gap of more than 5 steps cuts"]),
        ({"quantile_levels": (0.1, 0.5, 0.9)}, ["the quantile levels differ (challenger (0.025,"]),
    ],
)  # fmt: skip
def test_models_of_different_kinds_are_scored_on_the_pairs_that_both_have(
    changes: dict[str, object], notes: list[str]
) -> None:
    models = {"challenger": make_bundle(0), "champion": make_bundle(1, **changes)}  # type: ignore[arg-type]
    terms = common_terms(models)
    assert len(terms.notes) == len(notes)
    assert all(found.startswith(asked) for found, asked in zip(terms.notes, notes, strict=True))
    scores = score_all(models, make_frame(), DataConfig(), WINDOW, terms)
    for part in range(4):
        counts = {name: [one.pairs for one in found[part].series] for name, found in scores.items()}
        assert counts["challenger"] == counts["champion"] == counts["seasonal_naive"]
        assert {found[part].origins for found in scores.values()} == {scores["challenger"][part].origins}
        naive = scores["seasonal_naive"][part].mase
        assert scores["champion"][part].seasonal_naive_mase == pytest.approx(naive)
    assert sum(one.pairs for one in scores["champion"][0].series) > 50
    assert len(scores["champion"][0].mase_by_horizon) == terms.horizon


def test_a_shorter_horizon_changes_no_forecast() -> None:
    long, frame = make_bundle(0), make_frame()
    terms = common_terms({"challenger": long, "champion": make_bundle(1, horizon=1)})
    cut = score_all({"challenger": long}, frame, DataConfig(), WINDOW, terms)["challenger"][0]
    whole = score_all({"challenger": long}, frame, DataConfig(), WINDOW, common_terms({"challenger": long}))
    assert cut.mase_by_horizon[0] == pytest.approx(whole["challenger"][0].mase_by_horizon[0])


def test_folds_are_the_whole_window_cut_at_the_times_of_the_first_steps() -> None:
    models = {"challenger": make_bundle()}
    scores = score_all(models, make_frame(), DataConfig(), WINDOW, common_terms(models))
    series = to_segments(make_frame(), HOUR, 5, DataConfig())
    units = mase_units(split_at(series, WINDOW.first_us)[0], 4)
    for part, (first, last) in enumerate(WINDOW.stretches(), start=1):
        alone = rolling_origin(models["challenger"].model, series, first_time_us=first, last_time_us=last, units=units)
        assert scores["challenger"][part].metrics() == pytest.approx(alone.metrics(), nan_ok=True)
    whole, *folds = scores["challenger"]
    assert whole.origins == sum(one.origins for one in folds)
    assert [one.pairs for one in whole.series] == [sum(parts) for parts in zip(*pairs_of(folds), strict=True)]


def pairs_of(backtests: list) -> list[list[int]]:
    return [[one.pairs for one in found.series] for found in backtests]


@pytest.mark.parametrize(
    ("steps", "folds", "lengths"), [(20, 3, [6, 7, 7]), (20, 1, [20]), (2, 3, [1, 1]), (9, 3, [3, 3, 3])]
)
def test_a_window_is_cut_into_stretches_of_about_the_same_length(steps: int, folds: int, lengths: list[int]) -> None:
    window = Window.of(0, (steps - 1) * HOUR, HOUR, folds)
    assert window.steps == steps
    assert [(until - since) // HOUR + 1 for since, until in window.stretches()] == lengths
    starts = [since for since, _ in window.stretches()]
    assert starts == [0, *(until + HOUR for _, until in window.stretches()[:-1])]


def test_each_model_reads_its_own_covariates_and_misses_what_the_data_has_not() -> None:
    rain = CovariateSpec(past=(Covariate("rain"),), categories=(Category("region", ("north",)),))
    models = {"challenger": make_bundle(0, covariates=rain), "champion": make_bundle(1)}
    frame = make_frame().with_columns(rain=pl.col("y").fill_null(0.0) * 2, region=pl.lit("north"))
    data = dataclasses.replace(DataConfig(), past_covariates=("rain",), static_categories=("region",))
    terms = common_terms(models)
    assert absent_covariates(models, frame) == []
    with_rain = score_all(models, frame, data, WINDOW, terms)
    assert absent_covariates(models, make_frame()) == [
        "the data has no column rain, region, which the challenger knows: it is missing for it"
    ]
    without = score_all(models, make_frame(), DataConfig(), WINDOW, terms)
    assert math.isfinite(without["challenger"][0].mase)
    assert with_rain["challenger"][0].mase != without["challenger"][0].mase
    assert with_rain["champion"][0].mase == without["champion"][0].mase


def test_models_of_different_steps_cannot_be_compared() -> None:
    with pytest.raises(ConfigError, match="models of different time steps cannot be compared"):
        common_terms({"challenger": make_bundle(0), "champion": make_bundle(1, step_us=HOUR // 4)})
