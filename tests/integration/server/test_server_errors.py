"""What a real server refuses: statuses, details, and rows with their reasons."""

import datetime as dt
import math
import signal
import threading
import time
from collections.abc import Iterator

import grpc
import polars as pl
import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from forecaster.client import ForecastClient, RetryPolicy
from forecaster.errors import (
    DataError,
    DeadlineError,
    ForecasterError,
    InvalidArgumentError,
    LimitReachedError,
    ModelNotFoundError,
    SeriesNotFoundError,
    TooLittleHistoryError,
)
from forecaster.v1 import forecast_pb2, forecast_service_pb2, observation_pb2
from forecaster.v1.forecast_service_pb2_grpc import ForecastServiceStub
from tests.integration.conftest import HOUR_US, START, Server, ServerFactory, wander


def refusal(server: Server, rpc: str, request: Message) -> str:
    """Return what a client that is not ours is told of a wrong request."""
    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as refused:
        getattr(ForecastServiceStub(channel), rpc)(request)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    return str(refused.value.details())


def test_typed_errors_say_what_to_do(server: Server, client: ForecastClient) -> None:
    client.observe(wander(1, 30))
    client.observe(wander(2, 5).filter(unique_id="s1"))
    with pytest.raises(SeriesNotFoundError, match="'nobody'") as not_found:
        client.forecast(["nobody"])
    with pytest.raises(SeriesNotFoundError, match="1000 series cannot be forecast"):  # fits the trailing metadata
        client.forecast([f"nobody {'x' * 200} {k}" for k in range(1000)])
    many = [f"s{k}" for k in range(60_000)]  # the client would split them
    assert "split it" in refusal(server, "Forecast", forecast_service_pb2.ForecastRequest(series_ids=many))
    assert not_found.value.resource_names == ("nobody",)
    with pytest.raises(TooLittleHistoryError, match="a forecast needs 12"):
        client.forecast(["s1"])
    with pytest.raises(InvalidArgumentError, match="horizon: 7 is beyond the model's horizon, 1 to 6") as invalid:
        client.forecast(["s0"], horizon=7)
    assert invalid.value.violations[0].field == "options.horizon"
    with pytest.raises(InvalidArgumentError, match=r"trained range, 0\.025 to 0\.975"):
        client.forecast(["s0"], quantile_levels=[0.001])
    with pytest.raises(InvalidArgumentError, match="does not ascend"):
        client.forecast(["s0"], quantile_levels=[0.9, 0.1])
    twice = forecast_service_pb2.ForecastRequest(series_ids=["s0", "s0"])  # the client would ask once
    assert "an id stands twice" in refusal(server, "Forecast", twice)
    with pytest.raises(InvalidArgumentError, match=r"name at least one|empty"):
        client.forecast([])
    with pytest.raises(DataError, match="unique_id"):
        client.observe(pl.DataFrame({"a": [1]}))


def test_past_the_most_rpcs_only_health_is_told(servers: ServerFactory) -> None:
    server = servers("--serving.max_concurrent_rpcs=2")
    with grpc.insecure_channel(server.address) as channel, ForecastClient(server.address) as patient:
        stub, hold = ForecastServiceStub(channel), threading.Event()

        def silence(hour: int) -> Iterator[forecast_service_pb2.StreamForecastsRequest]:
            row = observation_pb2.Observation(series_id="silent", observation_time=Timestamp(seconds=3600 * hour))
            yield forecast_service_pb2.StreamForecastsRequest(observations=[row])
            hold.wait(100)

        streams = [stub.StreamForecasts(silence(hour)) for hour in range(2)]
        for stream in streams:
            next(stream)  # it has begun
        with pytest.raises(grpc.RpcError) as refused:
            stub.ListSeries(forecast_service_pb2.ListSeriesRequest())
        rpc, status, retry = refused.value, status_pb2.Status(), error_details_pb2.RetryInfo()
        assert rpc.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        status.ParseFromString(dict(rpc.trailing_metadata())["grpc-status-details-bin"])
        assert any(detail.Unpack(retry) for detail in status.details)
        assert retry.retry_delay.ToMilliseconds() == 100
        with pytest.raises(grpc.RpcError, match="2 RPCs are running"):
            next(stub.StreamForecasts(silence(2)))
        check = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert check.status == health_pb2.HealthCheckResponse.SERVING
        with (
            ForecastClient(server.address, retry=RetryPolicy(timeout_seconds=0.5)) as hasty,
            pytest.raises(LimitReachedError, match="end some streams"),
        ):
            hasty.get_model()
        threading.Timer(0.5, streams[0].cancel).start()
        began = time.monotonic()
        assert patient.observe(wander(1, 30)).applied == 30  # when there is room
        assert time.monotonic() - began >= 0.4
        hold.set()


def test_past_the_most_queued_rows_requests_are_to_come_again(servers: ServerFactory) -> None:
    """Of two hundred at once those that find no room are refused whole; sent again, each is applied once."""
    server = servers("--serving.max_queued_observations=24", "--serving.max_request_observations=24")
    with grpc.insecure_channel(server.address) as channel:
        stub = ForecastServiceStub(channel)
        requests = [
            forecast_service_pb2.ObserveRequest(
                observations=[
                    observation_pb2.Observation(
                        series_id=f"r{k}s{i}", observation_time=Timestamp(seconds=3600), value=1.0
                    )
                    for i in range(24)
                ]
            )
            for k in range(200)
        ]
        calls = [stub.Observe.future(request) for request in requests]
        refused = [(request, call.exception()) for request, call in zip(requests, calls, strict=True) if call.code()]
        refused = [(request, error) for request, error in refused if error is not None]
        assert refused
        for request, error in refused:
            status, retry = status_pb2.Status(), error_details_pb2.RetryInfo()
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            status.ParseFromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
            assert any(detail.Unpack(retry) for detail in status.details)
            assert retry.retry_delay.ToMilliseconds() > 0
            assert set(stub.Observe(request).outcomes) == {observation_pb2.OUTCOME_APPLIED}
        assert stub.ListSeries(forecast_service_pb2.ListSeriesRequest()).total_size == 200 * 24


def test_calibrated_quantiles_follow_the_errors(client: ForecastClient) -> None:
    client.observe(wander(2, 30))
    for hour in range(30, 130):
        client.forecast(["s0", "s1"])
        client.observe(wander(2, 1, start=hour))
    levels = [0.1, 0.5, 0.9]
    raw, corrected = (client.forecast(["s0", "s1"], quantile_levels=levels, calibrated=one) for one in (False, True))
    assert raw["y_hat"].to_list() == corrected["y_hat"].to_list()
    assert raw["q0.1"].to_list() != corrected["q0.1"].to_list()
    assert (corrected["q0.1"] < corrected["q0.9"]).all()


def test_refused_rows_come_back_with_the_reason(client: ForecastClient) -> None:
    frame = wander(1, 30)
    client.observe(frame)
    taken = frame.filter(pl.col("y").is_not_null()).tail(1).with_columns(y=pl.col("y") + 1)
    old = wander(1, 1).with_columns(ds=pl.lit(START - dt.timedelta(hours=40)).cast(pl.Datetime("us", "UTC")))
    future = wander(1, 1, start=30).with_columns(ds=pl.lit(dt.datetime.now(dt.UTC) + dt.timedelta(days=400)))
    future = future.with_columns(ds=pl.col("ds").dt.truncate("1h"))
    off_grid = wander(1, 1, start=30).with_columns(ds=pl.col("ds") + dt.timedelta(minutes=7))
    result = client.observe(future)
    assert "too far in the future" in result.rejected["message"][0]
    result = client.observe(pl.concat([taken, old, off_grid]))
    assert (result.applied, result.duplicates) == (0, 0)
    reasons = dict(zip(result.rejected["reason"], result.rejected.iter_rows(named=True), strict=True))
    assert set(reasons) == {"CONFLICTING_VALUE", "OUT_OF_ORDER", "INVALID_ARGUMENT"}
    assert reasons["CONFLICTING_VALUE"]["stored_y"] == pytest.approx(taken["y"][0] - 1)
    assert reasons["OUT_OF_ORDER"]["expected_ds"] == START + dt.timedelta(hours=30)
    with pytest.raises(ForecasterError, match=r"\(3 rows were refused\)"):
        result.raise_for_rejections()


def test_wrong_messages_are_refused_whole(server: Server) -> None:
    """Statuses and details as the API says them, seen by a client that is not ours."""
    with grpc.insecure_channel(server.address) as channel:
        stub = ForecastServiceStub(channel)

        def status(call) -> tuple[grpc.StatusCode, status_pb2.Status]:
            with pytest.raises(grpc.RpcError) as failure:
                call()
            metadata = dict(failure.value.trailing_metadata())
            return failure.value.code(), status_pb2.Status.FromString(metadata["grpc-status-details-bin"])

        good = observation_pb2.Observation(series_id="a", observation_time=Timestamp(seconds=3600), value=1.0)
        bad = observation_pb2.Observation(series_id="", observation_time=Timestamp(seconds=3600), value=math.inf)
        code, details = status(lambda: stub.Observe(forecast_service_pb2.ObserveRequest(observations=[good, bad])))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        request = error_details_pb2.BadRequest()
        assert [d for d in details.details if d.Unpack(request)]
        assert [v.field for v in request.field_violations] == ["observations[1].series_id", "observations[1].value"]
        code, details = status(lambda: stub.GetSeries(forecast_service_pb2.GetSeriesRequest(series_id="a")))
        assert code is grpc.StatusCode.NOT_FOUND  # nothing of the wrong request was applied
        resource = error_details_pb2.ResourceInfo()
        assert [d for d in details.details if d.Unpack(resource)]
        assert (resource.resource_type, resource.resource_name) == ("forecaster.v1.Series", "a")
        code, _ = status(lambda: stub.Observe(forecast_service_pb2.ObserveRequest()))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        wrong = observation_pb2.ObservationColumns(
            series_ids=["a"], series_indices=[0, 1], observation_times_us=[0, HOUR_US], values=[1.0, 2.0]
        )
        code, _ = status(lambda: stub.Observe(forecast_service_pb2.ObserveRequest(columns=wrong)))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        code, _ = status(
            lambda: next(stub.StreamForecasts(iter([forecast_service_pb2.StreamForecastsRequest(observations=[bad])])))
        )
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        partial = stub.Observe(forecast_service_pb2.ObserveRequest(observations=[good]))
        assert list(partial.outcomes) == [observation_pb2.OUTCOME_APPLIED]
        answer = stub.Forecast(
            forecast_service_pb2.ForecastRequest(
                series_ids=["a", "b"], options=forecast_pb2.ForecastOptions(horizon=1), allow_partial=True
            )
        )
        assert {f.series_id: f.reason for f in answer.failures} == {
            "a": "TOO_LITTLE_HISTORY",
            "b": "SERIES_NOT_FOUND",
        }


def test_another_models_name_is_not_found(server: Server) -> None:
    with ForecastClient(server.address, model="another") as client, pytest.raises(ModelNotFoundError, match="another"):
        client.get_model()


def test_a_paused_server_is_a_deadline(server: Server) -> None:
    with ForecastClient(server.address, retry=RetryPolicy(timeout_seconds=1)) as client:
        client.get_model()
        server.process.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(DeadlineError, match="in time"):
                client.get_model()
            with pytest.raises(DeadlineError, match="in time"), client.stream() as stream:
                stream.send(wander(1, 1))
        finally:
            server.process.send_signal(signal.SIGCONT)


def test_limits_are_refused_with_a_retry(servers: ServerFactory) -> None:
    server = servers("--serving.max_series=2", "--serving.max_request_observations=50")
    with ForecastClient(server.address) as client:
        result = client.observe(wander(3, 10))
        assert result.applied == 20
        assert set(result.rejected["reason"]) == {"LIMIT_REACHED"}
        rows = [
            observation_pb2.Observation(series_id="s0", observation_time=Timestamp(seconds=3600 * hour), value=1.0)
            for hour in range(60)
        ]
        said = refusal(server, "Observe", forecast_service_pb2.ObserveRequest(observations=rows))
        assert "in one request, 50 are allowed" in said
        result = client.observe(wander(1, 60))  # which the client splits
        assert (result.applied, result.duplicates) == (50, 10)
