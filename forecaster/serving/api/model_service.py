"""The servicer of models: which versions are served, which were, and how another is activated."""

from forecaster.errors import ModelNotFoundError
from forecaster.model.bundle import Bundle
from forecaster.serving.api.handlers import Call
from forecaster.serving.api.messages import to_duration
from forecaster.serving.api.page_tokens import key_of, token_of
from forecaster.serving.api.status import shortened
from forecaster.serving.backend import Backend, Served
from forecaster.serving.swap.version import Version
from forecaster.v1 import model_service_pb2 as api

_DEFAULT_PAGE, _MAX_PAGE = 100, 1000
_VERSION_DIGITS = 12
_LISTING = "models"


class ModelServicer:
    """`forecaster.v1.ModelService`."""

    def __init__(self, backend: Backend) -> None:
        self._backend, self.calls, self.intake = backend, backend.calls, backend.intake

    async def GetModel(self, request: api.GetModelRequest, call: Call) -> api.GetModelResponse:
        """Describe one version of a model."""
        served = self._backend.served(request.name)
        version = served.versions.find(request.version) if request.version else served.versions.active
        if version is None:
            name = f"{served.name}/{request.version}"
            raise ModelNotFoundError(
                f"this server has not served version {request.version!r} of {served.name!r}", [name]
            )
        return api.GetModelResponse(model=_describe(served, version))

    async def ListModels(self, request: api.ListModelsRequest, call: Call) -> api.ListModelsResponse:
        """List the versions by ascending name and number."""
        size = min(request.page_size or _DEFAULT_PAGE, _MAX_PAGE)
        known = {
            _key(version): (served, version) for served in self._backend.all() for version in served.versions.all()
        }
        after = key_of(_LISTING, request.page_token)
        keys = [key for key in sorted(known) if key > after]
        return api.ListModelsResponse(
            models=[_describe(*known[key]) for key in keys[:size]],
            next_page_token=token_of(_LISTING, keys[size - 1]) if len(keys) > size else "",
        )

    async def ActivateModel(self, request: api.ActivateModelRequest, call: Call) -> api.ActivateModelResponse:
        """Begin to replace a model's served version."""
        served = self._backend.served(request.name)
        version = await served.versions.activate(request.version or self._backend.config.alias)
        return api.ActivateModelResponse(model=_describe(served, version))


def _key(version: Version) -> str:
    """Return what versions are ordered by."""
    return f"{version.registered.name}/{version.registered.version.rjust(_VERSION_DIGITS, '0')}"


def _describe(served: Served, version: Version) -> api.Model:
    message = api.Model(
        name=served.name,
        version=version.registered.version,
        fingerprint=version.fingerprint,
        state=int(version.state),  # type: ignore[arg-type]
        progress=version.progress,
        failure=shortened(str(version.failure or "")),
    )
    if version is served.versions.active:
        message.registry_failure = served.versions.registry.failure
    if version.bundle is not None:
        message.MergeFrom(_described(version.bundle))
    return message


def _described(bundle: Bundle) -> api.Model:
    config, spec = bundle.model.config, bundle.model.covariates
    return api.Model(
        cell=config.cell,
        step=to_duration(bundle.step_us),
        horizon=config.horizon,
        quantile_levels=config.quantile_levels,
        season_lengths=config.season_lengths or (),
        min_history=config.min_history or 1,
        max_gap=bundle.max_gap_steps,
        state_bytes=bundle.model.state_spec.num_bytes,
        past_covariates=[covariate.name for covariate in spec.past],
        future_covariates=[covariate.name for covariate in spec.future],
        static_covariates=[covariate.name for covariate in spec.static],
        static_categories=[category.name for category in spec.categories],
        decoder=config.decoder,
        head=config.head,
        end_of_sequence=config.end_of_sequence,
    )
