"""What becomes of a trained model: which may be the first champion, and which data a name stands for."""

import dataclasses
import math
import random

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from forecaster.config import Config, DataConfig, PromotionConfig, TrackingConfig
from forecaster.data.windows import Series
from forecaster.errors import ConfigError
from forecaster.evaluation.scores import Backtest, Sums
from forecaster.registry import aliases, registry
from forecaster.training.run.registration import _differences, data_tags, require_same_data, take_place, verdict


def backtest(mase: float, coverage_80: float) -> Backtest:
    """Return a backtest whose seasonal naive has a MASE of 1."""
    return Backtest(
        series=(),
        mase=mase,
        seasonal_naive_mase=1.0,
        smape=10.0,
        mae=3.0,
        rmse=4.0,
        msis=5.0,
        pinball=0.3,
        wql=0.1,
        coverage={0.5: 0.5, 0.8: coverage_80, 0.9: 0.9, 0.95: 0.95},
        mase_by_horizon=(mase,),
        seasonal_naive_mase_by_horizon=(1.0,),
        calibration={0.5: 0.5},
        origins=100,
    )


@pytest.mark.parametrize("coverage_80", [0.6, 0.8, 0.95])
def test_a_model_that_beats_the_seasonal_naive_with_honest_intervals_may_be_champion(coverage_80: float) -> None:
    assert verdict(backtest(0.99, coverage_80)) == ""


@pytest.mark.parametrize(("coverage_80", "shown"), [(0.0, "few"), (0.59, "few"), (0.96, "many")])
def test_intervals_that_hold_too_little_or_too_much_are_said(coverage_80: float, shown: str) -> None:
    said = verdict(backtest(0.5, coverage_80))
    assert said.startswith(f"it has 80 % intervals that hold too {shown} of the values (they hold {coverage_80:.1%} of")


@pytest.mark.parametrize("mase", [1.0, 1.2, math.nan])
def test_a_model_no_better_than_the_seasonal_naive_is_said(mase: float) -> None:
    assert verdict(backtest(mase, 0.8)).startswith("it does not beat the seasonal naive (")


def test_the_configured_rule_is_the_one_that_judges() -> None:
    assert verdict(backtest(0.9, 0.8), PromotionConfig(naive_margin=0.2)).startswith("it does not beat the seasonal")
    assert verdict(backtest(0.9, 0.5), PromotionConfig(min_coverage=0.4)) == ""
    assert "was scored too little" in verdict(backtest(0.9, 0.8), PromotionConfig(min_origins=101))


def measured(levels: tuple[float, ...], width: float, broken: int | None = None, series: int = 50) -> Backtest:
    """Return the figures of good forecasts of many series, those of one of them not finite."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    target = noise(series, 20, 4)
    normal = torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(levels, dtype=torch.float64))
    quantiles = (target + 0.5 * noise(series, 20, 4))[..., None] + width * normal
    if broken is not None:
        quantiles[broken, 3, 1] = math.nan
    sums = Sums.zeros(series, 4, len(levels), torch.device("cpu"))
    sums.add(quantiles, target, target + 2 * noise(series, 20, 4), levels)
    return sums.summary([str(k) for k in range(series)], torch.ones(series, dtype=torch.float64), levels)


def test_one_series_whose_forecasts_are_not_finite_fails_a_model() -> None:
    assert verdict(measured((0.1, 0.5, 0.9), 0.5)) == ""
    broken = measured((0.1, 0.5, 0.9), 0.5, broken=7)
    assert math.isfinite(broken.mase)  # the mean leaves it out
    assert broken.broken == ["7"]
    assert "has forecasts or figures that are not finite" in verdict(broken)


def test_a_model_without_80_percent_intervals_is_judged_by_those_it_has() -> None:
    levels = (0.2, 0.5, 0.8)
    assert verdict(measured(levels, 0.5)) == ""
    said = verdict(measured(levels, 0.05))
    assert said.startswith("it has 50 % intervals that hold too few of the values (they hold 5")
    assert said.endswith("27% to 83% are asked for, as model.quantile_levels do not reach 0.1 and 0.9)")
    assert "has none: train with model.quantile_levels from 0.1 or less" in verdict(measured((0.5,), 0.5))


STEP_US = 3_600_000_000


def series_of(*ids: str, step_us: int = STEP_US) -> list[Series]:
    return [Series(one, 0, step_us, np.arange(4.0)) for one in ids]


def of(tags: dict[str, str], tracking: TrackingConfig) -> registry.RegisteredModel:
    """Register a version with tags, and no files."""
    client = registry.connect(tracking)
    if registry.newest(client, tracking) is None:
        client.create_registered_model(tracking.model)
    made = client.create_model_version(tracking.model, "nowhere", tags=tags)
    found = registry.find(client, tracking, str(made.version))
    assert found is not None
    return found


def test_the_first_champion_is_the_only_one_that_a_training_makes(tracking: TrackingConfig) -> None:
    client = registry.connect(tracking)
    versions = [of({}, tracking).version for _ in range(4)]
    assert take_place(client, tracking, versions[0], may_lead=False) is None
    assert registry.find(client, tracking, registry.CHAMPION) is None
    assert take_place(client, tracking, versions[1], may_lead=True) is None
    for version in versions[2:]:
        stays = take_place(client, tracking, version, may_lead=True)
        assert stays is not None
        assert stays.version == versions[1]
        assert registry.resolve(tracking, registry.CHALLENGER).version == version
    assert registry.resolve(tracking).version == versions[1]


OTHERS = [
    (DataConfig(), series_of("meter 1", step_us=2 * STEP_US), "its time step is 3600 s, not 7200 s"),
    (DataConfig(), series_of("shop 1"), "none of its series is among these ('shop 1' …)"),
    (DataConfig(target_column="price"), series_of("meter 1"), "it forecasts the column 'load', not 'price'"),
]


@pytest.mark.parametrize(("data", "series", "said"), OTHERS)
def test_other_data_ask_for_another_name(
    data: DataConfig, series: list[Series], said: str, tracking: TrackingConfig
) -> None:
    config = Config(data=DataConfig(target_column="load"), tracking=tracking)
    require_same_data(config, series)  # there is no store yet
    champion = of(data_tags(config, series_of("meter 1", "meter 2")), tracking)
    other = dataclasses.replace(config, data=data)
    require_same_data(other, series)  # nor a champion
    aliases.promote(registry.connect(tracking), tracking, champion.version)
    with pytest.raises(ConfigError, match="is of other data: ") as caught:
        require_same_data(other, series)
    assert said in str(caught.value)
    assert str(caught.value).endswith("name of its own with --tracking.model")
    require_same_data(dataclasses.replace(other, tracking=dataclasses.replace(tracking, model="others")), series)


def test_a_fleet_that_changes_stays_the_same(tracking: TrackingConfig) -> None:
    config = Config(data=DataConfig(target_column="load"), tracking=tracking)
    champion = of(data_tags(config, series_of("meter 1", "meter 2")), tracking)
    aliases.promote(registry.connect(tracking), tracking, champion.version)
    require_same_data(config, series_of("meter 2", "meter 3"))
    ingested = DataConfig(past_covariates=("rain",))  # its target is called y, whatever it was called in the sources
    require_same_data(dataclasses.replace(config, data=ingested), series_of("meter 1"))
    older = of({}, tracking)  # which does not tell
    aliases.promote(registry.connect(tracking), tracking, older.version)
    require_same_data(config, series_of("shop 1"))


@hypothesis.given(count=st.integers(1, 2000), kept=st.floats(0.2, 1.0), grown=st.integers(0, 2000), seed=st.integers())
@hypothesis.settings(deadline=None, max_examples=30)
def test_a_fifth_of_a_fleet_tells_which_it_is(count: int, kept: float, grown: int, seed: int) -> None:
    ids = [f"meter {k}" for k in range(count)]
    stay = random.Random(seed).sample(ids, math.ceil(kept * count))
    came = [f"new {k}" for k in range(grown)]
    before = data_tags(Config(), series_of(*ids))
    assert len(before["data_ids"]) < 1000  # a tag
    assert _differences(before, Config(), series_of(*stay, *came)) == []
    if came:
        assert len(_differences(before, Config(), series_of(*came))) == 1
