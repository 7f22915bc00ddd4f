"""Whether a model can draw the paths that are asked for; knows nothing of messages or states."""

from forecaster.errors import UnsupportedError
from forecaster.model.ensemble import Ensemble, Model
from forecaster.serving.work.forecasting import Sampling, Search


def unsupported(drawing: Sampling | Search | None, model: Model) -> UnsupportedError | None:
    """Return what a model would raise, None if it can do it."""
    if drawing is not None and model.config.decoder != "recurrent":
        return UnsupportedError("this model forecasts each step for itself: paths need model.decoder=recurrent")
    if isinstance(drawing, Search) and model.config.head != "categorical":
        return UnsupportedError("beam search needs model.decoder=recurrent and model.head=categorical")
    if isinstance(drawing, Search) and isinstance(model, Ensemble):
        return UnsupportedError("beam search needs a single network: this model is an ensemble")
    return None
