"""Which covariates clients may send: those of every version that serves, is about to, or has served in this process.

A client follows a new version when it asks for it; until then it sends what the one before knew. The journal keeps
covariates by name, and each version takes those that it knows.
"""

from collections.abc import Iterable
from typing import Protocol, TypeVar

from forecaster.model.covariates import CovariateSpec


class _Named(Protocol):
    @property
    def name(self) -> str: ...


N = TypeVar("N", bound=_Named)


def united(known: CovariateSpec, more: CovariateSpec) -> CovariateSpec:
    """Return the covariates of both by name; what one of them knows of the future counts as such."""
    future = _different((*known.future, *more.future))
    names = {one.name for one in future}
    past = _different(covariate for covariate in (*known.past, *more.past) if covariate.name not in names)
    static, categories = (*known.static, *more.static), (*known.categories, *more.categories)
    return CovariateSpec(past=past, future=future, static=_different(static), categories=_different(categories))


def _different(covariates: Iterable[N]) -> tuple[N, ...]:
    """Return one of each name, the first."""
    found: dict[str, N] = {}
    for covariate in covariates:
        found.setdefault(covariate.name, covariate)
    return tuple(found.values())
