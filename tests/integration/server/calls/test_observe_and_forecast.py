"""One call that observes and forecasts, and one for the forecast of one series: real servers, real frames."""

import asyncio
import datetime as dt
import pathlib
import subprocess
import sys

import grpc
import numpy as np
import polars as pl
import pytest

from forecaster.client import AsyncForecastClient, ForecastClient
from forecaster.errors import InvalidArgumentError
from forecaster.v1 import forecast_pb2, forecast_service_pb2
from forecaster.v1.forecast_service_pb2_grpc import ForecastServiceStub
from tests.integration.conftest import START, Server, ServerFactory, wander


def test_the_answer_is_what_observe_and_forecast_say_one_after_the_other(servers: ServerFactory) -> None:
    history, hour, again = wander(5, 60), wander(5, 1, start=60), wander(5, 1, start=61)
    with ForecastClient(servers().address) as client:
        reply = client.observe_and_forecast(history, horizon=3, quantile_levels=[0.2, 0.5])
        assert (reply.observed.applied, reply.failures) == (300, {})
        ids = history["unique_id"].unique(maintain_order=True).to_list()
        assert reply.forecasts.equals(client.forecast(ids, horizon=3, quantile_levels=[0.2, 0.5]))
        first = client.observe_and_forecast(hour)
        retried = client.observe_and_forecast(hour)
        assert (first.observed.applied, retried.observed.applied, retried.observed.duplicates) == (5, 0, 5)
        assert first.forecasts.equals(retried.forecasts)
        assert first.forecasts["ds"].min() == START + dt.timedelta(hours=61)

        async def awaited() -> pl.DataFrame:
            async with AsyncForecastClient(client._address) as other:
                return (await other.observe_and_forecast(again)).forecasts

        assert asyncio.run(awaited()).equals(client.forecast(again["unique_id"].to_list()))


def test_series_without_a_forecast_are_observed_all_the_same(client: ForecastClient) -> None:
    client.observe(wander(2, 60))
    mixed = pl.concat([wander(2, 1, start=60), wander(1, 1).with_columns(unique_id=pl.lit("new"))])
    reply = client.observe_and_forecast(mixed)
    assert reply.observed.applied == 3
    assert list(reply.failures) == ["new"]
    assert "values" in reply.failures["new"]
    assert reply.forecasts["unique_id"].n_unique() == 2
    assert client.get_series("new").length == 1


def test_wrong_options_refuse_the_request_before_anything_is_applied(client: ForecastClient) -> None:
    client.observe(wander(1, 60))
    with pytest.raises(InvalidArgumentError, match="beyond the model's horizon"):
        client.observe_and_forecast(wander(1, 1, start=60), horizon=1000)
    assert client.get_series("s0").length == 60


def test_what_is_too_large_for_one_answer_is_observed_first_and_forecast_then(servers: ServerFactory) -> None:
    """By rows, and by what is to be forecast of them."""
    frame = wander(20, 30)
    with ForecastClient(servers("--serving.max_request_observations=50").address) as client:
        reply = client.observe_and_forecast(frame)
        assert (reply.observed.applied, reply.failures) == (600, {})
        assert reply.forecasts.equals(client.forecast(sorted(set(frame["unique_id"]))))


def test_rows_are_answered_by_messages_and_columns_by_columns(server: Server, client: ForecastClient) -> None:
    client.observe(wander(3, 60))
    with grpc.insecure_channel(server.address) as channel:
        stub = ForecastServiceStub(channel)
        request = forecast_service_pb2.ObserveRequest(options=forecast_pb2.ForecastOptions(horizon=2))
        for name, time, value in wander(3, 1, start=60).select("unique_id", "ds", "y").iter_rows():
            request.observations.add(series_id=name, value=value).observation_time.FromDatetime(time)
        answer = stub.Observe(request)
        request.options.packed = True
        packed = stub.Observe(request)
        assert [list(reply.outcomes) for reply in (answer, packed)] == [[1, 1, 1], [2, 2, 2]]
        assert packed.columns.values[:] == [value for one in answer.forecasts for value in one.values]
        one = stub.GetForecast(forecast_service_pb2.GetForecastRequest(series_id="s1", options={"horizon": 2}))
        assert one.forecast == answer.forecasts[1]
        plain = stub.Observe(forecast_service_pb2.ObserveRequest(observations=request.observations))
        assert (len(plain.forecasts), plain.HasField("columns")) == (0, False)


@pytest.mark.parametrize(
    ("request_", "code", "says"),
    [
        ({"series_id": "nobody"}, grpc.StatusCode.NOT_FOUND, "nobody"),
        ({"series_id": ""}, grpc.StatusCode.INVALID_ARGUMENT, "series_id"),
        ({"series_id": "s0", "options": {"packed": True}}, grpc.StatusCode.INVALID_ARGUMENT, "options.packed"),
        ({"series_id": "s0", "options": {"horizon": 999}}, grpc.StatusCode.INVALID_ARGUMENT, "options.horizon"),
        ({"series_id": "young"}, grpc.StatusCode.FAILED_PRECONDITION, "young"),
        ({"series_id": "s0", "options": {"paths": 3}}, grpc.StatusCode.INVALID_ARGUMENT, "recurrent"),
    ],
)
def test_why_one_series_has_no_forecast(
    request_: dict[str, object], code: grpc.StatusCode, says: str, server: Server, client: ForecastClient
) -> None:
    client.observe(pl.concat([wander(1, 60), wander(1, 1).with_columns(unique_id=pl.lit("young"))]))
    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as raised:
        ForecastServiceStub(channel).GetForecast(forecast_service_pb2.GetForecastRequest(**request_))
    assert raised.value.code() is code
    assert says in raised.value.details()


def test_the_shell_observes_and_forecasts_in_one_call(server: Server, tmp_path: pathlib.Path) -> None:
    wander(2, 60).write_csv(tmp_path / "new.csv")
    words = ["observe", "--server", server.address, "--data.path", "new.csv", "--forecasts", "ahead.csv"]
    command = [sys.executable, "-m", "forecaster", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "120 applied" in done.stdout
    ahead = pl.read_csv(tmp_path / "ahead.csv")
    assert ahead.columns == ["unique_id", "ds", "y_hat", "q0.1", "q0.9"]
    assert ahead["unique_id"].unique(maintain_order=True).to_list() == ["s0", "s1"]
    assert np.isfinite(ahead["y_hat"].to_numpy()).all()
