"""What is held out, and what is not when the tail is to be learnt from too."""

import dataclasses

import numpy as np
import pytest
from small import HOUR, make_config, make_series

from forecaster.evaluation.rolling import mase_units
from forecaster.training.split import split


@pytest.mark.parametrize("holdout", [True, False])
def test_the_tail_is_learnt_from_only_without_holdout(holdout: bool) -> None:
    series = make_series(2, 200)
    config = make_config(validation_steps=40, holdout=holdout)
    parts = split(series, config.model, config.training, warm_up_steps=30)
    shorter = [dataclasses.replace(one, values=one.values[:160]) for one in series]
    learnt = shorter if holdout else series
    assert [len(one) for one in parts.training] == [len(one) for one in learnt]
    for found, expected in zip(parts.training, learnt, strict=True):
        np.testing.assert_array_equal(found.values, expected.values)
    assert mase_units(shorter, 12) != mase_units(series, 12)
    assert parts.units == mase_units(learnt, 12)
    # What the epochs' figures are of is the same either way.
    assert parts.validation_time_us == 160 * HOUR
    for found, one in zip(parts.validation, series, strict=True):
        assert found.start_us == 130 * HOUR
        np.testing.assert_array_equal(found.values, one.values[130:])
