"""Whether a model version works, and may take a served one's place: wherever the server loads one, it is checked here.

What can be said of the files alone, `Bundle.load` has said by then.
"""

import torch

from forecaster import registry
from forecaster.config import TrackingConfig
from forecaster.errors import BundleError
from forecaster.model.bundle import Bundle
from forecaster.model.covariates import CovariateSpec
from forecaster.model.observations import Observations

_PROBED_STEPS = 64


def load_verified(
    tracking: TrackingConfig, alias_or_version: str, served: Bundle | None = None
) -> tuple[registry.RegisteredModel, Bundle]:
    """Return a registered version and its bundle, which works and fits the one that is served, if there is one.

    Raises what `registry.load_bundle` and `verify` raise.
    """
    registered, bundle = registry.load_bundle(tracking, alias_or_version)
    verify(bundle, served)
    return registered, bundle


def verify(bundle: Bundle, served: Bundle | None = None) -> None:
    """Raise BundleError unless a version works and fits the one that is served."""
    if served is not None:
        _check_fits(bundle, served)
    with torch.inference_mode():
        steps = torch.arange(_PROBED_STEPS)
        observations = Observations.of((steps * bundle.step_us)[None], steps.double().sin()[None], None)
        state, _ = bundle.model.scan(bundle.model.initial_state(1), observations)
        quantiles = bundle.model.decode(state, bundle.model.config.horizon)
    if not bool(torch.isfinite(quantiles).all()):
        raise BundleError("the model's forecast of a sine is not all finite numbers")


def _check_fits(bundle: Bundle, served: Bundle) -> None:
    if bundle.step_us != served.step_us:
        raise BundleError(
            f"it has another frequency: a step of {bundle.step_us / 1e6:g} s, the served one {served.step_us / 1e6:g} s"
        )
    mine, theirs = _names(bundle.model.covariates), _names(served.model.covariates)
    if mine != theirs:
        raise BundleError(f"it has other covariates: {_shown(mine)}; the served one has {_shown(theirs)}")


def _names(spec: CovariateSpec) -> dict[str, list[str]]:
    numbers = {"past": spec.past, "future": spec.future, "static": spec.static}
    names = {kind: [one.name for one in part] for kind, part in numbers.items()}
    return {**names, "categories": [one.name for one in spec.categories]}


def _shown(names: dict[str, list[str]]) -> str:
    return ", ".join(f"{kind} {', '.join(some)}" for kind, some in names.items() if some) or "none"
