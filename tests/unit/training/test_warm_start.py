"""Beginning from an earlier model: the same forecasts, categories by name, and one line where it does not fit."""

import dataclasses

import numpy as np
import pytest
import torch
from small import HOUR, make_config, make_series

from forecaster.config import Config
from forecaster.data.windows import Series, StaticCovariates
from forecaster.model.covariates import Category, Covariate, CovariateSpec
from forecaster.model.ensemble import Ensemble
from forecaster.model.seq2seq import Seq2Seq
from forecaster.training.fit import FitResult, fit
from forecaster.training.warm_start import Start, continued, misfit


@pytest.fixture(scope="module")
def fitted(series: list[Series]) -> FitResult:
    return fit(series, make_config(max_epochs=2))


def begun(series: list[Series], config: Config, fitted: FitResult) -> tuple[FitResult, list[str]]:
    said: list[str] = []
    return fit(series, config, start=Start(fitted.bundle.model, "sales version 7", said.append)), said


def test_it_begins_where_the_earlier_model_was(fitted: FitResult, series: list[Series]) -> None:
    result, said = begun(series, make_config(max_epochs=1, learning_rate=1e-9), fitted)
    assert result.backtest.mase == pytest.approx(fitted.backtest.mase, rel=1e-4)
    assert fit(series, make_config(max_epochs=1, learning_rate=1e-9)).backtest.mase > 1.05 * fitted.backtest.mase
    assert (result.started_from, said) == ("champion", ["from sales version 7"])


def test_it_is_ahead_of_a_training_from_scratch(fitted: FitResult, series: list[Series]) -> None:
    config = make_config(max_epochs=1)
    result, _ = begun(series, config, fitted)
    assert result.backtest.mase < 0.98 * fit(series, config).backtest.mase


def test_another_architecture_starts_from_scratch_and_says_so(fitted: FitResult, series: list[Series]) -> None:
    config = make_config(max_epochs=1)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, hidden_size=9, cell="lstm"))
    result, said = begun(series, config, fitted)
    assert result.bundle.fingerprint == fit(series, config).bundle.fingerprint
    assert result.started_from == "scratch"
    assert said == ["from scratch, sales version 7 does not fit: another model.cell, model.hidden_size"]


def categories(*values: str) -> CovariateSpec:
    return CovariateSpec(past=(Covariate("rain", 3.0, 2.0),), categories=(Category("region", values),))


def network(spec: CovariateSpec) -> Seq2Seq:
    torch.manual_seed(0)
    return Seq2Seq(make_config().model, HOUR, spec).eval()


def test_categories_keep_their_meaning_by_name() -> None:
    earlier = network(categories("north", "south"))
    now = CovariateSpec(past=(Covariate("rain", 4.0, 1.0),), categories=(Category("region", ("east", "south")),))
    assert misfit(earlier, earlier.config, HOUR, now) == ""
    made = continued(earlier, now)
    assert made.covariates.past == earlier.covariates.past  # numbers are standardised as the weights know them
    assert made.covariates.categories == (Category("region", ("east", "north", "south"), width=2),)
    assert CovariateSpec.from_dict(made.covariates.to_dict()) == made.covariates
    before, after = (one.inputs.embeddings[0].weight for one in (earlier, made))
    torch.testing.assert_close(after, before[[0, 0, 1, 2]])  # a new one begins as UNKNOWN


@pytest.mark.parametrize(
    ("spec", "step_us", "reason"),
    [
        (CovariateSpec(past=(Covariate("snow"),), categories=(Category("region"),)), HOUR, "other covariates"),
        (categories(), 60_000_000, "its time step is another"),
    ],
)
def test_what_does_not_fit_is_named(spec: CovariateSpec, step_us: int, reason: str) -> None:
    earlier = network(categories("north", "south"))
    assert misfit(earlier, earlier.config, step_us, spec) == reason


def test_an_ensemble_does_not_fit() -> None:
    one = network(categories("north"))
    assert misfit(Ensemble([one, one]), one.config, HOUR, one.covariates) == "it is an ensemble"


def test_new_series_of_new_categories_train_on() -> None:
    def labelled(names: list[str], seed: int) -> list[Series]:
        made = make_series(len(names), seed=seed)
        return [
            dataclasses.replace(one, attributes=StaticCovariates((), (name,)))
            for one, name in zip(made, names, strict=True)
        ]

    config = make_config(max_epochs=1)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, static_categories=("region",)))
    first = fit(labelled(["north", "south"], 0), config)
    second, said = begun(labelled(["south", "west"], 1), config, first)
    assert said == ["from sales version 7"]
    (region,) = second.bundle.model.covariates.categories
    assert region.values == ("north", "south", "west")
    assert np.isfinite(second.backtest.mase)
