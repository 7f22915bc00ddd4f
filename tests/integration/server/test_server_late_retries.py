"""An answer is lost, the series is deleted, and the client tries again: the series stays deleted."""

import asyncio
import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from forecaster.client import AsyncForecastClient, ForecastClient, RetryPolicy
from forecaster.v1 import forecast_service_pb2 as api
from forecaster.v1 import forecast_service_pb2_grpc
from forecaster.v1.forecast_service_pb2_grpc import ForecastServiceStub
from tests.integration.conftest import Server, wander

PATIENCE = RetryPolicy(timeout_seconds=120, first_delay_seconds=0.01)


class Losing(forecast_service_pb2_grpc.ForecastServiceServicer):
    """A proxy that loses every first answer; meanwhile somebody deletes the first series."""

    def __init__(self, stub: ForecastServiceStub) -> None:
        self._stub, self._lost = stub, False

    def Observe(self, request: api.ObserveRequest, context: grpc.ServicerContext) -> api.ObserveResponse:  # noqa: N802
        answer = self._stub.Observe(request)
        self._lose_once(context)
        return answer  # type: ignore[no-any-return]

    def StreamForecasts(  # noqa: N802
        self, requests: Iterator[api.StreamForecastsRequest], context: grpc.ServicerContext
    ) -> Iterator[api.StreamForecastsResponse]:
        for answer in self._stub.StreamForecasts(requests):
            self._lose_once(context)
            yield answer

    def _lose_once(self, context: grpc.ServicerContext) -> None:
        if not self._lost:
            self._lost = True
            self._stub.DeleteSeries(api.DeleteSeriesRequest(series_id="s0"))
            context.abort(grpc.StatusCode.UNAVAILABLE, "the answer was lost")


@pytest.fixture
def address(server: Server) -> Iterator[str]:
    """The address of the proxy."""
    with contextlib.ExitStack() as stack:
        channel = stack.enter_context(grpc.insecure_channel(server.address))
        proxy = grpc.server(ThreadPoolExecutor(4))
        forecast_service_pb2_grpc.add_ForecastServiceServicer_to_server(Losing(ForecastServiceStub(channel)), proxy)
        port = proxy.add_insecure_port("127.0.0.1:0")
        proxy.start()
        stack.callback(lambda: proxy.stop(None).wait())
        yield f"127.0.0.1:{port}"


@pytest.mark.parametrize("how", ["observe", "stream", "observe async", "stream async"])
def test_a_retry_does_not_bring_a_deleted_series_back(address: str, client: ForecastClient, how: str) -> None:
    frame = wander(2, 20)

    async def asynchronous() -> tuple[int, int]:
        async with AsyncForecastClient(address, retry=PATIENCE) as behind:
            if how.startswith("observe"):
                result = await behind.observe(frame)
                return result.duplicates, len(result.rejected)
            async with behind.stream() as stream:
                reply = await stream.send(frame)
                return reply.observed.duplicates, len(reply.observed.rejected)

    if how.endswith("async"):
        found = asyncio.run(asynchronous())
    else:
        with ForecastClient(address, retry=PATIENCE) as behind:
            if how == "observe":
                result = behind.observe(frame)
            else:
                with behind.stream() as stream:
                    result = stream.send(frame).observed
        found = result.duplicates, len(result.rejected)
    assert found == (20, 20)
    assert [(info.unique_id, info.length) for info in client.list_series()] == [("s1", 20)]
    assert client.observe(wander(1, 3, start=20)).applied == 3  # sent after it
    assert client.get_series("s0").length == 3
