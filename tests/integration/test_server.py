"""A real server process over real gRPC: the API, its errors, and what survives its end."""

import asyncio
import dataclasses
import datetime as dt
import math
import pathlib
import signal
import subprocess
import time

import grpc
import numpy as np
import polars as pl
import pytest
import torch
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from forecaster.client import AsyncForecastClient, ForecastClient, RetryPolicy
from forecaster.data.windows import latest_segments
from forecaster.errors import (
    DataError,
    DeadlineError,
    ForecasterError,
    InvalidArgumentError,
    ModelNotFoundError,
    SeriesNotFoundError,
    TooLittleHistoryError,
    UnavailableError,
)
from forecaster.model.bundle import Bundle
from forecaster.model.observations import Observations
from forecaster.v1 import forecast_pb2, forecast_service_pb2, observation_pb2
from forecaster.v1.forecast_service_pb2_grpc import ForecastServiceStub

from .conftest import HOUR_US, START, Server, ServerFactory, wander

IDS = [f"s{k}" for k in range(5)]


def offline(bundle: Bundle, frame: pl.DataFrame) -> np.ndarray:
    """Return the quantiles [B, D, Q] of the offline model over the same history, by series id."""
    rows = []
    for one in latest_segments(frame, bundle.step_us, bundle.max_gap_steps):
        values = torch.from_numpy(one.values.copy())[None]
        with torch.inference_mode():
            observed = torch.isfinite(values)
            times = torch.from_numpy(one.time_us.copy())[None]
            observations = Observations(times, values.nan_to_num(0.0), observed)
            state, _ = bundle.model.scan(bundle.model.initial_state(1), observations)
            rows.append(bundle.model.decode(state, bundle.model.config.horizon)[0].numpy())
    return np.stack(rows)


def assert_forecasts_are_the_offline_models(client: ForecastClient, bundle: Bundle, frame: pl.DataFrame) -> None:
    expected = offline(bundle, frame)
    ids = sorted(frame["unique_id"].unique())
    found = client.forecast(ids)
    for k, level in enumerate(bundle.model.config.quantile_levels):
        np.testing.assert_allclose(
            found[f"q{level:g}"].to_numpy().reshape(len(ids), -1), expected[:, :, k], rtol=1e-4, atol=1e-6
        )
    last = frame.group_by("unique_id").agg(pl.col("ds").max()).sort("unique_id")["ds"]
    first = found.group_by("unique_id", maintain_order=True).agg(pl.col("ds").min())["ds"]
    assert (first == last + dt.timedelta(hours=1)).all()


@pytest.fixture
def server(servers: ServerFactory) -> Server:
    return servers()


@pytest.fixture
def client(server: Server):
    with ForecastClient(server.address, retry=RetryPolicy(timeout_seconds=20)) as client:
        yield client


def test_the_whole_journey(servers: ServerFactory) -> None:
    """Observe in bulk and hour by hour, forecast, retry, kill -9, restart, stop, restart: always the offline model."""
    history, later = wander(5, 60), wander(5, 12, start=60)
    everything = wander(5, 72)
    server = servers()
    with ForecastClient(server.address) as client:
        result = client.observe(history.sample(fraction=1.0, shuffle=True, seed=1))
        assert (result.applied, result.duplicates, len(result.rejected), result.durability) == (300, 0, 0, "commit")
        assert_forecasts_are_the_offline_models(client, servers.bundle, history)
        for _, hour in later.group_by("ds", maintain_order=True):
            client.observe(hour)
        assert_forecasts_are_the_offline_models(client, servers.bundle, everything)
        again = client.observe(later)
        assert (again.applied, again.duplicates) == (0, 60)
        again = client.observe(everything)  # further back than the states remember
        assert (again.applied, again.duplicates, len(again.rejected)) == (0, 360, 0)
        model = client.get_model()
        assert (model.name, model.version, model.fingerprint) == ("forecaster", "1", servers.bundle.fingerprint)
        assert (model.horizon, model.step, model.min_history) == (6, dt.timedelta(hours=1), 12)
    server.kill()
    server = servers()
    assert "360 observations replayed" in server.log.read_text()
    with ForecastClient(server.address) as client:
        assert_forecasts_are_the_offline_models(client, servers.bundle, everything)
        assert [info.length for info in client.list_series()] == [72] * 5
        again = client.observe(history)
        assert (again.applied, again.duplicates, len(again.rejected)) == (0, 300, 0)
    assert server.stop() == 0
    server = servers()
    assert "recovered 5 series, 0 observations replayed" in server.log.read_text()
    with ForecastClient(server.address) as client:
        assert_forecasts_are_the_offline_models(client, servers.bundle, everything)


def test_a_stream_answers_each_frame_and_survives_a_restart(servers: ServerFactory, tmp_path: pathlib.Path) -> None:
    server = servers()
    with ForecastClient(server.address) as client:
        client.observe(wander(2, 40))
        with client.stream(horizon=3, quantile_levels=[0.1, 0.9]) as stream:
            for hour in range(40, 44):
                reply = stream.send(wander(2, 1, start=hour))
                assert reply.observed.applied == 2
                assert reply.forecasts["unique_id"].to_list() == ["s0"] * 3 + ["s1"] * 3
                assert reply.forecasts["ds"][0] == START + dt.timedelta(hours=hour + 1)
                assert reply.forecasts.columns == ["unique_id", "ds", "y_hat", "q0.1", "q0.9"]
            repeated = stream.send(wander(2, 1, start=43))
            assert repeated.observed.duplicates == 2
            server.kill()
            port = server.address.rsplit(":", 1)[1]
            server = servers(f"--serving.port={port}")
            assert stream.send(wander(2, 1, start=44)).observed.applied == 2
        assert client.get_series("s1").length == 45


def test_an_asyncio_stream_survives_a_restart_and_a_cancelled_send(servers: ServerFactory) -> None:
    async def talk() -> None:
        server = servers()
        port = server.address.rsplit(":", 1)[1]
        async with AsyncForecastClient(server.address) as client:
            await client.observe(wander(2, 40))
            async with client.stream(horizon=1) as stream:
                assert (await stream.send(wander(2, 1, start=40))).observed.applied == 2
                server.stop()
                server = servers(f"--serving.port={port}")
                assert (await stream.send(wander(2, 1, start=41))).observed.applied == 2
                server.process.send_signal(signal.SIGSTOP)
                try:
                    with pytest.raises(TimeoutError):
                        await asyncio.wait_for(stream.send(wander(2, 1, start=42)), 0.3)
                finally:
                    server.process.send_signal(signal.SIGCONT)
                reply = await stream.send(wander(2, 1, start=43))
                assert reply.observed.applied == 2
                assert reply.forecasts["ds"][0] == START + dt.timedelta(hours=44)

    asyncio.run(talk())


def test_the_asyncio_client_does_the_same(server: Server) -> None:
    async def talk() -> None:
        async with AsyncForecastClient(server.address) as client:
            assert (await client.observe(wander(3, 30))).applied == 90
            frames = await asyncio.gather(*(client.forecast([f"s{k}"], horizon=2) for k in range(3)))
            assert [len(frame) for frame in frames] == [2, 2, 2]
            async with client.stream(horizon=1) as stream:
                replies = [await stream.send(wander(3, 1, start=hour)) for hour in (30, 31)]
            assert [reply.observed.applied for reply in replies] == [3, 3]
            assert [info.unique_id async for info in client.list_series()] == ["s0", "s1", "s2"]
            await client.delete_series("s1")
            with pytest.raises(SeriesNotFoundError):
                await client.get_series("s1")
            assert (await client.get_model()).cell == "gru"

    asyncio.run(talk())


def test_a_series_is_described_listed_and_forgotten(client: ForecastClient) -> None:
    client.observe(wander(3, 30))
    info = client.get_series("s1")
    assert info.last_ds == START + dt.timedelta(hours=29)
    assert info.expected_ds == START + dt.timedelta(hours=30)
    assert (info.length, info.observed_length) == (30, sum((i + 1) % 7 != 3 for i in range(30)))
    assert info.state_age < dt.timedelta(minutes=1)
    client.delete_series("s1")
    assert [one.unique_id for one in client.list_series()] == ["s0", "s2"]
    assert client.observe(wander(2, 1).filter(unique_id="s1")).applied == 1
    assert client.get_series("s1").length == 1


def test_typed_errors_say_what_to_do(client: ForecastClient) -> None:
    client.observe(wander(1, 30))
    client.observe(wander(2, 5).filter(unique_id="s1"))
    with pytest.raises(SeriesNotFoundError, match="'nobody'") as not_found:
        client.forecast(["nobody"])
    with pytest.raises(SeriesNotFoundError, match="1000 series cannot be forecast"):  # fits the trailing metadata
        client.forecast([f"nobody {'x' * 200} {k}" for k in range(1000)])
    with pytest.raises(InvalidArgumentError, match="split it"):
        client.forecast([f"s{k}" for k in range(60_000)])
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
    with pytest.raises(InvalidArgumentError, match="an id stands twice"):
        client.forecast(["s0", "s0"])
    with pytest.raises(InvalidArgumentError, match=r"name at least one|empty"):
        client.forecast([])
    with pytest.raises(DataError, match="unique_id"):
        client.observe(pl.DataFrame({"a": [1]}))


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


def test_health_and_reflection(server: Server) -> None:
    with grpc.insecure_channel(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "forecaster.v1.ForecastService", "forecaster.v1.ModelService"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        names = ProtoReflectionDescriptorDatabase(channel).get_services()
        assert {"forecaster.v1.ForecastService", "forecaster.v1.ModelService", "grpc.health.v1.Health"} <= set(names)


def test_a_stop_drains_and_refuses_politely(servers: ServerFactory) -> None:
    server = servers("--serving.balancer_wait_seconds=1.5")
    with ForecastClient(server.address, retry=RetryPolicy(timeout_seconds=0.5)) as client:
        client.observe(wander(2, 30))
        with grpc.insecure_channel(server.address) as channel:
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert client.observe(wander(2, 1, start=30)).applied == 2  # the balancer may still send
        assert server.process.wait(20) == 0
        with pytest.raises(UnavailableError, match="is it running"):
            client.get_model()
    assert "2 series snapshotted" in server.log.read_text()


def test_an_idle_stream_does_not_hold_a_stop_up(server: Server) -> None:
    with ForecastClient(server.address, retry=RetryPolicy(timeout_seconds=1)) as client, client.stream() as stream:
        stream.send(wander(1, 30))
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 5  # drain_seconds is 10
        with pytest.raises(UnavailableError):
            stream.send(wander(1, 1, start=30))


def test_an_id_of_any_script_is_taken(client: ForecastClient) -> None:
    name = "店舗\u3000A\u00a0é"
    assert client.observe(wander(1, 3).with_columns(unique_id=pl.lit(name))).applied == 3
    assert client.get_series(name).length == 3


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
        with pytest.raises(InvalidArgumentError, match=r"in one request, 50 are allowed"):
            client.observe(wander(1, 60))


def refused_start(servers: ServerFactory, *options: str, command: list[str] | None = None) -> str:
    done = subprocess.run(command or servers.command(*options), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


def test_an_address_file_that_cannot_be_written_is_said_in_one_line(servers: ServerFactory) -> None:
    assert "cannot be written" in refused_start(servers, "--serving.address_file=/proc/nowhere/address")


def test_a_taken_port_is_said_in_one_line(servers: ServerFactory) -> None:
    server = servers()
    port = server.address.rsplit(":", 1)[1]
    command = servers.command(f"--serving.port={port}", state="other")
    assert f"cannot listen on 127.0.0.1:{port}" in refused_start(servers, command=command)


def test_a_state_in_use_is_said_in_one_line(servers: ServerFactory) -> None:
    servers()
    assert "in use by another server" in refused_start(servers)


def test_a_missing_champion_is_said_in_one_line(servers: ServerFactory, tmp_path: pathlib.Path) -> None:
    missing = f"sqlite:///{tmp_path}/nothing.db"
    elsewhere = dataclasses.replace(servers, tracking=dataclasses.replace(servers.tracking, uri=missing))
    line = refused_start(elsewhere)
    assert "forecaster train" in line
    assert not (tmp_path / "nothing.db").exists()


def test_a_corrupted_journal_is_said_in_one_line(servers: ServerFactory) -> None:
    server = servers()
    with ForecastClient(server.address) as client:
        client.observe(wander(2, 30))
    server.kill()
    journal = servers.folder / "state" / "journal.db"
    import sqlite3

    database = sqlite3.connect(journal)
    database.execute("UPDATE journal SET payload = substr(payload, 1, 30)")
    database.commit()
    database.close()
    assert "journal.db: record 1 is corrupted" in refused_start(servers)


def test_an_undurable_server_says_so(servers: ServerFactory) -> None:
    server = servers("--serving.durability=none")
    with ForecastClient(server.address) as client:
        assert client.observe(wander(1, 20)).durability == "none"
    assert server.stop() == 0
    assert not (servers.folder / "state").exists()


def test_an_interval_server_survives_a_kill(servers: ServerFactory) -> None:
    server = servers("--serving.durability=interval")
    with ForecastClient(server.address) as client:
        assert client.observe(wander(1, 20)).durability == "interval"
        time.sleep(1.2)
        client.observe(wander(1, 1, start=20))
    server.kill()
    server = servers("--serving.durability=interval")
    with ForecastClient(server.address) as client:
        assert client.get_series("s0").length == 21
