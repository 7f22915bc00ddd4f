"""The rule of promotion: what a model has to do better to become the champion.

A pure function of a backtest's figures and the configuration. Knows nothing of models, of series or of where the
figures come from.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from forecaster.config import PromotionConfig

NOMINAL = 0.8  # the interval whose coverage is judged, if the model has it
_NARROWER = 0.5  # and the one that is judged in its place


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a backtest measured of a challenger, and of what it has to beat, on the same forecasts.

    Args:
        mase: the challenger's; NaN if one of its forecasts was not finite.
        naive_mase: the seasonal naive's.
        coverage: the share of values inside the challenger's intervals, NaN if it has none.
        origins: scored forecasts, pairs of series and origin.
        champion_mase: the champion's; None if there is no champion, NaN if one of its forecasts was not finite.
        nominal: the share that those intervals are to hold, see `judged_interval`.
    """

    mase: float
    naive_mase: float
    coverage: float
    origins: int
    champion_mase: float | None = None
    nominal: float = NOMINAL


def judged_interval(coverages: Mapping[float, float]) -> tuple[float, float]:
    """Return which interval of a model is judged, by its nominal share, and the share of values inside of it.

    The 80 % one, if its quantile levels reach that far; the 50 % one if only that is there.

    Args:
        coverages: the measured share of each nominal one, NaN where the levels do not reach.
    """
    found = (one for one in (NOMINAL, _NARROWER) if math.isfinite(coverages.get(one, math.nan)))
    nominal = next(found, NOMINAL)
    return nominal, coverages.get(nominal, math.nan)


@dataclass(frozen=True, slots=True)
class Clause:
    """One condition of the rule and how it came out.

    Args:
        name: the condition.
        numbers: what was measured, and what was asked for.
        passed: whether it holds.
        failure: what is said of a model for which it does not, as in "it …".
    """

    name: str
    numbers: str
    passed: bool
    failure: str

    def line(self) -> str:
        """Return the condition, its numbers and how it came out."""
        return f"{'pass' if self.passed else 'FAIL'}  {self.name}: {self.numbers}"


@dataclass(frozen=True, slots=True)
class RuleVerdict:
    """How the rule came out: all of its clauses have to hold.

    Args:
        clauses: of the rule.
        reason: what was measured, if all of them hold; or those that do not, with their numbers.
    """

    clauses: tuple[Clause, ...]
    reason: str

    @property
    def passed(self) -> bool:
        """Whether the challenger is to become the champion."""
        return all(clause.passed for clause in self.clauses)


def judge(measured: Measured, config: PromotionConfig) -> RuleVerdict:
    """Return how a challenger does under the rule; equal is not better, and what is not finite never is."""
    clauses = (
        beats_champion(measured, config),
        beats_naive(measured, config),
        is_honest(measured, config),
        _is_finite(measured),
        _is_enough(measured, config),
    )
    failed = [f"{clause.failure} ({clause.numbers})" for clause in clauses if not clause.passed]
    return RuleVerdict(clauses, "it " + ", and ".join(failed) if failed else _praise(measured))


def beats_champion(measured: Measured, config: PromotionConfig) -> Clause:
    """Return whether the challenger's MASE is below the champion's by the margin; without a champion it is."""
    name, failure = "beats the champion", "does not beat the champion"
    champion = measured.champion_mase
    if champion is None:
        return Clause(name, "there is no champion yet", True, failure)
    if not math.isfinite(champion):
        passed = math.isfinite(measured.mase)
        return Clause(name, "the champion's forecasts are not finite", passed, failure)
    return _below(name, failure, measured.mase, "the champion", champion, config.margin)


def beats_naive(measured: Measured, config: PromotionConfig) -> Clause:
    """Return whether the challenger's MASE is below the seasonal naive's by the margin."""
    name, failure = "beats the seasonal naive", "does not beat the seasonal naive"
    return _below(name, failure, measured.mase, "the seasonal naive", measured.naive_mase, config.naive_margin)


def is_honest(measured: Measured, config: PromotionConfig) -> Clause:
    """Return whether the judged intervals hold neither too few nor too many of the values.

    The limits are those of 80 % intervals. Those of another interval are as far from its nominal share, in odds: 60 %
    to 95 % become 27 % to 83 % for the 50 % intervals.
    """
    low, high = (_scaled(limit, measured.nominal) for limit in (config.min_coverage, config.max_coverage))
    amount, kind = "too many" if measured.coverage > high else "too few", f"{100 * measured.nominal:.0f} % intervals"
    numbers = f"they hold {measured.coverage:.1%} of the values; {low:.0%} to {high:.0%} are asked for"
    if math.isnan(measured.coverage):
        numbers = "it has none: train with model.quantile_levels from 0.1 or less to 0.9 or more"
    elif measured.nominal != NOMINAL:
        numbers += ", as model.quantile_levels do not reach 0.1 and 0.9"
    passed = low <= measured.coverage <= high
    return Clause(f"has honest {kind}", numbers, passed, f"has {kind} that hold {amount} of the values")


def _scaled(limit: float, nominal: float) -> float:
    """Return what is to another nominal share what a limit is to `NOMINAL`: their odds have the same ratio."""
    if nominal == NOMINAL or limit in (0.0, 1.0):
        return limit
    odds = limit / (1 - limit) * (1 - NOMINAL) / NOMINAL * nominal / (1 - nominal)
    return odds / (1 + odds)


def _below(name: str, failure: str, mase: float, whom: str, other: float, margin: float) -> Clause:
    limit = other * (1 - margin)
    of = f"{margin:.1%} less than {whom}'s {other:.4f}" if margin else f"{whom}'s"
    return Clause(name, f"MASE {mase:.4f}; it has to be below {limit:.4f}, {of}", mase < limit, failure)


def _praise(measured: Measured) -> str:
    champion = measured.champion_mase
    beaten = f"the champion's {champion:.4f}, " if champion is not None else ""
    beaten += f"the seasonal naive's {measured.naive_mase:.4f}"
    return (
        f"MASE {measured.mase:.4f}, {beaten};"
        f" {100 * measured.nominal:.0f} % intervals hold {measured.coverage:.1%} of the values"
    )


def _is_finite(measured: Measured) -> Clause:
    figures = (measured.mase, measured.naive_mase, measured.coverage)
    passed = all(math.isfinite(figure) for figure in figures)
    numbers = "all forecasts and figures are finite" if passed else "not all forecasts and figures are finite"
    return Clause("is finite", numbers, passed, "has forecasts or figures that are not finite")


def _is_enough(measured: Measured, config: PromotionConfig) -> Clause:
    return Clause(
        "was scored enough",
        f"{measured.origins:,} forecasts; {config.min_origins:,} are asked for",
        measured.origins >= config.min_origins,
        "was scored too little",
    )
