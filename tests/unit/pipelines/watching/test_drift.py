"""What counts as drift: the rule on given numbers, and on the real engine's live scores of simulated streams."""

import dataclasses
import json
import math

import numpy as np
import pytest

from forecaster.config import ScheduleConfig
from forecaster.serving.work.series import LiveScores
from pipelines.watching.drift import Reference, Signal, independent_scores, look, suspects
from pipelines.watching.metrics_page import Live
from tests.unit.pipelines.watching.drifting import Groups, stream, trained

REFERENCE = Reference({1: 0.8, 4: 1.0}, {0.5: 0.5, 0.8: 0.78})
CONFIG = ScheduleConfig(min_scored=500)
FINE = Live(horizon=1, scored=100_000, mase=0.82, bias=0.03, coverage=0.79, calibrated_coverage=0.8, nominal=0.8)


def kinds(live: Live, series: int = 50, config: ScheduleConfig = CONFIG, reference: Reference = REFERENCE) -> list[str]:
    return [signal.kind for signal in suspects(live, series, reference, config)]


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({}, []),
        ({"mase": 1.19}, []),
        ({"mase": 1.21}, ["mase"]),
        ({"mase": 0.3}, []),
        ({"bias": -0.41}, ["bias"]),
        ({"bias": 0.39}, []),
        ({"coverage": 0.67}, ["coverage"]),
        ({"coverage": 0.69}, []),  # 0.11 away from the nominal one, but 0.09 from the backtest's
        ({"coverage": 0.91}, ["coverage"]),
        ({"coverage": 0.89}, []),
        ({"mase": 2.0, "bias": 2.0, "coverage": 0.1}, ["mase", "bias", "coverage"]),
        ({"mase": 2.0, "scored": 499}, []),
        ({"mase": math.nan, "bias": math.nan, "coverage": math.nan, "nominal": math.nan}, []),
    ],
)
def test_a_signal_is_what_is_past_its_limit(changed: dict[str, float], found: list[str]) -> None:
    assert kinds(dataclasses.replace(FINE, **changed)) == found


def test_what_few_scores_can_tell_has_wider_limits() -> None:
    bad = dataclasses.replace(FINE, scored=5000, mase=1.4, bias=0.5, coverage=0.66)
    assert kinds(bad, 50) == ["mase", "bias", "coverage"]
    assert kinds(bad, 5000) == []  # one score of each: a bad hour of the whole fleet
    assert kinds(bad, 5000, dataclasses.replace(CONFIG, correlation=0.0)) == ["mase", "bias", "coverage"]
    assert kinds(bad, 1) == ["mase", "bias"]  # 199 scores count of one series, at the most
    assert kinds(bad, 1, dataclasses.replace(CONFIG, correlation=0.8)) == []
    signal = suspects(bad, 50, REFERENCE, CONFIG)[0]
    assert (signal.kind, signal.horizon, signal.value) == ("mase", 1, pytest.approx(1.75))
    assert "1 step ahead" in signal.text
    assert "1.75 times" in signal.text


def test_without_a_backtest_only_coverage_is_judged() -> None:
    worse = dataclasses.replace(FINE, mase=9.0, bias=9.0, coverage=0.5)
    assert kinds(worse, reference=Reference()) == ["coverage"]
    assert kinds(dataclasses.replace(worse, coverage=0.71), reference=Reference()) == []


def test_independent_scores_are_what_a_simulation_says() -> None:
    """The variance of a mean over series of exponentially weighted means, of scores that are correlated as assumed."""
    rng = np.random.default_rng(5)
    for series, count, rho in ((1, 60, 0.0), (1, 1500, 0.0), (6, 300, 0.0), (1, 300, 0.4), (8, 300, 0.3)):
        runs = 1500
        common = rng.normal(size=(runs, 1, count)) * math.sqrt(rho if series > 1 else 0.0)
        own = rng.normal(size=(runs, series, count)) * math.sqrt(1.0 - rho if series > 1 else 1.0)
        scores = common + own
        for t in range(1, count):
            scores[..., t] = rho * scores[..., t - 1] + math.sqrt(1.0 - rho**2) * scores[..., t]
        weights = 0.99 ** np.arange(count)[::-1]
        means = (scores @ (weights / weights.sum())).mean(axis=1)
        assert independent_scores(series * count, series, rho) == pytest.approx(1.0 / means.var(), rel=0.15)


def test_it_takes_two_looks_with_something_new_between() -> None:
    bad, state = dataclasses.replace(FINE, mase=2.0, scored=1000), {}
    found: list[list[str]] = []
    for scored in (1000, 1000, 1049, 1051):
        state, drifted = look(state, "1", [dataclasses.replace(bad, scored=scored)], 50, REFERENCE, CONFIG)
        state = json.loads(json.dumps(state))  # as over a restart
        found.append([signal.kind for signal in drifted])
    assert found == [[], [], [], ["mase"]]
    state, drifted = look(state, "1", [dataclasses.replace(FINE, scored=1200)], 50, REFERENCE, CONFIG)
    assert not drifted
    _, drifted = look(state, "1", [dataclasses.replace(bad, scored=1300)], 50, REFERENCE, CONFIG)
    assert not drifted  # it was fine in between


def test_another_version_begins_anew() -> None:
    bad = dataclasses.replace(FINE, mase=2.0)
    state, _ = look({}, "1", [bad], 50, REFERENCE, CONFIG)
    state, drifted = look(state, "2", [dataclasses.replace(bad, scored=200_000)], 50, REFERENCE, CONFIG)
    assert not drifted
    assert state["version"] == "2"


def test_another_signal_at_the_next_look_is_no_confirmation() -> None:
    state, _ = look({}, "1", [dataclasses.replace(FINE, mase=2.0)], 50, REFERENCE, CONFIG)
    _, drifted = look(state, "1", [dataclasses.replace(FINE, coverage=0.4, scored=200_000)], 50, REFERENCE, CONFIG)
    assert not drifted


SEEDS, SERIES, STEPS = 20, 6, 420


@pytest.fixture(scope="module")
def drifted() -> tuple[dict[int, tuple[int, list[Signal]]], dict[int, tuple[int, list[Signal]]]]:
    """Return the first alarms of each seed's stationary stream, and of those that shift half-way."""
    bundle, reference = trained()
    shifts = (None, STEPS // 2)
    values = [
        [stream((seed, k, shift is not None), STEPS, shift) for k in range(SERIES)]
        for shift in shifts
        for seed in range(SEEDS)
    ]
    config = ScheduleConfig(min_scored=200)
    states: list[dict[str, object]] = [{} for _ in values]
    alarms: dict[int, tuple[int, list[Signal]]] = {}
    for step, scores in Groups(bundle, np.array(values)).looks(first=60, every=10):
        for group, live in enumerate(scores):
            page = [as_live(one) for one in live]
            states[group], found = look(states[group], "1", page, SERIES, reference, config)
            if found:
                alarms.setdefault(group, (step, found))
    false = {group: alarm for group, alarm in alarms.items() if group < SEEDS}
    return false, {group - SEEDS: alarm for group, alarm in alarms.items() if group >= SEEDS}


def as_live(scores: LiveScores) -> Live:
    return Live(
        horizon=scores.horizon,
        scored=scores.scored,
        mase=scores.mase,
        bias=scores.bias,
        coverage=scores.coverage,
        calibrated_coverage=scores.calibrated_coverage,
        nominal=scores.nominal,
    )


def test_streams_whose_level_and_variance_shift_are_found(
    drifted: tuple[dict[int, tuple[int, list[Signal]]], dict[int, tuple[int, list[Signal]]]],
) -> None:
    _, found = drifted
    assert sorted(found) == list(range(SEEDS))
    assert all(step > STEPS // 2 for step, _ in found.values()), found
    assert np.median([step - STEPS // 2 for step, _ in found.values()]) < 84  # half of what its statistics remember


def test_stationary_streams_are_left_alone(
    drifted: tuple[dict[int, tuple[int, list[Signal]]], dict[int, tuple[int, list[Signal]]]],
) -> None:
    false, _ = drifted
    assert len(false) <= 1, false
