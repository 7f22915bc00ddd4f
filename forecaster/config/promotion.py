"""What a challenger is measured on, and what it has to do better."""

from dataclasses import dataclass

from forecaster.config.checks import require, require_types


@dataclass(frozen=True, slots=True, kw_only=True)
class BacktestConfig:
    """What champion and challenger are measured on.

    Args:
        steps: the newest steps of the data, held back from training; left out, 7 horizons, or a fifth of the data if
            that is less.
        folds: stretches of it that are scored apart, so that one odd day is seen.
    """

    steps: int | None = None
    folds: int = 3

    def __post_init__(self) -> None:
        require_types(self, "backtest")
        require(self.steps is None or self.steps >= 1, "backtest.steps", self.steps, "1 or more")
        require(self.folds >= 1, "backtest.folds", self.folds, "1 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class PromotionConfig:
    """What a challenger has to do better.

    Args:
        margin: the share by which its MASE has to be below the champion's; seeds differ by up to 0.026.
        naive_margin: the share by which its MASE has to be below the seasonal naive's.
        min_coverage: how much of the values its 80 % intervals have to hold at the least.
        max_coverage: and at the most.
        min_origins: forecasts, pairs of series and origin, that have to be scored at the least.
    """

    margin: float = 0.03
    naive_margin: float = 0.0
    min_coverage: float = 0.6
    max_coverage: float = 0.95
    min_origins: int = 20

    def __post_init__(self) -> None:
        require_types(self, "promotion")
        for name in ("margin", "naive_margin"):
            require(0 <= getattr(self, name) < 1, f"promotion.{name}", getattr(self, name), "0 or more and below 1")
        ok = 0 <= self.min_coverage < self.max_coverage <= 1
        require(ok, "promotion.min_coverage", self.min_coverage, "a share below promotion.max_coverage")
        require(self.min_origins >= 1, "promotion.min_origins", self.min_origins, "1 or more")
