"""A real server and clients that are broken or mean no good: refused in a sentence, bounded, no reason not to end."""

import contextlib
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from forecaster.client import ForecastClient
from forecaster.v1 import forecast_service_pb2 as api
from forecaster.v1 import model_service_pb2
from forecaster.v1.forecast_service_pb2_grpc import ForecastServiceStub
from forecaster.v1.model_service_pb2_grpc import ModelServiceStub
from tests.hostile.closed_window import ask
from tests.integration.conftest import Server, ServerFactory, wander
from tests.integration.server.test_server_faults import until

SERVICE = "/forecaster.v1.ForecastService/"
HEALTH, REFLECTION = "/grpc.health.v1.Health/", "/grpc.reflection.v1alpha.ServerReflection/"


@contextlib.contextmanager
def open_channel(server: Server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address, [("grpc.max_send_message_length", -1)]) as channel:
        yield channel


def refused(begin: Callable[[], Iterator[object]]) -> tuple[grpc.StatusCode, str, status_pb2.Status]:
    """Return how a call ends that gives no answer."""
    try:
        next(begin())
    except grpc.RpcError as failure:
        metadata = dict(failure.trailing_metadata())
        details = status_pb2.Status.FromString(metadata["grpc-status-details-bin"])
        return failure.code(), failure.details(), details
    raise AssertionError("it was not refused")


def once(call: Callable[[object], object], request: object) -> Callable[[], Iterator[object]]:
    """Return what begins a unary call."""
    return lambda: (call(given) for given in (request,))


def test_bytes_that_are_no_message_are_refused_in_a_sentence(server: Server) -> None:
    with open_channel(server) as channel:
        for path in (SERVICE + "Observe", SERVICE + "Forecast", HEALTH + "Check"):
            call = channel.unary_unary(path)
            for raw in (b"\xff" * 50, b"\xff" * 5000, b"\x0a\x05abc", b"\x0a\x01\xff"):
                code, text, _ = refused(once(call, raw))
                assert code is grpc.StatusCode.INVALID_ARGUMENT
                assert text.endswith("make them with this API's protobuf files")
        for path in (SERVICE + "StreamForecasts", REFLECTION + "ServerReflectionInfo"):
            code, text, status = refused(lambda path=path: channel.stream_stream(path)(iter([b"\xff" * 50])))
            assert code is grpc.StatusCode.INVALID_ARGUMENT
            assert "the bytes are no" in text
            assert status.message == text
        logged = len(server.log.read_text().splitlines())
        for _ in range(100):
            refused(lambda: channel.stream_stream(SERVICE + "StreamForecasts")(iter([b"\xff"])))
        assert len(server.log.read_text().splitlines()) == logged
    said = server.log.read_text()
    assert "Traceback" not in said
    assert "StreamForecasts refused, INVALID_ARGUMENT: the bytes are no StreamForecastsRequest" in said


def test_one_message_holds_no_more_than_it_may(server: Server) -> None:
    columns = api.ObserveRequest()
    for k in range(30_000):
        columns.columns.covariates.add(name=str(k))
    futures = api.ForecastRequest(series_ids=["a"])
    for _ in range(100_000):
        futures.options.future_covariates.add()
    with open_channel(server) as channel:
        stub = ForecastServiceStub(channel)
        for call, request, path in (
            (stub.Observe, columns, "columns.covariates"),
            (stub.Forecast, futures, "options.future_covariates"),
            (stub.Observe, api.ObserveRequest(model="é" * 600), "model"),
            (stub.GetSeries, api.GetSeriesRequest(series_id="x" * 100_000), ""),
            (
                stub.Forecast,
                api.ForecastRequest(series_ids=["a"], options={"quantile_levels": [0.5] * 1001}),
                "options.quantile_levels",
            ),
        ):
            code, text, status = refused(once(call, request))
            assert code is grpc.StatusCode.INVALID_ARGUMENT
            assert "allowed" in text
            found = error_details_pb2.BadRequest()
            assert [detail for detail in status.details if detail.Unpack(found)]
            assert found.field_violations[0].field == path


def test_a_rejected_row_is_counted_and_said(server: Server) -> None:
    request = api.ObserveRequest()
    for seconds in (3600, 7200, 7201):
        request.observations.add(series_id="a", value=1.0).observation_time.seconds = seconds
    with open_channel(server) as channel:
        answer = ForecastServiceStub(channel).Observe(request)
    assert [rejection.row for rejection in answer.rejections] == [2]
    assert "a row rejected, INVALID_ARGUMENT: 1970-01-01T02:00:01+00:00 is off the grid" in server.log.read_text()


def test_what_was_sent_is_not_repeated_at_any_length(server: Server) -> None:
    name = "\N{GRINNING FACE}" * 256
    levels = [0.5 - k / 3000 for k in range(1000)]
    with open_channel(server) as channel:
        stub = ForecastServiceStub(channel)
        for call, request in (
            (stub.Observe, api.ObserveRequest(model=name)),
            (stub.Forecast, api.ForecastRequest(series_ids=[f"{name[:250]}{k}" for k in range(100)])),
            (stub.Forecast, api.ForecastRequest(series_ids=["a"], options={"quantile_levels": levels})),
            (stub.Observe, api.ObserveRequest(observations=[{"series_id": "\n" * 1000}] * 100)),
            (ModelServiceStub(channel).GetModel, model_service_pb2.GetModelRequest(version=name)),
        ):
            code, text, _ = refused(once(call, request))
            assert code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
            assert len(text.encode()) <= 1024


def test_pages_are_asked_for_by_what_was_given(server: Server) -> None:
    with ForecastClient(server.address) as client, open_channel(server) as channel:
        client.observe(wander(5, 2))
        stub = ForecastServiceStub(channel)
        names, token = [], ""
        while True:
            page = stub.ListSeries(api.ListSeriesRequest(page_size=2, page_token=token))
            names += [series.series_id for series in page.series]
            token = page.next_page_token
            if not token:
                break
            assert names[-1] not in token
        assert names == [f"s{k}" for k in range(5)]
        for made_up in ("s1", names[0], "x" * 2000):
            code, text, _ = refused(once(stub.ListSeries, api.ListSeriesRequest(page_token=made_up)))
            assert code is grpc.StatusCode.INVALID_ARGUMENT
            assert text.startswith("page_token: ")


def test_answers_that_nobody_reads_take_no_more_than_the_budget(servers: ServerFactory) -> None:
    server = servers("--serving.max_request_memory_bytes=1000000", "--serving.drain_seconds=1")
    many = api.ForecastRequest(series_ids=[f"s{k}" for k in range(300)])
    many.options.quantile_levels.extend([0.1 + k / 130 for k in range(100)])
    with (
        ForecastClient(server.address) as client,
        open_channel(server) as channel,
        contextlib.ExitStack() as unread,
    ):
        client.observe(wander(300, 20))
        stub = ForecastServiceStub(channel)
        assert len(stub.Forecast(many).forecasts) == 300  # the only one always may
        found: list[grpc.RpcError] = []

        def is_refused() -> bool:
            try:
                stub.Forecast(many)
            except grpc.RpcError as error:
                found.append(error)
            else:  # nobody's answer waits, or the one below came amid this one and was refused itself
                connection = ask(server.address, SERVICE + "Forecast", many.SerializeToString())
                unread.callback(connection.close)
            return bool(found)

        until(is_refused)
        assert found[0].code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        status = status_pb2.Status.FromString(dict(found[0].trailing_metadata())["grpc-status-details-bin"])
        assert any(detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for detail in status.details)
        assert len(client.forecast(["s0"])) == 6  # small ones go on
        unread.close()

        def is_answered() -> bool:
            with contextlib.suppress(grpc.RpcError):
                return len(stub.Forecast(many).forecasts) == 300
            return False

        until(is_answered)


def test_the_end_waits_for_nobody_who_does_not_read(servers: ServerFactory) -> None:
    """Watchers with closed windows, streams and forecasts that are never read: all others are told, and it ends."""
    server = servers("--serving.drain_seconds=0.5", "--serving.balancer_wait_seconds=1")
    with ForecastClient(server.address) as client, open_channel(server) as channel, contextlib.ExitStack() as left:
        client.observe(wander(3, 20))
        stub = health_pb2_grpc.HealthStub(channel)
        watcher = stub.Watch(health_pb2.HealthCheckRequest())
        assert next(watcher).status == health_pb2.HealthCheckResponse.SERVING
        forecast = api.ForecastRequest(series_ids=["s0"]).SerializeToString()
        for path, raw in ((HEALTH + "Watch", b""), (SERVICE + "Forecast", forecast)):
            for _ in range(3):
                left.callback(ask(server.address, path, raw).close)
        time.sleep(0.2)  # so that they are being answered
        server.process.send_signal(signal.SIGTERM)
        assert next(watcher).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert stub.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert list(watcher) == []  # it ends with the server
        assert server.process.wait(180) == 0
    assert "3 series snapshotted" in server.log.read_text()


def test_the_end_does_not_wait_for_the_registry(servers: ServerFactory) -> None:
    """While somebody keeps the registry's database, which is being asked; the next server may begin meanwhile."""
    path = servers.tracking.uri.removeprefix("sqlite:///")
    server = servers("--serving.poll_seconds=0.01")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("BEGIN EXCLUSIVE")
        with ForecastClient(server.address) as client:
            client.observe(wander(3, 13))
        time.sleep(0.5)  # it asks a hundred times a second
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(180) == 0
        database.execute("ROLLBACK")
    said = server.log.read_text()
    assert "3 series snapshotted" in said
    assert "database is locked" not in said  # MLflow gives up and says so after 20 s
    with ForecastClient(servers().address) as client:
        assert client.get_series("s2").length == 13
