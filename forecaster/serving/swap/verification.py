"""Whether a model version works, and may take a served one's place: wherever the server loads one, it is checked here.

What can be said of the files alone, `Bundle.load` has said by then.
"""

import torch

from forecaster.config import TrackingConfig
from forecaster.errors import BundleError
from forecaster.model.bundle import Bundle
from forecaster.model.fit import misfit
from forecaster.model.inputs.observations import Observations
from forecaster.registry import registry

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
    if served is not None and (why := misfit(bundle, served)):
        raise BundleError(why)
    with torch.inference_mode():
        steps = torch.arange(_PROBED_STEPS)
        observations = Observations.of(bundle.grid.time(0, steps)[None], steps.double().sin()[None], None)
        state, _ = bundle.model.scan(bundle.model.initial_state(1), observations)
        quantiles = bundle.model.decode(state, bundle.model.config.horizon)
    if not bool(torch.isfinite(quantiles).all()):
        raise BundleError("the model's forecast of a sine is not all finite numbers")
