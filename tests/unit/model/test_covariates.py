"""Covariates: what training says of them, and how they become features."""

import json
import math

import numpy as np
import pytest
import torch

from forecaster.data.windows import Series, StaticCovariates
from forecaster.model.covariates import CovariateInputs, CovariateSpec, attributes_of, with_attributes
from tests.unit.model.family import MODELS, SPEC, draw_for, fresh

HOUR = 3_600_000_000


def make_series() -> list[Series]:
    beside = np.array([[1.0, 10.0], [np.nan, 10.0], [3.0, 10.0]])
    return [
        Series("a", 0, HOUR, np.ones(3), beside, StaticCovariates((5.0,), ("north",))),
        Series("a", 99 * HOUR, HOUR, np.ones(1), np.array([[2.0, 10.0]]), StaticCovariates((5.0,), ("north",))),
        Series("b", 0, HOUR, np.ones(1), np.array([[2.0, 10.0]]), StaticCovariates((7.0,), ("",))),
        Series("c", 0, HOUR, np.ones(1), np.array([[2.0, 10.0]]), StaticCovariates((math.nan,), ("east",))),
    ]


def test_fit_standardises_by_what_is_known_and_counts_a_series_once() -> None:
    spec = CovariateSpec.fit(make_series(), past=["rain"], future=["price"], static=["area"], categories=["region"])
    assert spec.dynamic == ("rain", "price")
    rain, price, area = spec.past[0], spec.future[0], spec.static[0]
    assert (rain.mean, rain.deviation) == (pytest.approx(2.0), pytest.approx(np.std([1, 3, 2, 2, 2])))
    assert (price.mean, price.deviation) == (10.0, 1.0), "what never changes is not blown up"
    assert (area.mean, area.deviation) == (pytest.approx(6.0), pytest.approx(1.0))
    assert spec.categories[0].values == ("east", "north")
    assert [spec.codes((value,)) for value in ("east", "north", "", "west")] == [(1,), (2,), (0,), (0,)]
    assert CovariateSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize("value", [0.1, -20.3, 1e9 / 3])
def test_rounding_is_no_variation(value: float) -> None:
    """A thousand times the same number has a mean beside it, and a deviation that is not quite zero."""
    series = [Series("a", 0, HOUR, np.ones(1000), np.full((1000, 1), value))]
    assert CovariateSpec.fit(series, past=["flag"]).past[0].deviation == 1.0


def test_features_are_standardised_values_and_masks() -> None:
    inputs = CovariateInputs(SPEC)
    raw = torch.tensor([[3.0, math.nan, 0.4]], dtype=torch.float64)
    found = inputs.dynamic(raw)
    torch.testing.assert_close(found, torch.tensor([[1.0, 0.0, 1.0, 1.0, 0.0, 1.0]]), atol=0.01, rtol=0)
    assert inputs.dynamic_size == found.shape[-1]
    assert torch.isfinite(inputs.future(torch.full((2, 2), math.nan, dtype=torch.float64))).all()


@torch.inference_mode()
def test_an_unseen_category_is_a_missing_one() -> None:
    model = MODELS["covariates"]
    known, unseen, missing = (
        Series(name, 0, HOUR, np.ones(1), None, StaticCovariates((50.0,), (name, "a")))
        for name in ("north", "mars", "")
    )
    observations = draw_for(model, 1, 1, 20, 0.0)
    forecasts = []
    for one in (known, unseen, missing):
        state = with_attributes(model.initial_state(1), *attributes_of([one], model.covariates))
        forecasts.append(model.decode(model.scan(state, observations)[0], 3))
    assert torch.equal(forecasts[1], forecasts[2])
    assert not torch.allclose(forecasts[0], forecasts[1])


@torch.inference_mode()
@pytest.mark.parametrize("name", ["covariates", "covariates, everything"])
def test_every_covariate_matters(name: str) -> None:
    model = MODELS[name]
    observations, before = draw_for(model, 2, 2, 30, 0.0), fresh(model, 2, 2)
    assert observations.covariates is not None
    future = torch.zeros(2, 6, 2, dtype=torch.float64)
    plain = model.decode(model.scan(before, observations)[0], 6, future)
    for k in range(3):
        moved = observations.covariates.clone()
        moved[:, -1, k] += 20.0
        other = model.decode(model.scan(before, observations._replace(covariates=moved))[0], 6, future)
        assert not torch.allclose(other, plain)
    for k in range(2):
        moved = future.clone()
        moved[:, 2, k] += 20.0
        changed = (model.decode(model.scan(before, observations)[0], 6, moved) - plain).abs().amax(dim=(0, 2)) > 1e-6
        if model.config.bidirectional:  # known at the first step already
            assert changed.all()
        else:
            assert changed.tolist() == [False, False, True, False, False, False]
    codes = before["static_codes"].clone()
    codes[:, 0] = (codes[:, 0] + 1) % 3
    other = model.decode(model.scan({**before, "static_codes": codes}, observations)[0], 6, future)
    assert not torch.allclose(other, plain)
