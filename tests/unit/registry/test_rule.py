"""The rule of promotion: a table of cases, and laws that hold for any figures."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.config import PromotionConfig
from forecaster.errors import ConfigError
from forecaster.registry.rule import Measured, RuleVerdict, judge

GOOD = Measured(mase=0.8, naive_mase=1.0, coverage=0.8, origins=100, champion_mase=0.9)
RULE = PromotionConfig()


def failed(measured: Measured, rule: PromotionConfig = RULE) -> list[str]:
    """Return the names of the clauses that do not hold."""
    return [one.name for one in judge(measured, rule).clauses if not one.passed]


@pytest.mark.parametrize(
    ("changes", "rule", "expected"),
    [
        ({}, {}, []),
        ({"champion_mase": None}, {}, []),  # the first model ever
        ({"champion_mase": 0.8}, {}, ["beats the champion"]),  # equal is not better
        ({"champion_mase": 0.7}, {}, ["beats the champion"]),
        ({"champion_mase": math.nan}, {}, []),  # a champion that forecasts nothing is beaten by any that does
        ({"mase": 1.0, "champion_mase": None}, {}, ["beats the seasonal naive"]),
        ({"mase": 1.2}, {}, ["beats the champion", "beats the seasonal naive"]),
        ({}, {"margin": 0.11}, []),
        ({}, {"margin": 0.12}, ["beats the champion"]),
        ({}, {"naive_margin": 0.19}, []),
        ({}, {"naive_margin": 0.21}, ["beats the seasonal naive"]),
        ({"coverage": 0.6}, {}, []),
        ({"coverage": 0.95}, {}, []),
        ({"coverage": 0.59}, {}, ["has honest 80 % intervals"]),
        ({"coverage": 0.96}, {}, ["has honest 80 % intervals"]),
        ({"coverage": math.nan}, {}, ["has honest 80 % intervals", "is finite"]),
        ({"mase": math.nan}, {}, ["beats the champion", "beats the seasonal naive", "is finite"]),
        ({"mase": math.inf}, {}, ["beats the champion", "beats the seasonal naive", "is finite"]),
        ({"naive_mase": math.inf}, {}, ["is finite"]),
        ({"naive_mase": math.nan}, {}, ["beats the seasonal naive", "is finite"]),
        ({"mase": math.nan, "champion_mase": math.nan, "naive_mase": 2.0}, {"naive_margin": 0.5},
         ["beats the champion", "beats the seasonal naive", "is finite"]),
        ({"mase": 0.0, "naive_mase": 0.0, "champion_mase": None}, {}, ["beats the seasonal naive"]),
        ({"origins": 19}, {}, ["was scored enough"]),
        ({"origins": 20}, {}, []),
        ({"origins": 99}, {"min_origins": 100}, ["was scored enough"]),
    ],
)  # fmt: skip
def test_each_clause(changes: dict[str, float], rule: dict[str, float], expected: list[str]) -> None:
    measured = dataclasses.replace(GOOD, **changes)
    settings = PromotionConfig(**rule)
    assert failed(measured, settings) == expected
    assert judge(measured, settings).passed == (not expected)


def test_every_clause_says_its_numbers_and_the_reason_what_failed() -> None:
    verdict = judge(dataclasses.replace(GOOD, mase=0.95, coverage=0.5), PromotionConfig(margin=0.1))
    assert [one.line() for one in verdict.clauses] == [
        "FAIL  beats the champion: MASE 0.9500; it has to be below 0.8100, 10.0% less than the champion's 0.9000",
        "pass  beats the seasonal naive: MASE 0.9500; it has to be below 1.0000, the seasonal naive's",
        "FAIL  has honest 80 % intervals: they hold 50.0% of the values; 60% to 95% are asked for",
        "pass  is finite: all forecasts and figures are finite",
        "pass  was scored enough: 100 forecasts; 20 are asked for",
    ]
    assert verdict.reason == (
        "it does not beat the champion (MASE 0.9500; it has to be below 0.8100, 10.0% less than the champion's 0.9000),"
        " and has 80 % intervals that hold too few of the values (they hold 50.0% of the values; 60% to 95% are asked"
        " for)"
    )
    expected = (
        "MASE 0.8000, the champion's 0.9000, the seasonal naive's 1.0000; 80 % intervals hold 80.0% of the values"
    )
    assert judge(GOOD, RULE).reason == expected


numbers = st.floats(0, 10) | st.sampled_from([math.nan, math.inf])
measurements = st.builds(
    Measured,
    mase=numbers,
    naive_mase=numbers,
    coverage=st.floats(0, 1) | st.just(math.nan),
    origins=st.integers(0, 100),
    champion_mase=st.none() | numbers,
)
rules = st.builds(PromotionConfig, margin=st.floats(0, 0.9), naive_margin=st.floats(0, 0.9))


@given(measurements, rules)
def test_what_is_promoted_is_strictly_better_than_all_and_finite(measured: Measured, rule: PromotionConfig) -> None:
    if judge(measured, rule).passed:
        assert math.isfinite(measured.mase)
        assert measured.mase < measured.naive_mase
        champion = measured.champion_mase
        assert champion is None or not math.isfinite(champion) or measured.mase < champion
        assert 0.6 <= measured.coverage <= 0.95
        assert measured.origins >= 20


@given(measurements, rules, st.floats(0, 10))
def test_a_lower_error_never_costs_a_promotion(measured: Measured, rule: PromotionConfig, mase: float) -> None:
    better = dataclasses.replace(measured, mase=mase)
    if judge(measured, rule).passed and mase <= measured.mase:
        assert judge(better, rule).passed


@given(measurements, rules)
def test_no_model_replaces_itself(measured: Measured, rule: PromotionConfig) -> None:
    verdict: RuleVerdict = judge(dataclasses.replace(measured, champion_mase=measured.mase), rule)
    assert not verdict.passed


@given(measurements, rules)
def test_a_refusal_has_a_reason(measured: Measured, rule: PromotionConfig) -> None:
    verdict = judge(measured, rule)
    assert verdict.reason.startswith("it ") != verdict.passed
    assert all((one.failure in verdict.reason) != one.passed for one in verdict.clauses)


@pytest.mark.parametrize("name", ["margin", "naive_margin", "min_origins"])
def test_a_rule_that_makes_no_sense_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"promotion.{name}=-1 is not allowed"):
        PromotionConfig(**{name: -1})
