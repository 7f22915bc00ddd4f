"""Which refusals are tried again: those of a server that says nothing of its own, as a proxy does."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from forecaster.client import ForecastClient, RetryPolicy
from forecaster.errors import FailedPreconditionError, ForecasterError, LimitReachedError, RegistryError, StateLostError
from forecaster.serving.api.status import DETAILS_KEY, status_code, to_status
from forecaster.v1 import forecast_service_pb2 as api
from forecaster.v1 import forecast_service_pb2_grpc

HASTE = RetryPolicy(timeout_seconds=10, first_delay_seconds=0.001)
OURS = LimitReachedError("the server holds as many series as it may")


class Refusing(forecast_service_pb2_grpc.ForecastServiceServicer):
    """Refuses the first three calls."""

    def __init__(self) -> None:
        self.text, self.metadata, self.calls = "", (), 0
        self.code = grpc.StatusCode.RESOURCE_EXHAUSTED

    def DeleteSeries(  # noqa: N802 -- the API's name
        self, request: api.DeleteSeriesRequest, context: grpc.ServicerContext
    ) -> api.DeleteSeriesResponse:
        self.calls += 1
        if self.calls <= 3:
            context.set_trailing_metadata(self.metadata)
            context.abort(self.code, self.text)
        return api.DeleteSeriesResponse()


@pytest.fixture
def refusing() -> Iterator[tuple[Refusing, ForecastClient]]:
    servicer, server = Refusing(), grpc.server(ThreadPoolExecutor(1))
    forecast_service_pb2_grpc.add_ForecastServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with ForecastClient(f"127.0.0.1:{port}", retry=HASTE) as client:
        yield servicer, client
    server.stop(None).wait()


def test_too_much_at_once_is_tried_again(refusing: tuple[Refusing, ForecastClient]) -> None:
    servicer, client = refusing
    servicer.text = "Concurrent RPC limit exceeded!"
    client.delete_series("a")
    assert servicer.calls == 4


@pytest.mark.parametrize("text", ["SERVER: Received message larger than max (9 vs. 4)", str(OURS)])
def test_what_stays_too_much_is_not(refusing: tuple[Refusing, ForecastClient], text: str) -> None:
    servicer, client = refusing
    servicer.text = text
    servicer.metadata = ((DETAILS_KEY, to_status(OURS).SerializeToString()),) if text == str(OURS) else ()
    with pytest.raises(LimitReachedError, match=r"larger|holds"):
        client.delete_series("a")
    assert servicer.calls == 1


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RegistryError("the model store does not answer"), RegistryError),
        (StateLostError("the state of 'a' is lost", ["a"]), FailedPreconditionError),
    ],
)
def test_what_passes_only_when_somebody_acts_is_not(
    refusing: tuple[Refusing, ForecastClient], error: ForecasterError, expected: type[ForecasterError]
) -> None:
    servicer, client = refusing
    servicer.text, servicer.code = str(error), status_code(error)
    servicer.metadata = ((DETAILS_KEY, to_status(error).SerializeToString()),)
    with pytest.raises(expected, match=str(error)):
        client.delete_series("a")
    assert servicer.calls == 1
