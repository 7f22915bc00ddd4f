"""The gRPC servicers: validate, hand to the batcher, answer. Nothing is computed here."""

import asyncio
from collections.abc import AsyncIterator

from google.protobuf.duration_pb2 import Duration

from forecaster.config import DurabilityName
from forecaster.serving.answers import add_forecasts, add_outcomes, joined_failures
from forecaster.serving.backend import Backend
from forecaster.serving.forecast_messages import MAX_FORECAST_VALUES, forecast_work
from forecaster.serving.handlers import Context, abort, unary
from forecaster.serving.messages import Violations, check_series_id, to_duration, to_live_scores, to_timestamp
from forecaster.serving.observe_messages import Plans, check_sizes, observe_work
from forecaster.serving.streams import Begin, Stream, Window
from forecaster.serving.work import Forecasts, Lane, ObserveWork, SeriesInfo
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
        self._largest = backend.config.max_request_observations
        self._steps: dict[int, Duration] = {}  # messages, which every answer needs

    @unary
    async def Observe(self, request: api.ObserveRequest, context: Context) -> api.ObserveResponse:
        """Advance series by observations."""
        self._backend.check_model(request.model)
        # Not begun, it is dropped whole if the caller goes away; begun, it is done whole, and a retry finds duplicates.
        work = observe_work(request, self._backend.bundle, self._largest)
        observed = await self._backend.batcher.observe(work)
        response = api.ObserveResponse(durability=self._durability)
        await add_outcomes(response, observed)
        return response

    @unary
    async def Forecast(self, request: api.ForecastRequest, context: Context) -> api.ForecastResponse:
        """Forecast series from their present state."""
        self._backend.check_model(request.model)
        check_sizes({"series_ids": len(request.series_ids)}, self._largest)
        work = forecast_work(request.series_ids, request.options, self._backend.bundle)
        answer = await self._backend.batcher.forecast(work)
        if answer.failures and not request.allow_partial:
            raise joined_failures(answer)
        response = api.ForecastResponse()
        await self._add_forecasts(response, answer, work.levels, packed=request.options.packed)
        return response

    async def StreamForecasts(
        self, request_iterator: AsyncIterator[api.StreamForecastsRequest], context: Context
    ) -> None:
        """Answer the messages of the stream in order; the first wrong one ends it with its status."""
        try:
            await self._stream(request_iterator, context)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 -- the edge of the process
            await abort(context, error)

    async def _stream(self, requests: AsyncIterator[api.StreamForecastsRequest], context: Context) -> None:
        lane, plans = Lane(), Plans()

        def prepare(request: api.StreamForecastsRequest) -> tuple[float, Begin[api.StreamForecastsResponse]]:
            self._backend.check_model(request.model)
            work = observe_work(request, self._backend.bundle, self._largest, lane, plans)
            values = 0 if work.then is None else len(work.then.series_ids) * plans.each
            share = max(len(work.columns) / self._largest, values / MAX_FORECAST_VALUES)
            packed = request.options.packed
            return share, lambda: self._stream_answer(request.sequence, work, packed=packed)

        window = Window(self._backend.config.max_stream_in_flight)
        await Stream(requests, prepare, context.write, window).run(self._backend.draining)

    async def _stream_answer(self, sequence: int, work: ObserveWork, *, packed: bool) -> api.StreamForecastsResponse:
        assert work.lane is not None
        if work.lane.failed is not None:
            raise work.lane.failed
        try:
            observed = await self._backend.batcher.observe(work)
        except Exception as error:
            work.lane.failed = work.lane.failed or error
            raise
        response = api.StreamForecastsResponse(sequence=sequence, durability=self._durability)
        await add_outcomes(response, observed)
        if work.then is not None:
            assert observed.forecasts is not None
            await self._add_forecasts(response, observed.forecasts, work.then.levels, packed=packed)
        return response

    async def _add_forecasts(
        self,
        response: api.ForecastResponse | api.StreamForecastsResponse,
        answer: Forecasts,
        levels: tuple[float, ...],
        *,
        packed: bool,
    ) -> None:
        step_us = self._backend.bundle.step_us
        if step_us not in self._steps:
            self._steps[step_us] = to_duration(step_us)
        await add_forecasts(response, answer, levels, self._steps[step_us], self._model(), packed=packed)

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
            live=to_live_scores(info.live),
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
