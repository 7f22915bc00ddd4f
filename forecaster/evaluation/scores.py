"""What a backtest measured: sums over forecast origins, and the figures that they mean.

Knows how forecasts are compared with what came; knows nothing of models, of series or of where the forecasts
come from.

Shapes: B series, K origins, D horizon steps, Q quantiles.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from forecaster.model.heads.quantiles import interpolate_quantiles, pinball_loss

COVERAGES = (0.5, 0.8, 0.9, 0.95)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesScore:
    """One series' mean errors over all its scored pairs; NaN where nothing could be scored."""

    unique_id: str
    pairs: int
    mase: float
    seasonal_naive_mase: float
    smape: float
    msis: float
    mae: float
    rmse: float  # of the mean forecast, which is what squares reward
    pinball: float
    wql: float
    bias: float
    coverage: dict[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Backtest:
    """The result of a rolling-origin evaluation.

    Args:
        series: one score each, in the order of their first appearance.
        mase: mean over the series, like every figure below but `wql` and `calibration`.
        seasonal_naive_mase: the seasonal naive on the same pairs.
        smape: in percent, 200·|y - ŷ| / (|y| + |ŷ|).
        mae: in the series' own units, like `rmse`.
        rmse: of the mean forecast.
        msis: the 95 % interval's score in MASE units (Gneiting & Raftery 2007, as in the M4 competition).
        pinball: mean over the trained quantiles, in MASE units.
        wql: weighted quantile loss, 2 · Σ pinball / Σ |y| over all pairs of all series, mean over the trained
            quantiles (Salinas et al. 2020 call it ρ-risk, GluonTS `mean_wQuantileLoss`); the same for any one series
            in `SeriesScore`.
        coverage: share of actual values inside the central interval of that nominal coverage.
        mase_by_horizon: [D].
        seasonal_naive_mase_by_horizon: [D].
        calibration: for each trained quantile level the share of all actual values at or below it.
        origins: pairs of series and origin with at least one scored step.
    """

    series: tuple[SeriesScore, ...]
    mase: float
    seasonal_naive_mase: float
    smape: float
    mae: float
    rmse: float
    msis: float
    pinball: float
    wql: float
    coverage: dict[float, float]
    mase_by_horizon: tuple[float, ...]
    seasonal_naive_mase_by_horizon: tuple[float, ...]
    calibration: dict[float, float]
    origins: int

    @property
    def skill(self) -> float:
        """One minus the ratio of the model's MASE to the seasonal naive's."""
        if self.seasonal_naive_mase == 0:
            return 0.0 if self.mase == 0 else -math.inf
        return 1.0 - self.mase / self.seasonal_naive_mase

    @property
    def broken(self) -> list[str]:
        """The series that the seasonal naive has an error for and the model has not: its forecasts are not finite.

        The means over the series leave such a one out.
        """
        scored = (
            one_series
            for one_series in self.series
            if one_series.pairs and math.isfinite(one_series.seasonal_naive_mase)
        )
        return [one.unique_id for one in scored if not math.isfinite(one.mase)]

    def metrics(self) -> dict[str, float]:
        """Return the figures by flat names, as a dashboard wants them."""
        named = {
            "mase": self.mase,
            "seasonal_naive_mase": self.seasonal_naive_mase,
            "skill": self.skill,
            "smape": self.smape,
            "msis": self.msis,
            "pinball": self.pinball,
            "wql": self.wql,
            "mae": self.mae,
            "rmse": self.rmse,
        }
        return named | {f"coverage_{round(100 * p)}": share for p, share in self.coverage.items()}


def owa(backtest: Backtest, naive2: Backtest) -> float:
    """Return the overall weighted average, ½ (sMAPE / Naive2's + MASE / Naive2's) (Makridakis et al. 2020)."""
    return (backtest.smape / naive2.smape + backtest.mase / naive2.mase) / 2 if naive2.smape * naive2.mase else math.nan


def mean_of_quantiles(quantiles: Tensor, levels: tuple[float, ...]) -> Tensor:
    """Return the mean that quantiles [..., Q] mean, [...]: linear between the levels, flat beyond them."""
    edges = torch.tensor((0.0, *levels, 1.0), dtype=quantiles.dtype, device=quantiles.device)
    gaps = edges.diff()
    weights = (gaps[:-1] + gaps[1:]) / 2
    weights[0] += gaps[0] / 2
    weights[-1] += gaps[-1] / 2
    return quantiles @ weights


def interval_score(quantiles: Tensor, target: Tensor, levels: tuple[float, ...], miss: float = 0.05) -> Tensor:
    """Return the width of the central 1 - `miss` interval plus 2 / `miss` times how far the target lies outside it.

    Args:
        quantiles: [..., Q].
        target: [...].
        levels: [Q]; the score is NaN if they do not reach.
        miss: the share that the interval is to miss.
    """
    sides = (round(miss / 2, 6), round(1 - miss / 2, 6))
    if sides[0] < levels[0] or sides[1] > levels[-1]:
        return torch.full_like(target, math.nan)
    low, high = interpolate_quantiles(quantiles, levels, sides).unbind(-1)
    return high - low + 2 / miss * ((low - target).clamp_min(0) + (target - high).clamp_min(0))


@dataclass(slots=True)
class Sums:
    """Sums over origins, float64 [B, D] unless said otherwise, in the series' own units."""

    count: Tensor
    absolute: Tensor
    naive: Tensor
    signed: Tensor
    squared: Tensor
    smape: Tensor  # percent
    interval: Tensor  # the 95 % interval's score; NaN where the levels do not reach
    pinball: Tensor  # mean over the levels
    size: Tensor  # |y|
    inside: Tensor  # [B, D, COVERAGES]; NaN where the levels do not reach
    below: Tensor  # [B, D, Q]
    origins: Tensor  # [B, 1]

    @classmethod
    def zeros(cls, n: int, horizon: int, levels: int, device: torch.device) -> "Sums":
        """Return the empty sums of `n` series for `horizon` steps and `levels` quantiles."""
        shapes = [(horizon,)] * 9 + [(horizon, len(COVERAGES)), (horizon, levels), (1,)]
        return cls(*(torch.zeros(n, *shape, dtype=torch.float64, device=device) for shape in shapes))

    def merge(self, other: "Sums", rows: Tensor) -> None:
        """Add the sums of segments to those of the series `rows`, int64 [B]."""
        for field in fields(self):
            total: Tensor = getattr(self, field.name)
            total.index_add_(0, rows.to(total.device), getattr(other, field.name))

    def each(self, change: Callable[[Tensor], Tensor]) -> "Sums":
        """Return the sums with each of them changed."""
        return Sums(*(change(getattr(self, field.name)) for field in fields(self)))

    def add(self, quantiles: Tensor, target: Tensor, naive: Tensor, levels: tuple[float, ...]) -> None:
        """Add the forecasts [B, K, D, Q] of K origins against `target` and `naive` [B, K, D]."""
        scored = torch.isfinite(target) & torch.isfinite(naive)
        point = quantiles[..., levels.index(0.5)]
        error = point - target
        sizes = point.abs() + target.abs()
        losses = pinball_loss(quantiles, target, quantiles.new_tensor(levels)).mean(dim=-1)

        def total(values: Tensor) -> Tensor:
            # Only what is not scored drops out: a NaN forecast must stay a NaN.
            return torch.where(scored, values, 0.0).sum(dim=1)

        self.count += scored.sum(dim=1)
        self.absolute += total(error.abs())
        self.signed += total(error)
        self.squared += total((mean_of_quantiles(quantiles, levels) - target).square())
        self.interval += total(interval_score(quantiles, target, levels))
        self.naive += total((naive - target).abs())
        self.smape += total(torch.where(sizes > 0, 200.0 * error.abs() / sizes, 0.0))
        self.pinball += total(losses)
        self.size += total(target.abs())
        self.origins += scored.any(dim=-1).sum(dim=1)[:, None]
        actual = torch.where(scored, target, math.nan)  # a NaN is neither below nor inside
        self.below += (actual[..., None] <= quantiles).sum(dim=1)
        for index, coverage in enumerate(COVERAGES):
            sides = (round((1 - coverage) / 2, 6), round((1 + coverage) / 2, 6))
            if sides[0] < levels[0] or sides[1] > levels[-1]:
                self.inside[..., index] = math.nan
                continue
            low, high = interpolate_quantiles(quantiles, levels, sides).unbind(-1)
            self.inside[..., index] += ((low <= actual) & (actual <= high)).sum(dim=1)

    def summary(self, ids: Sequence[str], units: Tensor, levels: tuple[float, ...]) -> Backtest:
        """Return the figures of the series `ids`, whose MASE denominators are `units`, float64 [B]."""
        total = {field.name: getattr(self, field.name).cpu() for field in fields(self)}
        counts = total["count"].sum(dim=1)
        share = 1 / counts[:, None]  # infinite without a pair: 0 · ∞ is NaN, as it should be
        mean = {name: (total[name].sum(dim=1).reshape(len(ids), -1) * share).squeeze(-1) for name in total}
        mase, naive, pinball, msis = (mean[name] / units for name in ("absolute", "naive", "pinball", "interval"))
        wql = 2 * mean["pinball"] / mean["size"]
        below = total["below"].sum(dim=(0, 1)) / counts.sum()
        scores = tuple(
            SeriesScore(
                unique_id=unique_id,
                pairs=int(counts[i]),
                mase=float(mase[i]),
                seasonal_naive_mase=float(naive[i]),
                smape=float(mean["smape"][i]),
                msis=float(msis[i]),
                mae=float(mean["absolute"][i]),
                rmse=float(mean["squared"][i].sqrt()),
                pinball=float(pinball[i]),
                wql=float(wql[i]),
                bias=float(mean["signed"][i] / units[i]),
                coverage={p: float(mean["inside"][i, k]) for k, p in enumerate(COVERAGES)},
            )
            for i, unique_id in enumerate(ids)
        )
        by_horizon = {
            name: (total[name] / total["count"] / units[:, None]).nanmean(dim=0).tolist()
            for name in ("absolute", "naive")
        }
        return Backtest(
            series=scores,
            mase=float(mase.nanmean()),
            seasonal_naive_mase=float(naive.nanmean()),
            smape=float(mean["smape"].nanmean()),
            mae=float(mean["absolute"].nanmean()),
            rmse=float(mean["squared"].sqrt().nanmean()),
            msis=float(msis.nanmean()),
            pinball=float(pinball.nanmean()),
            wql=float(2 * total["pinball"].sum() / total["size"].sum()),
            coverage={p: float(mean["inside"][:, k].nanmean()) for k, p in enumerate(COVERAGES)},
            mase_by_horizon=tuple(by_horizon["absolute"]),
            seasonal_naive_mase_by_horizon=tuple(by_horizon["naive"]),
            calibration=dict(zip(levels, below.tolist(), strict=True)),
            origins=int(total["origins"].sum()),
        )
