"""The gRPC servicers: validate, hand to the batcher, answer. Nothing is computed here."""

import asyncio
from collections.abc import AsyncIterator, Sequence

from forecaster.config import DurabilityName
from forecaster.errors import ForecasterError, InvalidArgumentError
from forecaster.serving.backend import Backend
from forecaster.serving.forecast_messages import forecast_work, to_failures, to_forecasts
from forecaster.serving.handlers import Context, abort, unary, until
from forecaster.serving.messages import (
    Violations,
    check_series_id,
    from_attributes,
    from_columns,
    from_rows,
    to_duration,
    to_rejections,
    to_timestamp,
)
from forecaster.serving.work import Forecasts, ObserveWork, SeriesInfo
from forecaster.v1 import forecast_service_pb2 as api
from forecaster.v1 import forecast_service_pb2_grpc, model_service_pb2, model_service_pb2_grpc, observation_pb2

_DURABILITY: dict[DurabilityName, observation_pb2.Durability] = {
    "commit": observation_pb2.DURABILITY_COMMIT,
    "interval": observation_pb2.DURABILITY_INTERVAL,
    "none": observation_pb2.DURABILITY_NONE,
}
_DEFAULT_PAGE, _MAX_PAGE = 100, 1000


class ForecastServicer(forecast_service_pb2_grpc.ForecastServiceServicer):
    """`forecaster.v1.ForecastService`."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._durability = _DURABILITY[backend.config.durability]

    @unary
    async def Observe(self, request: api.ObserveRequest, context: Context) -> api.ObserveResponse:
        """Advance series by observations."""
        self._backend.check_model(request.model)
        if request.observations and request.HasField("columns"):
            raise InvalidArgumentError("give observations or columns, not both")
        packed = request.HasField("columns")
        rows = len(request.columns.values) if packed else len(request.observations)
        self._check_size(rows, "columns" if packed else "observations", request.attributes)
        spec = self._backend.bundle.model.covariates
        columns = (
            from_columns(request.columns, spec.dynamic) if packed else from_rows(request.observations, spec.dynamic)
        )
        # Not begun, it is dropped whole if the caller goes away; begun, it is done whole, and a retry finds duplicates.
        work = ObserveWork(columns, from_attributes(request.attributes, spec))
        observed = await self._backend.batcher.observe(work)
        return api.ObserveResponse(
            outcomes=observed.outcomes.tolist(),
            rejections=to_rejections(observed.errors),
            durability=self._durability,
        )

    @unary
    async def Forecast(self, request: api.ForecastRequest, context: Context) -> api.ForecastResponse:
        """Forecast series from their present state."""
        self._backend.check_model(request.model)
        self._check_size(len(request.series_ids), "series_ids")
        work = forecast_work(request.series_ids, request.options, self._backend.bundle)
        answer = await self._backend.batcher.forecast(work)
        if answer.failures and not request.allow_partial:
            raise _joined(answer)
        return api.ForecastResponse(
            forecasts=to_forecasts(answer, work.levels, self._backend.bundle.step_us, self._model()),
            failures=to_failures(answer),
        )

    async def StreamForecasts(
        self, request_iterator: AsyncIterator[api.StreamForecastsRequest], context: Context
    ) -> AsyncIterator[api.StreamForecastsResponse]:
        """Answer each message of the stream in order; the first wrong one ends it with its status."""
        try:
            async for request in until(self._backend.draining, request_iterator):
                yield await self._stream_step(request)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 -- the edge of the process
            await abort(context, error)

    async def _stream_step(self, request: api.StreamForecastsRequest) -> api.StreamForecastsResponse:
        self._backend.check_model(request.model)
        self._check_size(len(request.observations), "observations", request.attributes)
        spec = self._backend.bundle.model.covariates
        columns = from_rows(request.observations, spec.dynamic)
        attributes = from_attributes(request.attributes, spec)
        work = None
        if request.HasField("options"):
            work = forecast_work(columns.series_ids, request.options, self._backend.bundle)
        observed = await self._backend.batcher.observe(ObserveWork(columns, attributes))
        response = api.StreamForecastsResponse(
            sequence=request.sequence,
            outcomes=observed.outcomes.tolist(),
            rejections=to_rejections(observed.errors),
            durability=self._durability,
        )
        if work is not None:
            answer = await self._backend.batcher.forecast(work)
            forecasts = to_forecasts(answer, work.levels, self._backend.bundle.step_us, self._model())
            response.forecasts.extend(forecasts)
            response.failures.extend(to_failures(answer))
        return response

    @unary
    async def GetSeries(self, request: api.GetSeriesRequest, context: Context) -> api.GetSeriesResponse:
        """Describe one series."""
        self._check_series(request.model, request.series_id)
        engine = self._backend.engine
        info = await self._backend.batcher.call(lambda: engine.describe(request.series_id))
        return api.GetSeriesResponse(series=self._series(info))

    @unary
    async def ListSeries(self, request: api.ListSeriesRequest, context: Context) -> api.ListSeriesResponse:
        """List the series by ascending id."""
        self._backend.check_model(request.model)
        size = min(request.page_size or _DEFAULT_PAGE, _MAX_PAGE)
        engine = self._backend.engine
        infos, total = await self._backend.batcher.call(lambda: engine.page(request.page_token, size + 1))
        return api.ListSeriesResponse(
            series=[self._series(info) for info in infos[:size]],
            next_page_token=infos[size - 1].series_id if len(infos) > size else "",
            total_size=total,
        )

    @unary
    async def DeleteSeries(self, request: api.DeleteSeriesRequest, context: Context) -> api.DeleteSeriesResponse:
        """Forget a series."""
        self._check_series(request.model, request.series_id)
        engine = self._backend.engine
        await self._backend.batcher.call(lambda: engine.delete(request.series_id))
        return api.DeleteSeriesResponse()

    def _check_series(self, model: str, series_id: str) -> None:
        self._backend.check_model(model)
        violations = Violations()
        check_series_id(series_id, "series_id", violations)
        violations.raise_if_any()

    def _check_size(self, rows: int, field: str, attributes: Sequence[object] = ()) -> None:
        limit = self._backend.config.max_request_observations
        violations = Violations()
        for name, count in ((field, rows), ("attributes", len(attributes))):
            if count > limit:
                violations.add(name, f"{count} in one request, {limit} are allowed: split it")
        if rows == 0 and not attributes:
            violations.add(field, "it is empty")
        violations.raise_if_any()

    def _model(self) -> tuple[str, str]:
        registered = self._backend.registered
        return registered.name, registered.version

    def _series(self, info: SeriesInfo) -> api.Series:
        name, version = self._model()
        return api.Series(
            series_id=info.series_id,
            last_observation_time=to_timestamp(info.clock_us),
            expected_time=to_timestamp(info.clock_us + self._backend.bundle.step_us),
            length=info.length,
            observed_length=info.observed_length,
            model_name=name,
            model_version=version,
            state_age=to_duration(int(info.age_seconds * 1e6)),
        )


class ModelServicer(model_service_pb2_grpc.ModelServiceServicer):
    """`forecaster.v1.ModelService`."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    @unary
    async def GetModel(
        self, request: model_service_pb2.GetModelRequest, context: Context
    ) -> model_service_pb2.GetModelResponse:
        """Describe one model."""
        self._backend.check_model(request.name)
        return model_service_pb2.GetModelResponse(model=self._describe())

    @unary
    async def ListModels(
        self, request: model_service_pb2.ListModelsRequest, context: Context
    ) -> model_service_pb2.ListModelsResponse:
        """List the models by ascending name."""
        self._backend.check_model("")
        models = [self._describe()]
        return model_service_pb2.ListModelsResponse(models=[m for m in models if m.name > request.page_token])

    def _describe(self) -> model_service_pb2.Model:
        registered, bundle = self._backend.registered, self._backend.bundle
        config, spec = bundle.model.config, bundle.model.covariates
        return model_service_pb2.Model(
            name=registered.name,
            version=registered.version,
            fingerprint=bundle.fingerprint,
            state=model_service_pb2.MODEL_STATE_ACTIVE,
            cell=config.cell,
            step=to_duration(bundle.step_us),
            horizon=config.horizon,
            quantile_levels=config.quantile_levels,
            season_lengths=config.season_lengths or (),
            min_history=config.min_history or 1,
            max_gap=bundle.max_gap_steps,
            state_bytes=bundle.model.state_spec.num_bytes,
            past_covariates=[one.name for one in spec.past],
            future_covariates=[one.name for one in spec.future],
            static_covariates=[one.name for one in spec.static],
            static_categories=[one.name for one in spec.categories],
            decoder=config.decoder,
            head=config.head,
            end_of_sequence=config.end_of_sequence,
        )


def _joined(answer: Forecasts) -> ForecasterError:
    """Return one error for a request of which some series cannot be forecast: the first kind, all its names."""
    errors = list(answer.failures.values())
    first = errors[0]
    names = [name for name, error in answer.failures.items() if type(error) is type(first)]
    if len(names) == 1:
        return first
    shown = ", ".join(map(repr, names[:5])) + (", …" if len(names) > 5 else "")
    message = f"{len(names)} series cannot be forecast ({first.reason}): {shown}"
    joined = type(first)(message)
    if hasattr(joined, "resource_names"):
        joined.resource_names = tuple(names)
    return joined
