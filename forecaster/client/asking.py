# Generated from async_asking.py by `make clients`, never edited.
"""What a client asks of series and of model versions, beside their values and forecasts."""

from collections.abc import Iterator

from forecaster.client import calls
from forecaster.client.inputs import series_name
from forecaster.client.results import ModelInfo, SeriesInfo
from forecaster.client.transport.calling import Calling


class Asking(Calling):
    """One server's series and versions; see `AsyncCalling`."""

    def get_series(self, series_id: str | int) -> SeriesInfo:
        """Describe one series, with its static covariates; raises SeriesNotFoundError."""
        return self._run(calls.get_series_call(series_name(series_id), self._name))

    def list_series(self, prefix: str = "") -> Iterator[SeriesInfo]:
        """Yield the series whose ids begin with a prefix, all if it is left out, by ascending id."""
        return self._pages(lambda token: calls.list_series_call(token, self._name, prefix))

    def delete_series(self, series_id: str | int) -> None:
        """Forget one series; raises SeriesNotFoundError."""
        self._run(calls.delete_series_call(series_name(series_id), self._name))

    def get_model(self, version: str = "") -> ModelInfo:
        """Describe one version of the model, the served one if none is named; raises ModelNotFoundError."""
        return self._run(calls.get_model_call(self._name, version))

    def list_models(self) -> Iterator[ModelInfo]:
        """Yield the versions, of all models, that the server has served or tried to, by ascending name and number."""
        return self._pages(calls.list_models_call)

    def activate_model(self, version: str) -> ModelInfo:
        """Begin to replace the model's served version by a number or an alias; `get_model` says how far it is.

        Raises ModelNotFoundError, and FailedPreconditionError while another replacement is under way.
        """
        return self._run(calls.activate_model_call(self._name, version))
