"""Whether a served model has drifted: its live scores beside those of its backtest, and what of that may be chance.

Three signals of each scored horizon h, with n forecasts scored:

    MASE      live MASE / backtest MASE        above `max_mase_ratio`
    bias      |live bias| / backtest MASE      above `max_bias_ratio`
    coverage  |live coverage - nominal|        above `coverage_tolerance`, and as far from the backtest's coverage

Live scores are exponentially weighted means over each series' last scores, so that some of this is always chance. A
signal therefore counts only if

- n is `min_scored` or more,
- it is also z = 4 standard errors away from what the backtest says, as if there were `independent_scores` of them,
- and it is there at two looks in a row, between which a tenth of `min_scored` forecasts were scored anew.

The live unit follows the series: a while after a jump of the variance, forecasts and unit have both grown, and MASE is
what it was. Such a shift shows in the live scores while it is new, and later in the inputs (`stability`).

Pure functions; what one look has to know of the one before is a small dict of JSON. Knows nothing of servers, of MLflow
or of what is done about it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from forecaster.config import ScheduleConfig
from pipelines.watching.metrics_page import Live

_MEMORY = (
    100.0  # scores in which the weight of one falls to 1/e: `forecaster.serving.calibration.scoring_kernel.MEMORY`
)
_Z = 4.0
_SPREAD = 1.0  # standard deviation of |error| / its mean; a Gaussian's is 0.76, a Laplace's 1
_RMS = math.sqrt(2.0)  # standard deviation of an error / mean |error|; a Gaussian's is 1.25, a Laplace's this
_ANEW = 0.1


@dataclass(frozen=True, slots=True)
class Reference:
    """What the backtest of a version says.

    Args:
        mase: by steps ahead.
        coverage: by the nominal coverage.
    """

    mase: Mapping[int, float] = field(default_factory=dict)
    coverage: Mapping[float, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Signal:
    """Something that has drifted.

    Args:
        kind: mase, bias, coverage or inputs.
        value: what was measured,
        limit: and what it may be.
        text: a line for people.
        horizon: steps ahead; None for the inputs.
    """

    kind: str
    value: float
    limit: float
    text: str
    horizon: int | None = None


def independent_scores(scored: int, series: int, correlation: float) -> float:
    """Return how many independent scores would tell as much as an exponentially weighted mean over series does.

    Of one series with c = scored / series scores, weights r^k with r = 1 - 1/100 make
    (Σ r^k)² / Σ r^2k = (1 - r^c) (1 + r) / ((1 + r^c) (1 - r)) of them, at most 199. Neighbouring scores that are
    correlated by ρ (an AR(1)) are worth (1 - ρ) / (1 + ρ) of that (Bayley & Hammersley 1946), and the mean of S series
    that are correlated by ρ is worth S / (1 + (S - 1) ρ) of one (Kish 1965, the design effect).

    Args:
        scored: forecasts, of all series.
        series: S, 1 or more.
        correlation: ρ, below 1.
    """
    series = max(min(series, scored), 1)
    decay = 1.0 - 1.0 / _MEMORY
    faded: float = decay ** (scored / series)
    own = (1.0 - faded) * (1.0 + decay) / ((1.0 + faded) * (1.0 - decay))
    return own * (1.0 - correlation) / (1.0 + correlation) * series / (1.0 + (series - 1) * correlation)


def suspects(live: Live, series: int, reference: Reference, config: ScheduleConfig) -> list[Signal]:
    """Return what of one horizon's scores is past its limit at this look.

    Args:
        live: of the horizon.
        series: that it is a mean over.
        reference: of the same version.
        config: the limits.
    """
    if live.scored < config.min_scored:
        return []
    n = independent_scores(live.scored, series, config.correlation)
    found, ahead = [], f"{live.horizon} step{'s' if live.horizon > 1 else ''} ahead"
    expected = reference.mase.get(live.horizon, math.nan)
    if expected > 0:
        ratio, bias = live.mase / expected, abs(live.bias) / expected
        limit = max(config.max_mase_ratio, 1.0 + _Z * _SPREAD / math.sqrt(n))
        if ratio > limit:
            text = f"the live MASE {ahead}, {live.mase:.3g}, is {ratio:.2f} times the backtest's (limit {limit:.2f})"
            found.append(Signal("mase", ratio, limit, text, live.horizon))
        limit = max(config.max_bias_ratio, _Z * _RMS / math.sqrt(n))
        if bias > limit:
            text = f"the live bias {ahead}, {live.bias:+.3g}, is {bias:.2f} of the backtest's MASE (limit {limit:.2f})"
            found.append(Signal("bias", bias, limit, text, live.horizon))
    return found + _uncovered(live, n, reference, config, ahead)


def _uncovered(live: Live, n: float, reference: Reference, config: ScheduleConfig, ahead: str) -> list[Signal]:
    if math.isnan(live.nominal):
        return []
    before = next((share for at, share in reference.coverage.items() if abs(at - live.nominal) < 0.005), live.nominal)
    off = min(abs(live.coverage - live.nominal), abs(live.coverage - before))
    limit = max(config.coverage_tolerance, _Z * math.sqrt(live.nominal * (1.0 - live.nominal) / n))
    if not off > limit or (live.coverage > live.nominal) != (live.coverage > before):
        return []
    text = (
        f"the live coverage {ahead}, {live.coverage:.0%}, is {off:.2f} away from the nominal {live.nominal:.0%} and the"
        f" backtest's {before:.0%} (limit {limit:.2f})"
    )
    return [Signal("coverage", off, limit, text, live.horizon)]


def look(
    state: Mapping[str, Any],
    version: str,
    live: Sequence[Live],
    series: int,
    reference: Reference,
    config: ScheduleConfig,
) -> tuple[dict[str, Any], list[Signal]]:
    """Take a look at the live scores of a version.

    Args:
        state: of the look before; empty before the first.
        version: of the model.
        live: of each horizon.
        series: that the scores are means over.
        reference: of the version.
        config: the limits.

    Returns:
        The state of this look, for JSON, and what has drifted: what is past its limit at this look and was so before.
    """
    seen = dict(state["horizons"]) if state.get("version") == version else {}
    drifted = []
    for score in live:
        key = str(score.horizon)
        before = seen.get(key, {"scored": 0, "suspects": []})
        if abs(score.scored - before["scored"]) < max(_ANEW * config.min_scored, 1.0):
            continue  # nearly the same forecasts again
        found = suspects(score, series, reference, config)
        drifted += [signal for signal in found if signal.kind in before["suspects"]]
        seen[key] = {"scored": score.scored, "suspects": sorted({signal.kind for signal in found})}
    return {"version": version, "horizons": seen}, drifted
