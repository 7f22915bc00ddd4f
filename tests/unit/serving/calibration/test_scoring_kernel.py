"""The kernels against plain NumPy, alone and many at once, compiled and not."""

import math
import os
import pathlib
import subprocess
import sys

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from forecaster.serving.calibration import issue_kernel, scoring_kernel
from forecaster.serving.calibration.calibration import scored_horizons
from forecaster.serving.storage.issued import Issued
from forecaster.serving.storage.records import decode, encode
from tests.unit.serving.calibration.calibrating import GAUSSIAN, LEVELS, Series, calibration
from tests.unit.serving.calibration.plain_calibration import PlainSeries

WAITING, LEARNT = "calibration_waiting", "calibration_learnt"
HORIZON, RATES, UNIT = 8, (0.5, 0.3), 0.7


def played(names: tuple[str, ...], values: np.ndarray, quantiles: np.ndarray) -> Series:
    """Return series after values [T, N] that were observed, each behind a forecast of [T, N, D, Q]."""
    series = Series(calibration(HORIZON, RATES), names, UNIT)
    series.position += 1
    for step, given_now in enumerate(quantiles):
        series.forecast(range(len(names)), given_now)
        at = series.targets, series.slots, series.position
        series.calibration.score_step(series.tensors, *at, values[step])
        series.position += 1
    return series


def drawn(seed: int, n: int, steps: int, factor: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    values = np.where(rng.random((steps, n)) < 0.1, math.nan, factor * rng.normal(size=(steps, n)))
    centres = rng.normal(size=(steps, n, HORIZON, 1))
    return values, centres + GAUSSIAN * rng.exponential(size=(steps, n, HORIZON, 1))


cases = {"seed": st.integers(0, 2**31), "steps": st.integers(1, 60), "factor": st.sampled_from([0.0, 1.0, 30.0])}


@settings(max_examples=40, deadline=None)
@given(**cases)
def test_they_do_what_plain_numpy_does(seed: int, steps: int, factor: float) -> None:
    values, quantiles = drawn(seed, 1, steps, factor)
    plain = PlainSeries(scored_horizons(HORIZON), LEVELS, RATES, UNIT)
    for step in range(steps):
        plain.issue(quantiles[step, 0], step + 1)
        plain.score(step + 2, float(values[step, 0]))
    series = played(("a",), values, quantiles)
    waiting = series.horizons(WAITING, 0)
    np.testing.assert_array_equal(waiting[:, 0], np.where(plain.target > 0, plain.target, -plain.opens))
    np.testing.assert_array_equal(waiting[:, 1], plain.median)
    np.testing.assert_allclose(series.horizons(LEARNT, 0), plain.learnt(), rtol=2e-5, atol=2e-6)
    targets = plain.target[plain.target > 0]
    assert series.targets.tolist() == [min(targets, default=scoring_kernel.NEVER)]


@settings(max_examples=10, deadline=None)
@given(**cases)
def test_a_batch_is_each_series_alone_to_the_bit(seed: int, steps: int, factor: float) -> None:
    n = 64
    values, quantiles = drawn(seed, n, steps, factor)
    together = played(tuple(map(str, range(n))), values, quantiles)
    for i in range(0, n, 7):
        alone = played((str(i),), values[:, i : i + 1].copy(), quantiles[:, i : i + 1])
        for name in (WAITING, LEARNT):
            assert torch.equal(alone.tensors[name][0], together.tensors[name][together.slots[i]])


def test_warming_up() -> None:
    """After it nothing is compiled any more."""
    one = calibration(HORIZON, RATES)
    one.warm_up(torch.Size([7]))
    kernel = scoring_kernel
    entries = (kernel.next_targets, kernel.score_step, kernel.score, kernel.replay, issue_kernel.issue)
    compiled = [one.signatures for one in entries]
    assert all(compiled)
    values, quantiles = drawn(0, 2, 20, 1.0)
    for one in (values, quantiles):
        one.flags.writeable = False  # as what was decoded from bytes
    series = played(("a", "b"), values, quantiles)
    issued = series.forecast([0, 1], drawn(1, 2, 1, 1.0)[1][0])
    assert issued is not None
    again = decode(encode(issued))
    assert isinstance(again, Issued)
    series.observe({0: series.next_run(0, [1.0, None, 2.0])})
    series.observe({1: series.next_run(1, [1.0])}, again)
    assert [one.signatures for one in entries] == compiled


PLAYED = """
import sys
if sys.argv[1] == "without numba":
    sys.modules["numba"] = None
import numpy as np
from forecaster.model.kernels import compiling
from tests.unit.serving.calibration.test_scoring_kernel import LEARNT, LEVELS, WAITING, drawn, played
assert not compiling.COMPILES
series = played(("a", "b"), *drawn(5, 2, 60, 2.0))
series.observe({0: series.next_run(0, [1.0, 2.0])}, series.forecast([0], drawn(6, 1, 1, 1.0)[1][0]))
found = series.calibration.corrected(series.tensors, series.slots, drawn(6, 2, 1, 1.0)[1][0], LEVELS)
np.savez(sys.argv[2], waiting=series.tensors[WAITING].numpy(), learnt=series.tensors[LEARNT].numpy(), found=found)
"""


@pytest.mark.parametrize("how", ["without numba", "NUMBA_DISABLE_JIT"])
def test_python_does_the_same_where_nothing_is_compiled(how: str, tmp_path: pathlib.Path) -> None:
    series = played(("a", "b"), *drawn(5, 2, 60, 2.0))
    series.observe({0: series.next_run(0, [1.0, 2.0])}, series.forecast([0], drawn(6, 1, 1, 1.0)[1][0]))
    found = series.calibration.corrected(series.tensors, series.slots, drawn(6, 2, 1, 1.0)[1][0], LEVELS)
    program = [sys.executable, "-W", "error", "-c", PLAYED, how, str(tmp_path / "plain.npz")]
    environment = {**os.environ, **({how: "1"} if how.isupper() else {})}
    subprocess.run(program, check=True, env=environment)
    plain = np.load(tmp_path / "plain.npz")
    np.testing.assert_array_equal(plain["waiting"], series.tensors[WAITING].numpy())
    np.testing.assert_allclose(plain["learnt"], series.tensors[LEARNT].numpy(), rtol=1e-6)
    np.testing.assert_allclose(plain["found"], found, rtol=1e-12)
