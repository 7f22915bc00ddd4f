"""The gRPC servicers: validate, hand to the batcher, answer. Nothing is computed here."""

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from forecaster.config import DurabilityName
from forecaster.errors import UnavailableError
from forecaster.serving.api.answers import (
    Answer,
    add_outcomes,
    answer_bytes,
    joined_failures,
    to_forecasts,
    with_forecasts,
)
from forecaster.serving.api.forecast_messages import MAX_FORECAST_VALUES, forecast_work
from forecaster.serving.api.handlers import Call
from forecaster.serving.api.messages import (
    Violations,
    to_duration,
)
from forecaster.serving.api.observe_messages import Plans, Validator, check_sizes
from forecaster.serving.api.series_service import SeriesServicer
from forecaster.serving.api.streams import FlowWindow, Stream, before_end
from forecaster.serving.backend import Backend, Phase, Served
from forecaster.serving.engine.scratch import Scratch
from forecaster.serving.engine.watches import PAIR_BYTES, watched
from forecaster.serving.intake.decoding import LARGE_BYTES
from forecaster.serving.work.forecasting import Forecasts, ForecastWork
from forecaster.serving.work.observing import Chain, Observed, ObserveWork
from forecaster.v1 import forecast_service_pb2 as api
from forecaster.v1 import observation_pb2

_DURABILITY: dict[DurabilityName, observation_pb2.Durability] = {
    "commit": observation_pb2.DURABILITY_COMMIT,
    "interval": observation_pb2.DURABILITY_INTERVAL,
    "none": observation_pb2.DURABILITY_NONE,
}
# Of one message: series, and bytes of memory of its answer, a quarter of them on the wire; clients take 4 MB as a rule.
_MOST_WATCHED, _WATCHED_BYTES = 4096, 4 << 20


class ForecastServicer(SeriesServicer):
    """`forecaster.v1.ForecastService`."""

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend)
        self.calls, self.intake = backend.calls, backend.intake
        self._durability = _DURABILITY[backend.config.durability]
        self._largest = backend.config.max_request_observations
        self._validator, self._scratch = Validator(self._largest, self.intake.pieces), Scratch(self._largest)

    async def Observe(self, request: api.ObserveRequest, call: Call) -> Message | bytes:
        """Advance series by observations."""
        served = self._backend.served(request.model)
        # Not begun, it is dropped whole if the caller goes away; begun, it is done whole, and a retry finds duplicates.
        validated = self._validator.work(request, served.bundle, spec=served.covariates, num_bytes=call.num_bytes)
        work = await validated
        if work.then is not None:
            served.engine.check(work.then)
            call.account.take(answer_bytes(work.then))
        observed = await served.batcher.observe(work)
        return await self._observed(served, api.ObserveResponse(), work, observed, packed=request.options.packed)

    async def Forecast(self, request: api.ForecastRequest, call: Call) -> Message | bytes:
        """Forecast series from their present state."""
        served = self._backend.served(request.model)
        check_sizes({"series_ids": len(request.series_ids)}, self._largest)
        work = await self._work_of(served, request, request.series_ids, call)
        call.account.take(answer_bytes(work))
        answer = await served.batcher.forecast(work)
        if answer.failures and not request.allow_partial:
            raise joined_failures(answer)
        return await self._with_forecasts(
            served, api.ForecastResponse(), answer, work.levels, packed=request.options.packed
        )

    async def _work_of(
        self,
        served: Served,
        request: api.ForecastRequest | api.WatchForecastsRequest,
        series_ids: Sequence[str],
        call: Call,
    ) -> ForecastWork:
        """Return what a request asks for of some of its series; raises what `forecast_work` and `Engine.check` do."""
        validate = functools.partial(forecast_work, series_ids, request.options, served.bundle, served.covariates)
        work = await self._validator.run(validate, len(request.options.future_covariates), call.num_bytes)
        served.engine.check(work)
        return work

    async def GetForecast(self, request: api.GetForecastRequest, call: Call) -> api.GetForecastResponse:
        """Forecast one series from its present state."""
        served = self._named(request.model, request.series_id)
        if request.options.packed:
            violations = Violations()
            violations.add("options.packed", "columns are for many series: leave it out, or call Forecast")
            violations.raise_if_any()
        work = forecast_work([request.series_id], request.options, served.bundle, served.covariates)
        served.engine.check(work)
        call.account.take(answer_bytes(work))
        answer = await served.batcher.forecast(work)
        if answer.failures:
            raise joined_failures(answer)
        (forecast,) = to_forecasts(answer, work.levels, _step(served.bundle.step_us), served.name)
        return api.GetForecastResponse(forecast=forecast)

    async def ForecastHistory(self, request: api.ForecastHistoryRequest, call: Call) -> Message | bytes:
        """Forecast series from the observations of the request, and keep nothing."""
        served = self._backend.served(request.model)
        work = await self._validator.history(request, served.bundle, num_bytes=call.num_bytes)
        assert work.then is not None
        call.account.take(answer_bytes(work.then))
        lane, busy = served.engine.lanes.active, served.batcher
        answer = await self._scratch.forecast(lane, work, lambda: busy.is_busy)
        response, packed = api.ForecastHistoryResponse(), request.options.packed
        return await self._with_forecasts(served, response, answer, work.then.levels, packed=packed)

    async def WatchForecasts(self, request: api.WatchForecastsRequest, call: Call) -> None:
        """Write the forecasts of series now, and again whenever they change, until the client or the server ends."""
        served = self._backend.served(request.model)
        check_sizes({"series_ids": len(request.series_ids)}, self._largest)
        if request.options.future_covariates:
            violations = Violations()
            violations.add("options.future_covariates", "what is known of the time ahead grows old: call Forecast")
            violations.raise_if_any()
        whole = await self._work_of(served, request, request.series_ids, call)  # what is wrong is said at once
        most = max(_WATCHED_BYTES * len(whole.series_ids) // answer_bytes(whole), 1)
        call.account.take(PAIR_BYTES * len(whole.series_ids))
        with watched(served.engine.watches, request.series_ids) as watch:
            while changed := await before_end(watch.changed(min(most, _MOST_WATCHED)), self._backend.draining):
                await self._write_watched(served, request, changed, call)
        raise UnavailableError(f"the server is {Phase.DRAINING.value}: try again shortly")

    async def _write_watched(
        self, served: Served, request: api.WatchForecastsRequest, series_ids: Sequence[str], call: Call
    ) -> None:
        """Write what is new of some series, and wait while the client does not take it."""
        work = await self._work_of(served, request, series_ids, call)
        call.account.take(num_bytes := answer_bytes(work))
        answer = await served.batcher.forecast(work)
        response, packed = api.WatchForecastsResponse(), request.options.packed
        written = await self._with_forecasts(served, response, answer, work.levels, packed=packed)
        await call.context.write(written)
        call.account.give_back(num_bytes)

    async def StreamForecasts(
        self, messages: AsyncIterator[tuple[api.StreamForecastsRequest, int]], call: Call
    ) -> None:
        """Answer the messages of the stream in order; the first wrong one ends it with its status."""
        chain, plans = Chain(), Plans()

        async def prepare(sized: tuple[api.StreamForecastsRequest, int]) -> tuple[float, _Message]:
            request, num_bytes = sized
            served = self._backend.served(request.model)
            known = served.covariates
            work = await self._validator.work(request, served.bundle, chain, plans, known, num_bytes=num_bytes)
            served.engine.check(work.then)
            values = 0
            if work.then is not None:
                values = len(work.then.series_ids) * plans.each
                call.account.take(answered := answer_bytes(work.then))
                num_bytes += answered
            share = max(len(work.columns) / self._largest, values / MAX_FORECAST_VALUES)
            packed = request.options.packed
            return share, _Message(served, request.sequence, work, packed, num_bytes, time.perf_counter())

        async def write(message: _Message, observed: Observed) -> None:
            await call.context.write(await self._stream_response(message, observed))
            call.account.give_back(message.num_bytes)

        window = FlowWindow(self._backend.config.max_stream_in_flight)
        await Stream(messages, prepare, _begin, write, window).run(self._backend.draining)

    async def _stream_response(self, message: "_Message", observed: Observed) -> Message | bytes:
        if observed.refused is not None:
            raise observed.refused
        response = api.StreamForecastsResponse(sequence=message.sequence)
        answered = await self._observed(message.served, response, message.work, observed, packed=message.packed)
        self.calls.took("StreamForecasts", time.perf_counter() - message.began)
        return answered

    async def _observed(
        self,
        served: Served,
        response: api.ObserveResponse | api.StreamForecastsResponse,
        work: ObserveWork,
        observed: Observed,
        *,
        packed: bool,
    ) -> Message | bytes:
        """Return a response with the outcomes, and with the forecasts that were asked for."""
        response.durability = self._durability
        await add_outcomes(response, observed)
        if work.then is None:
            return response
        assert observed.forecasts is not None
        return await self._with_forecasts(served, response, observed.forecasts, work.then.levels, packed=packed)

    async def _with_forecasts(
        self,
        served: Served,
        response: Answer,
        answer: Forecasts,
        levels: tuple[float, ...],
        *,
        packed: bool,
    ) -> Message | bytes:
        if 8 * (answer.median.size + answer.quantiles.size) > LARGE_BYTES:
            await self.intake.pieces.turn()
        return await with_forecasts(response, answer, levels, _step(served.bundle.step_us), served.name, packed=packed)


@dataclass(slots=True)
class _Message:
    """One message of a stream, and when it began."""

    served: Served
    sequence: int
    work: ObserveWork
    packed: bool
    num_bytes: int
    began: float


def _begin(message: _Message) -> "asyncio.Future[Observed]":
    chain = message.work.chain
    assert chain is not None
    try:
        if chain.failed is not None:
            raise chain.failed
        return message.served.batcher.begin(message.work)
    except Exception as error:  # noqa: BLE001 -- told behind the answers to the messages before
        chain.fail(error)
        refused: asyncio.Future[Observed] = asyncio.get_running_loop().create_future()
        refused.set_exception(error)
        return refused


@functools.cache
def _step(step_us: int) -> Duration:
    return to_duration(step_us)
