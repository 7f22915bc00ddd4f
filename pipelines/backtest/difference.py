"""How sure it is that one model is better than another: for information, never a part of the rule.

Knows scores of series; knows nothing of models.
"""

from dataclasses import dataclass

import numpy as np

from forecaster.evaluation.scores import Backtest

_RESAMPLES, _SEED = 1000, 1
_FEWEST_SERIES = 5  # below, an interval would say little


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The mean over the series of the challenger's MASE minus the champion's, and how sure it is.

    Args:
        mean: below 0 if the challenger is better.
        low: of the 95 % interval of a paired bootstrap over the series.
        high: of the same.
        better: the share of the series for which the challenger is better.
    """

    mean: float
    low: float
    high: float
    better: float

    @classmethod
    def of(cls, challenger: Backtest, champion: Backtest) -> "Difference | None":
        """Compare two backtests of the same series; None for too few of them.

        Series are drawn with replacement, each with both of its scores (Efron & Tibshirani 1993, chapter 16).
        """
        pairs = zip(challenger.series, champion.series, strict=True)
        changes = np.array([one.mase - other.mase for one, other in pairs])
        changes = changes[np.isfinite(changes)]
        if len(changes) < _FEWEST_SERIES:
            return None
        rng = np.random.default_rng(_SEED)
        drawn = [changes[rng.integers(len(changes), size=len(changes))].mean() for _ in range(_RESAMPLES)]
        low, high = np.quantile(drawn, (0.025, 0.975))
        better = float((changes < 0).mean())
        return cls(mean=float(changes.mean()), low=float(low), high=float(high), better=better)

    def line(self) -> str:
        """Return it for people."""
        return (
            f"for information: challenger − champion is {self.mean:+.4f} MASE on average over the series, with 95 %"
            f" confidence {self.low:+.4f} to {self.high:+.4f}; it is better for {self.better:.0%} of them"
        )
