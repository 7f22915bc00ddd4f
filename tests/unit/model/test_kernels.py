"""What the kernels compute themselves, against NumPy in double precision."""

import pathlib

import numba
import numpy as np
import pytest
import torch

import forecaster
from forecaster.data.features import calendar_features, calendar_periods
from forecaster.model.kernels import arithmetic as kernels
from forecaster.model.kernels import compiling
from tests.unit.model.family import HOUR_US, START_US


@numba.njit
def each(function, x):
    found = np.empty_like(x)
    for j in range(x.size):
        found[j] = function(x[j])
    return found


def test_exp_is_within_two_units_in_the_last_place() -> None:
    x = np.linspace(-60, 60, 300_001, dtype=np.float32)
    exact = np.exp(x.astype(np.float64))
    assert np.max(np.abs(each(kernels.exp, x) - exact) / np.spacing(exact.astype(np.float32))) <= 2
    assert np.isfinite(each(kernels.exp, np.array([-np.inf, -1e30, 1e30, np.inf], dtype=np.float32))).all()


@pytest.mark.parametrize(
    ("function", "exact"),
    [
        (kernels.sigmoid, lambda x: np.exp(-np.logaddexp(0, -x))),
        (kernels.tanh, np.tanh),
        (kernels.silu, lambda x: x * np.exp(-np.logaddexp(0, -x))),
        (kernels.softplus, lambda x: np.logaddexp(x, 0)),
    ],
)
def test_activations(function, exact) -> None:
    x = np.concatenate([np.linspace(-100, 100, 100_001), np.geomspace(1e-6, 1, 1001), [-1e6, 1e6]]).astype(np.float32)
    np.testing.assert_allclose(each(function, x), exact(x.astype(np.float64)), rtol=3e-7, atol=2e-7)


def test_the_calendar_is_that_of_training() -> None:
    rng = np.random.default_rng(0)
    for time in (0, -1, START_US, *rng.integers(-(2**55), 2**55, 200)):
        found = np.empty(6, np.float32)
        kernels.calendar(int(time), np.array(calendar_periods(HOUR_US)), found)
        np.testing.assert_allclose(found, calendar_features(torch.tensor([time]), HOUR_US)[0].numpy(), atol=1e-6)


def test_what_was_compiled_goes_with_any_of_the_kernels_files() -> None:
    """Numba itself looks at the entry's file only, and would run what an older helper was compiled to."""
    stamp = compiling.entry(lambda x: x)._cache._cache_file._source_stamp
    package = pathlib.Path(forecaster.__file__).parent
    written = [path for path in package.rglob("*.py") if {"@part", "@entry"} & set(path.read_text().splitlines())]
    assert len(written) >= 8
    assert {(path.stat().st_mtime, path.stat().st_size) for path in written} <= set(stamp)
