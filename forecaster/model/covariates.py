"""Covariates: which ones a model knows, how they are standardised, and how they become its inputs.

Every number is standardised by the mean and the deviation of the training part and comes with a mask, so that it may
be missing anywhere. A category becomes an embedding; index 0 is UNKNOWN, for a missing one and for any that training
did not see, and is trained on by hiding some.

Knows nothing of columns, of messages or of time.

Shapes: P past and F known-future covariates, C = P + F, S static numbers, G static categories, E static features.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from forecaster.config import DataConfig
from forecaster.data.windows import Series
from forecaster.model.inputs.normalizer import soft_clip
from forecaster.model.state import State, TensorSpec

_MAX_EMBEDDING = 16
_RARE = 0.001  # of the values on either side, which a broken sensor may have made, do not widen the deviation
_RELATIVE_FLOOR = 1e-12
_HIDDEN_SHARE = 0.05  # of the series whose categories are hidden in a training step


@dataclass(frozen=True, slots=True)
class Covariate:
    """A number: its name, and the training part's mean and deviation."""

    name: str
    mean: float = 0.0
    deviation: float = 1.0


@dataclass(frozen=True, slots=True)
class Category:
    """A static category: its name, and the values that training saw, ascending; their codes count from 1.

    `width` is how many numbers stand for a value, None for what suits the number of values.
    """

    name: str
    values: tuple[str, ...] = ()
    width: int | None = None

    @property
    def embedding_size(self) -> int:
        """How many numbers stand for one of its values."""
        return self.width or min((len(self.values) + 3) // 2, _MAX_EMBEDDING)


@dataclass(frozen=True, slots=True)
class CovariateSpec:
    """The covariates of a model.

    Args:
        past: known up to the present.
        future: known for the horizon too; weather forecasts, prices, holidays.
        static: numbers of a series that never change.
        categories: categories of a series that never change.
    """

    past: tuple[Covariate, ...] = ()
    future: tuple[Covariate, ...] = ()
    static: tuple[Covariate, ...] = ()
    categories: tuple[Category, ...] = ()

    @property
    def dynamic(self) -> tuple[str, ...]:
        """The names of what an observation carries beside its value: past ones, then known-future ones."""
        return tuple(covariate.name for covariate in (*self.past, *self.future))

    def read_by(self, data: DataConfig) -> DataConfig:
        """Return the same data section with these covariates' names as its columns."""
        return dataclasses.replace(
            data,
            past_covariates=tuple(covariate.name for covariate in self.past),
            future_covariates=tuple(covariate.name for covariate in self.future),
            static_covariates=tuple(covariate.name for covariate in self.static),
            static_categories=tuple(category.name for category in self.categories),
        )

    def __bool__(self) -> bool:
        return bool(self.past or self.future or self.static or self.categories)

    def check(self) -> None:
        """Raise ValueError unless every covariate has a name of its own, and numbers that standardise it."""
        numbers = (*self.past, *self.future, *self.static)
        names = [*(number.name for number in numbers), *(category.name for category in self.categories)]
        if not all(isinstance(name, str) and name for name in names) or len(set(names)) < len(names):
            raise ValueError("every covariate needs a name of its own")
        for one in numbers:
            if not (math.isfinite(one.mean) and math.isfinite(one.deviation) and one.deviation > 0):
                raise ValueError(
                    f"the covariate {one.name!r} has a mean of {one.mean} and a deviation of {one.deviation}"
                )

    def codes(self, categories: Sequence[str]) -> tuple[int, ...]:
        """Return the codes of one series' categories, in the order of the spec; 0 is UNKNOWN."""
        known = zip(self.categories, categories, strict=True) if self.categories else ()
        return tuple(one.values.index(value) + 1 if value in one.values else 0 for one, value in known)

    @classmethod
    def fit(
        cls,
        series: Sequence[Series],
        *,
        past: Sequence[str] = (),
        future: Sequence[str] = (),
        static: Sequence[str] = (),
        categories: Sequence[str] = (),
    ) -> "CovariateSpec":
        """Return what the training part says of the covariates of these names, in the series' order."""
        names = (*past, *future)
        columns = [[one_series.dynamic[:, k] for one_series in series] for k in range(len(names))]
        dynamic = [_standard(name, parts) for name, parts in zip(names, columns, strict=True)]
        by_id = {
            one_series.unique_id: one_series.attributes for one_series in series
        }  # a series counts once, not once a segment
        numbers = [_standard(name, [np.array([a.numbers[k]]) for a in by_id.values()]) for k, name in enumerate(static)]
        found = [
            Category(name, tuple(sorted({a.categories[k] for a in by_id.values()} - {""})))
            for k, name in enumerate(categories)
        ]
        return cls(tuple(dynamic[: len(past)]), tuple(dynamic[len(past) :]), tuple(numbers), tuple(found))

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and scalars."""
        plain = dataclasses.asdict(self)
        for category in plain["categories"]:
            if category["width"] is None:  # nor did bundles have one before a training could begin from another
                del category["width"]
        return plain

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> "CovariateSpec":
        """Return what `to_dict` made, also after JSON; raises TypeError, KeyError or ValueError for anything else."""
        numbers = {name: tuple(Covariate(**one) for one in plain[name]) for name in ("past", "future", "static")}
        found = tuple(
            Category(category["name"], tuple(category["values"]), category.get("width"))
            for category in plain["categories"]
        )
        return cls(**numbers, categories=found)


NO_COVARIATES = CovariateSpec()


def _standard(name: str, parts: Iterable[np.ndarray]) -> Covariate:
    values = np.concatenate([np.empty(0), *parts])
    values = values[np.isfinite(values)]
    if not len(values):
        return Covariate(name)
    least = float(np.quantile(values, _RARE, method="lower"))
    values = values.clip(least, float(np.quantile(values, 1 - _RARE, method="higher")))
    deviation = float(values.std())
    mean = float(values.mean())
    varies = deviation > _RELATIVE_FLOOR * abs(mean)  # below, it is the rounding of a mean of equal numbers
    return Covariate(name, mean, deviation if varies else 1.0)


class CovariateInputs(nn.Module):
    """Turns raw covariates into features.

    Args:
        spec: the covariates.
    """

    def __init__(self, spec: CovariateSpec) -> None:
        super().__init__()
        self.spec = spec
        sizes = [(len(category.values) + 1, category.embedding_size) for category in spec.categories]
        self.embeddings = nn.ModuleList(nn.Embedding(*size) for size in sizes)
        self.dynamic_size = 2 * len(spec.dynamic)
        self.future_size = 2 * len(spec.future)
        self.static_size = 2 * len(spec.static) + sum(size for _, size in sizes)

    def state_spec(self) -> list[TensorSpec]:
        """Return what a state keeps of a series' static covariates; zeros mean that all are unknown."""
        numbers, categories = len(self.spec.static), len(self.spec.categories)
        specs = []
        if numbers:
            specs += [
                TensorSpec("static_numbers", (numbers,), torch.float64),
                TensorSpec("static_observed", (numbers,), torch.bool),
            ]
        if categories:
            specs.append(TensorSpec("static_codes", (categories,), torch.int64))
        return specs

    def dynamic(self, values: Tensor) -> Tensor:
        """Return features [..., 2 C] of raw values [..., C], NaN where missing."""
        return _standardised(values, (*self.spec.past, *self.spec.future))

    def future(self, values: Tensor) -> Tensor:
        """Return features [..., 2 F] of the raw known-future covariates [..., F], NaN where missing."""
        return _standardised(values, self.spec.future)

    def padded(self, future: Tensor | None, n: int, horizon: int) -> Tensor:
        """Return the known-future covariates of `horizon` steps, NaN where none are given, float64 [n, horizon, F]."""
        if future is None:
            future = torch.zeros((n, 0, len(self.spec.future)), dtype=torch.float64)
        missing = max(horizon - future.shape[1], 0)
        return nn.functional.pad(future[:, :horizon], (0, 0, 0, missing), value=math.nan)

    def static(self, state: State) -> Tensor:
        """Return the static features of the series of a state, float32 [B, E]."""
        parts = []
        if self.spec.static:
            numbers = torch.where(state["static_observed"], state["static_numbers"], math.nan)
            parts.append(_standardised(numbers, self.spec.static))
        for index, embedding in enumerate(self.embeddings):
            codes = state["static_codes"][:, index]
            if self.training:  # UNKNOWN has to mean something, too
                codes = torch.where(torch.rand(codes.shape, device=codes.device) < _HIDDEN_SHARE, 0, codes)
            parts.append(embedding(codes))
        if not parts:
            return torch.zeros((state["position"].shape[0], 0), device=state["position"].device)
        return torch.cat(parts, dim=-1)


def with_attributes(state: State, numbers: Tensor, codes: Tensor) -> State:
    """Return the state with other static covariates, which hold from its next step on.

    Args:
        state: B series.
        numbers: float64 [B, S], NaN where missing.
        codes: int64 [B, G], of `CovariateSpec.codes`.
    """
    new = dict(state)
    if "static_numbers" in state:
        observed = torch.isfinite(numbers)
        new |= {"static_numbers": torch.where(observed, numbers, 0.0), "static_observed": observed}
    if "static_codes" in state:
        new["static_codes"] = codes
    return new


def attributes_of(series: Sequence[Series], spec: CovariateSpec) -> tuple[Tensor, Tensor]:
    """Return the static covariates of series for `with_attributes`: numbers [B, S] and codes [B, G]."""
    numbers = [one_series.attributes.numbers if spec.static else () for one_series in series]
    codes = [spec.codes(one_series.attributes.categories) for one_series in series]
    shapes = (len(series), len(spec.static)), (len(series), len(spec.categories))
    return (
        torch.tensor(numbers, dtype=torch.float64).reshape(shapes[0]),
        torch.tensor(codes, dtype=torch.int64).reshape(shapes[1]),
    )


def _standardised(values: Tensor, known: Sequence[Covariate]) -> Tensor:
    """Return standardised values, zero where missing, then their masks: float32 [..., 2 len(known)]."""
    mean = torch.tensor([one.mean for one in known], dtype=torch.float64, device=values.device)
    deviation = torch.tensor([one.deviation for one in known], dtype=torch.float64, device=values.device)
    seen = torch.isfinite(values)
    scaled = torch.where(seen, (values - mean) / deviation, 0.0)
    return torch.cat([soft_clip(scaled), seen.to(scaled.dtype)], dim=-1).float()
