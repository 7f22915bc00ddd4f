"""What is issued is scored when its time comes; live and replayed states are the same."""

import dataclasses
import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from forecaster.model.state import StateSpec
from forecaster.serving.calibration.calibration import NEVER, scored_horizons
from forecaster.serving.storage.issued import Issued
from forecaster.serving.storage.records import decode, encode
from tests.unit.serving.calibration.calibrating import GAUSSIAN, HOUR_US, LEVELS, Run, Series, calibration, replayed

WAITING, LEARNT = "calibration_waiting", "calibration_learnt"


def gaussian(n: int, horizon: int, centre: float = 0.0, spread: float = 1.0) -> np.ndarray:
    return np.broadcast_to(centre + spread * GAUSSIAN, (n, horizon, len(LEVELS))).copy()


def scored(series: Series, i: int) -> list[int]:
    return [one.scored for one in series.calibration.report(series.tensors, series.slots[[i]]).of(0)]


def waiting(series: Series, i: int) -> list[int]:
    return series.horizons(WAITING, i)[:, 0].astype(int).clip(0).tolist()  # below 0 it rests


def test_horizons() -> None:
    assert scored_horizons(24) == (1, 6, 12, 24)
    assert [scored_horizons(h) for h in (1, 2, 3, 5)] == [(1,), (1, 2), (1, 2, 3), (1, 2, 3, 5)]


def test_a_state_is_a_few_hundred_bytes() -> None:
    assert StateSpec(calibration(24).spec).num_bytes == 400


def test_a_fresh_series_waits_for_nothing_and_corrects_nothing() -> None:
    series = Series(calibration(8), ("a",))
    assert series.calibration.next_target(series.tensors, series.slots).tolist() == [NEVER]
    quantiles = gaussian(1, 8, 5.0, 3.0)
    found = series.calibration.corrected(series.tensors, series.slots, quantiles, LEVELS)
    np.testing.assert_allclose(found, quantiles, rtol=1e-12)
    report = series.calibration.report(series.tensors, series.slots)
    assert [one.scored for one in report.of(0)] == [0] * 4
    assert all(math.isnan(one.mase) and math.isnan(one.coverage) for one in (*report.of(0), *report.mean()))


def test_scores_are_counted_beyond_the_whole_numbers_of_float32() -> None:
    series = Series(calibration(1), ("a",))
    series.tensors[LEARNT][..., -5] = 2.0**24 - 3
    series.observe({0: series.next_run(0, [0.0])})
    for count in range(2**24 - 2, 2**24 + 8):
        series.forecast([0], gaussian(1, 1))
        series.observe({0: series.next_run(0, [0.5])})
        assert scored(series, 0) == [count]


def test_a_horizon_waits_for_one_forecast_at_a_time() -> None:
    series = Series(calibration(8), ("a", "b"))
    series.observe({0: series.next_run(0, [0.0]), 1: series.next_run(1, [0.0, 0.0])})
    issued = series.forecast([0, 1], gaussian(2, 8))
    assert issued is not None
    assert issued.series.tolist() == [0] * 4 + [1] * 4
    assert (waiting(series, 0), waiting(series, 1)) == ([2, 3, 5, 9], [3, 4, 6, 10])
    assert series.forecast([0, 1], gaussian(2, 8)) is None  # nothing changes
    series.observe({0: series.next_run(0, [0.5])})
    assert (scored(series, 0), scored(series, 1)) == ([1, 0, 0, 0], [0] * 4)
    again = series.forecast([0, 1], gaussian(2, 8))
    assert again is not None
    assert (again.series_ids, again.horizons.tolist()) == (("a",), [0])
    assert series.calibration.next_target(series.tensors, series.slots).tolist() == [3, 3]


def test_a_shorter_forecast_reaches_fewer_horizons() -> None:
    series = Series(calibration(8, ends=True), ("a", "b", "c"))
    series.observe({i: series.next_run(i, [0.0]) for i in range(3)})
    issued = series.forecast([0], gaussian(1, 3))
    assert issued is not None
    assert waiting(series, 0) == [2, 3, 0, 0]
    series.forecast([1], gaussian(1, 8), shown=[4])  # of a series that may end
    assert waiting(series, 1) == [2, 3, 5, 0]
    series.forecast([2], gaussian(1, 8), shown=[0])  # it may be over, but the next step is always shown
    assert waiting(series, 2) == [2, 0, 0, 0]


def test_what_is_not_a_number_is_not_issued() -> None:
    series = Series(calibration(8), ("a",))
    series.observe({0: series.next_run(0, [0.0])})
    quantiles = gaussian(1, 8)
    quantiles[0, 1, 12] = math.nan
    series.forecast([0], quantiles)
    assert waiting(series, 0) == [2, 0, 5, 9]
    assert series.forecast([0], np.full((1, 8, 13), math.inf)) is None


def test_a_missing_value_is_not_scored_and_no_longer_waited_for() -> None:
    for absent in (math.nan, None):
        series = Series(calibration(8), ("a",))
        series.observe({0: series.next_run(0, [0.0])})
        series.forecast([0], gaussian(1, 8))
        series.observe({0: series.next_run(0, [absent, 7.0])})
        assert (scored(series, 0), waiting(series, 0)) == ([0, 1, 0, 0], [0, 0, 5, 9])
        assert (series.horizons(LEARNT, 0)[0] == 0).all()


def test_scores() -> None:
    series = Series(calibration(8), ("a",), unit=4.0)
    series.observe({0: series.next_run(0, [0.0])})
    errors, inside = [], []
    for value in (2.0, -1.0, 0.5, -6.0, 1.0):
        series.forecast([0], gaussian(1, 1, centre=10.0, spread=2.0))
        series.observe({0: series.next_run(0, [10.0 + value])})
        errors.append(value / 4.0)
        inside.append(abs(value) <= 2.0 * GAUSSIAN[10])
    score = series.calibration.report(series.tensors, series.slots).of(0)[0]
    weights = 0.99 ** np.arange(5)[::-1]
    assert (score.horizon, score.scored, score.nominal) == (1, 5, 0.8)
    assert score.mase == pytest.approx(np.average(np.abs(errors), weights=weights), rel=1e-5)
    assert score.bias == pytest.approx(-np.average(errors, weights=weights), rel=1e-5)
    assert score.coverage == pytest.approx(np.average(inside, weights=weights), rel=1e-5)
    mean = series.calibration.report(series.tensors, slice(None)).mean()
    assert mean[0] == dataclasses.replace(score, mase_median=score.mase)
    assert mean[1].scored == 0


def test_a_value_on_a_bound_lies_inside_and_a_mad_one_is_survived() -> None:
    """Counts do both: a bound of 0 and a value of 0, whatever they are rounded to in units around the median."""
    rng = np.random.default_rng(0)
    series = Series(calibration(1), ("a",), unit=0.7)
    series.observe({0: series.next_run(0, [0.0])})
    for _ in range(50):
        quantiles = np.sort(rng.normal(size=(1, 1, 13))) * 1e5
        series.forecast([0], quantiles)
        series.observe({0: series.next_run(0, [quantiles[0, 0, rng.choice([2, 10])]])})
    before = series.calibration.report(series.tensors, series.slots).of(0)[0]
    assert before.coverage == pytest.approx(1.0)
    series.forecast([0], gaussian(1, 1, spread=1e-5))
    series.observe({0: series.next_run(0, [-1.7e308])})
    score = series.calibration.report(series.tensors, series.slots).of(0)[0]
    mad = score.mase * (1 - 0.99**51) - 0.99 * before.mase * (1 - 0.99**50)
    assert mad == pytest.approx(0.01 * 20, rel=1e-3)  # of twenty units, which is enough to be seen
    assert score.bias > before.bias
    assert all(torch.isfinite(series.tensors[name]).all() for name in (WAITING, LEARNT))


@pytest.mark.parametrize("median", [0.0, 1e-3])
@pytest.mark.parametrize("horizon", [7, 14, 28])
def test_whatever_the_weekday_of_the_beginning_all_weekdays_are_scored(horizon: int, median: float) -> None:
    """Series that begin on the seven weekdays, of a model that errs on Sundays alone, by 7: its mean error is 1."""
    rng, names = np.random.default_rng(horizon), tuple("abcdefg")
    series = Series(calibration(horizon), names)
    series.observe({i: series.next_run(i, [0.0]) for i in range(7)})
    for day in range(200 * horizon):
        series.forecast(range(7), gaussian(7, horizon, centre=median * rng.normal()))
        series.observe({i: series.next_run(i, [7.0 if (day + i) % 7 == 0 else 0.0]) for i in range(7)})
    scores = [series.calibration.report(series.tensors, series.slots).of(i)[-1] for i in range(7)]
    assert all(score.horizon == horizon and score.scored > 120 for score in scores)
    mase = np.array([score.mase for score in scores])  # of weights with a time constant of 100: 0.25 is chance
    assert ((mase > 0.25) & (mase < 2.0)).all()
    assert mase.mean() == pytest.approx(1.0, abs=0.3)


@pytest.mark.parametrize("levels", [(0.5,), (0.1, 0.5, 0.95)])
def test_models_of_other_levels(levels: tuple[float, ...]) -> None:
    series = Series(calibration(4, levels=levels), ("a",))
    series.observe({0: series.next_run(0, [0.0])})
    quantiles = np.array(levels)[None, None].repeat(4, axis=1)
    for value in (0.3, 0.6, 2.0):
        assert series.forecast([0], quantiles) is not None
        series.observe({0: series.next_run(0, [value])})
    score = series.calibration.report(series.tensors, series.slots).of(0)[0]
    assert score.scored == 3
    assert math.isnan(score.coverage) == (levels == (0.5,))
    wanted = [p for p in (0.2, 0.5, 0.6) if levels[0] <= p <= levels[-1]]
    found = series.calibration.corrected(series.tensors, series.slots, quantiles, wanted)
    assert found.shape == (1, 4, len(wanted))
    assert found[0, 0, wanted.index(0.5)] == 0.5


@st.composite
def turns(draw: st.DrawFn) -> list[tuple[dict[int, tuple[int | None, list[float | None]]], list[tuple[int, int]]]]:
    """Draw turns: of some series a gap before a fresh start, if any, and values; then forecasts (series, horizon)."""
    value = st.one_of(st.floats(-5, 5), st.just(math.nan), st.none())
    run = st.tuples(st.one_of(st.none(), st.none(), st.integers(20, 40)), st.lists(value, min_size=1, max_size=6))
    runs = st.dictionaries(st.integers(0, 2), run, max_size=3)
    wanted = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 8)), max_size=3, unique_by=lambda one: one[0])
    return draw(st.lists(st.tuples(runs, wanted), min_size=1, max_size=10))


@settings(max_examples=150, deadline=None)
@given(turns(), st.data())
def test_the_fold_of_the_journal_is_the_live_state(drawn: list[tuple[dict, list]], data: st.DataObject) -> None:
    series, rng = Series(calibration(8, rates=(0.5, 0.5)), ("a", "b", "c"), unit=0.3), np.random.default_rng(1)
    for runs, wanted in drawn:
        made = {}
        for i, (gap, values) in runs.items():
            run = series.next_run(i, values)
            fresh = series.position[i] == 0 or gap is not None  # then the first row is there
            made[i] = Run(run.start_us + (gap or 0) * HOUR_US, ((0.0, *values) if fresh else run.values), fresh)
        if made:
            series.observe(made)
        known = [(i, horizon) for i, horizon in wanted if series.position[i] > 0]
        for i, horizon in known:
            quantiles = np.sort(rng.normal(size=(1, horizon, 13)), axis=-1)
            series.forecast([i], quantiles)
    for k, record in enumerate(series.log):
        if isinstance(record, Issued):
            again = decode(encode(record))
            assert isinstance(again, Issued)
            series.log[k] = again
    cuts = data.draw(st.lists(st.integers(0, len(series.log)), max_size=4).map(sorted))
    folded = replayed(series, cuts)
    for name in (WAITING, LEARNT):
        assert torch.equal(folded.tensors[name], series.tensors[name])


def test_replaying_what_a_snapshot_holds_already_changes_nothing() -> None:
    """What was issued before a snapshot is journaled behind it, with the next observations."""
    series = Series(calibration(8), ("a",))
    series.observe({0: series.next_run(0, [0.0])})
    issued = series.forecast([0], gaussian(1, 8))
    assert issued is not None
    snapshot = {name: tensor.clone() for name, tensor in series.tensors.items()}
    run, position = series.next_run(0, [3.0, 1.0]), series.position.copy()
    series.observe({0: run})
    later = Series(calibration(8), ("a",))
    later.tensors, later.position = snapshot, position
    later.targets = later.calibration.next_target(snapshot, later.slots)
    later.observe({0: run}, issued)
    assert torch.equal(later.tensors[LEARNT], series.tensors[LEARNT])
    assert torch.equal(later.tensors[WAITING], series.tensors[WAITING])


def test_what_was_issued_before_a_gap_counts_for_nothing() -> None:
    series = Series(calibration(8), ("a", "b"))
    series.observe({0: series.next_run(0, [0.0])})
    issued = series.forecast([0], gaussian(1, 8))
    series.observe({0: Run(100 * HOUR_US, (1.0,) * 9, fresh=True)}, issued)
    assert scored(series, 0) == [0] * 4
    assert waiting(series, 0) == [0] * 4
    series.observe({1: series.next_run(1, [0.0])}, issued)  # nor for a part without its series
    assert (series.tensors[LEARNT] == 0).all()


def test_one_step_is_a_run_of_one_step() -> None:
    one, other = (Series(calibration(8), ("a", "b")) for _ in range(2))
    rng = np.random.default_rng(0)
    for _ in range(40):
        values = np.where(rng.random(2) < 0.2, math.nan, rng.normal(size=2))
        one.observe({i: one.next_run(i, [value]) for i, value in enumerate(values.tolist())})
        other.calibration.score_step(other.tensors, other.targets, other.slots, other.position, values)
        other.position, other.clock_us = one.position.copy(), one.clock_us.copy()
        for series in (one, other):
            series.forecast([0, 1], gaussian(2, 8))
        assert torch.equal(one.tensors[LEARNT], other.tensors[LEARNT])
        assert torch.equal(one.tensors[WAITING], other.tensors[WAITING])
