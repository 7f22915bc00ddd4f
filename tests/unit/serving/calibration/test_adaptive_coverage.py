"""Intervals keep their coverage where the data change: on simulated streams, and beside another implementation."""

import math
from typing import Any

import aci
import numpy as np
import pytest
from scipy.stats import norm

from tests.unit.serving.calibration.calibrating import GAUSSIAN, HOUR_US, LEVELS, Series, calibration

LEARNT = "calibration_learnt"


class Stream:
    """N streams of Gaussian values and a model that goes on believing in a variance of one."""

    def __init__(
        self, n: int, steps: int, horizon: int, *, factor: float, rates: tuple[float, float] = (0.2, 0.1)
    ) -> None:
        self.values = np.random.default_rng(7).normal(size=(n, steps))
        self.values[:, steps // 2 :] *= factor
        self.series = Series(calibration(horizon, rates), tuple(map(str, range(n))))
        self.quantiles = np.broadcast_to(GAUSSIAN, (n, horizon, len(LEVELS))).copy()
        self.bounds = np.full((n, steps, horizon, 2), math.nan)  # of the 80 % interval given before each step

    def run(self) -> None:
        """Observe every value, and forecast before every one of them."""
        series, everyone = self.series, range(len(self.values))
        for step, values in enumerate(self.values.T):
            if step:
                self.bounds[:, step] = series.calibration.corrected(
                    series.tensors, series.slots, self.quantiles, (0.1, 0.9)
                )
                series.forecast(everyone, self.quantiles)
            at = series.targets, series.slots, series.position
            series.calibration.score_step(series.tensors, *at, values)
            series.position += 1
            series.clock_us += HOUR_US

    def coverage(self, ahead: int) -> np.ndarray:
        """Return the share of the second half's values in the intervals given `ahead` steps before, by stream."""
        first = self.values.shape[1] // 2
        values = self.values[:, first + ahead - 1 :, None]
        bounds = self.bounds[:, first : self.values.shape[1] - ahead + 1, ahead - 1]
        return ((values >= bounds[..., :1]) & (values <= bounds[..., 1:])).mean(axis=(1, 2))


@pytest.fixture(scope="module")
def doubled() -> Stream:
    """Streams whose variance doubles half-way."""
    stream = Stream(12, 3000, 4, factor=math.sqrt(2.0))
    stream.run()
    return stream


def test_one_step_ahead_every_stream_keeps_its_coverage(doubled: Stream) -> None:
    assert ((doubled.coverage(1) > 0.78) & (doubled.coverage(1) < 0.82)).all()


@pytest.mark.parametrize("ahead", [1, 2, 3, 4])
def test_at_every_horizon_the_streams_keep_their_coverage(doubled: Stream, ahead: int) -> None:
    """Long horizons are scored less often, so that single streams scatter; step 3 is interpolated."""
    assert 0.78 < doubled.coverage(ahead).mean() < 0.82


def test_the_raw_intervals_do_not(doubled: Stream) -> None:
    inside = np.abs(doubled.values[:, 1500:]) <= norm.ppf(0.9)
    assert (inside.mean(axis=1) < 0.7).all()
    report = doubled.series.calibration.report(doubled.series.tensors, doubled.series.slots)
    for score in report.mean():
        assert score.coverage < 0.7
        assert 0.76 < score.calibrated_coverage < 0.84
    assert report.of(0)[0].scored == 2999
    each = np.array([report.of(i)[-1].scored for i in range(12)])  # 4 steps ahead, 0 to 3 of rest behind it
    assert (abs(each - 3000 / 5.5) < 20).all()


def test_a_long_horizon_follows_the_short_one_before_its_own_errors_come() -> None:
    """Of 1,000 steps the second half scores 24 steps ahead 20 times; uncorrected, the 80 % interval holds 63 %."""
    stream = Stream(24, 1000, 24, factor=math.sqrt(2.0))
    stream.run()
    assert 0.75 < stream.coverage(24).mean() < 0.83


def test_where_nothing_changes_intervals_stay_as_they_are() -> None:
    stream = Stream(12, 3000, 4, factor=1.0)
    stream.run()
    for ahead in (1, 4):
        assert 0.79 < stream.coverage(ahead).mean() < 0.81
        widths = np.diff(stream.bounds[:, 1500:, ahead - 1], axis=-1)
        assert np.median(widths) == pytest.approx(2 * norm.ppf(0.9), rel=0.05)


def test_alpha_moves_by_the_excess_of_hits() -> None:
    """Gibbs & Candès 2021, eq. 2 and Proposition 4.1, by what was given and what came."""
    stream = Stream(3, 1000, 1, factor=2.0)
    stream.run()
    inside = (stream.values >= stream.bounds[:, :, 0, 0]) & (stream.values <= stream.bounds[:, :, 0, 1])
    missed = (~inside[:, 1:]).sum(axis=1)
    moves = stream.series.tensors[LEARNT].numpy()[stream.series.slots, 0][:, stream.series.calibration._moves][:, 1]
    np.testing.assert_allclose(moves, 0.04 * (0.2 * 999 - missed), atol=1e-3)


def their_interval(_: object, qhat: float) -> tuple[float, float]:
    """Return the interval whose conformity score is `qhat`: the share of the distribution that it holds."""
    low, high = np.interp([(1 - qhat) / 2, (1 + qhat) / 2], LEVELS, GAUSSIAN)
    return float(low), float(high)


def their_score(value: float, _: object) -> float:
    level = float(np.interp(value, GAUSSIAN, LEVELS, left=0.0, right=1.0))
    return abs(2 * level - 1)


def test_the_same_as_another_implementation() -> None:
    """Theirs takes quantiles of past scores; with an even grid for a past it takes α as the level, as we do."""
    stream = Stream(1, 2000, 1, factor=math.sqrt(1.3), rates=(0.05, 0.05))
    stream.run()
    theirs: Any = aci.ACI(0.2, 0.05 * 0.2, score_fn=their_score, set_fn=their_interval, lookback=501, clip_alpha=False)
    grid = np.linspace(0.0, 1.0, 501)
    for step in range(1, 2000):
        theirs._score_history = [*grid]
        low, high = theirs.issue(0.0)
        np.testing.assert_allclose(stream.bounds[0, step, 0], [low, high], atol=2e-4)
        theirs.observe(stream.values[0, step])
    assert 0.05 < theirs.alpha_history.min() < 0.15  # it went somewhere, and never where ours goes on differently
    ours = stream.series.horizons(LEARNT, 0)[0, stream.series.calibration._moves][1]
    assert ours == pytest.approx(theirs.alpha_t - 0.2, abs=1e-4)


def test_as_good_as_another_implementation_on_its_own_scores() -> None:
    """As it is meant to be used: scores of raw intervals (conformalised quantile regression), the last 500 of them."""
    stream = Stream(2, 1200, 1, factor=math.sqrt(2.0))
    stream.run()
    raw = (float(-norm.ppf(0.9)), float(norm.ppf(0.9)))
    for values, ours in zip(stream.values, stream.coverage(1), strict=True):
        theirs = aci.ACI(0.2, 0.04, score_fn=aci.cqr_score, set_fn=aci.cqr_interval_set)
        held = []
        for value in values:
            theirs.issue(raw)
            held.append(theirs.observe(value)["hit"])
        assert abs(ours - 0.8) <= abs(np.mean(held[600:]) - 0.8) + 0.01
