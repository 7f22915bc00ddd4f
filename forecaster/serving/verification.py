"""Whether a model version may take a served one's place: the same grid, finite numbers in and out."""

import torch

from forecaster.errors import BundleError
from forecaster.model.bundle import Bundle
from forecaster.model.fit import misfit
from forecaster.model.observations import Observations

_PROBED_STEPS = 64


def verify(bundle: Bundle, served: Bundle | None = None) -> None:
    """Raise BundleError unless a version works and fits the one that is served."""
    if served is not None and (why := misfit(bundle, served)):
        raise BundleError(why)
    for name, parameter in bundle.model.state_dict().items():
        if parameter.is_floating_point() and not bool(torch.isfinite(parameter).all()):
            raise BundleError(f"the weights {name!r} are not all finite numbers")
    with torch.inference_mode():
        steps = torch.arange(_PROBED_STEPS)
        observations = Observations.of((steps * bundle.step_us)[None], steps.double().sin()[None], None)
        state, _ = bundle.model.scan(bundle.model.initial_state(1), observations)
        quantiles = bundle.model.decode(state, bundle.model.config.horizon)
    if not bool(torch.isfinite(quantiles).all()):
        raise BundleError("the model's forecast of a sine is not all finite numbers")
