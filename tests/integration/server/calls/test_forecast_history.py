"""Forecasts from a past that stands in the request: those of observed series, and nothing is left of it."""

import asyncio
import datetime as dt

import grpc
import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from forecaster.client import AsyncForecastClient, ForecastClient
from forecaster.errors import InvalidArgumentError
from forecaster.v1 import forecast_service_pb2
from forecaster.v1.forecast_service_pb2_grpc import ForecastServiceStub
from tests.integration.conftest import START, Server, ServerFactory, wander


def test_it_is_what_observed_series_have_and_keeps_nothing(servers: ServerFactory) -> None:
    frame = wander(4, 60)
    server = servers()
    with ForecastClient(server.address) as client:
        result = client.forecast_history(frame, horizon=3, quantile_levels=[0.1, 0.5])
        result.raise_for_failures()
        assert list(client.list_series()) == []
        client.observe(frame)
        expected = client.forecast(sorted(set(frame["unique_id"])), horizon=3, quantile_levels=[0.1, 0.5])
        assert_frame_equal(result.forecasts, expected, rel_tol=1e-5)
        # Series of the same names are others.
        half = client.forecast_history(frame.filter(pl.col("ds") < START + dt.timedelta(hours=30)))
        assert half.forecasts["ds"].min() < expected["ds"].min()
        assert_frame_equal(client.forecast(["s0", "s1", "s2", "s3"], horizon=3, quantile_levels=[0.1, 0.5]), expected)
        assert client.get_series("s0").length == 60

        async def awaited() -> pl.DataFrame:
            async with AsyncForecastClient(server.address) as other:
                return (await other.forecast_history(frame, horizon=3, quantile_levels=[0.1, 0.5])).forecasts

        assert asyncio.run(awaited()).equals(result.forecasts)


def test_many_series_take_several_requests(servers: ServerFactory) -> None:
    frame = pl.concat([wander(20, 30), wander(1, 2).with_columns(unique_id=pl.lit("young"))])
    with ForecastClient(servers("--serving.max_request_observations=50").address) as client:
        result = client.forecast_history(frame)
        assert result.failures["unique_id"].to_list() == ["young"]
        assert result.forecasts["unique_id"].n_unique() == 20
        whole = client.forecast_history(frame.filter(unique_id="s7")).forecasts
        assert_frame_equal(result.forecasts.filter(unique_id="s7"), whole)
        with pytest.raises(InvalidArgumentError, match="60 in one request, 50 are allowed"):
            client.forecast_history(wander(1, 60))


def test_missing_steps_count(servers: ServerFactory) -> None:
    """What takes long is limited by how long it takes, not by how few rows say it."""
    rows = wander(1, 40)

    def later(hours: int) -> pl.DataFrame:
        return pl.concat([rows, rows.tail(1).with_columns(pl.col("ds") + dt.timedelta(hours=hours))])

    with ForecastClient(servers("--serving.max_request_observations=50").address) as client:
        assert len(client.forecast_history(later(10)).forecasts)
        with pytest.raises(InvalidArgumentError, match="51 steps, the missing ones between rows too, 50 are allowed"):
            client.forecast_history(later(11))


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        ({"options": {"calibrated": True}}, grpc.StatusCode.INVALID_ARGUMENT, "options.calibrated"),
        ({"options": {"horizon": 999}}, grpc.StatusCode.INVALID_ARGUMENT, "options.horizon"),
        ({"model": "nobody's"}, grpc.StatusCode.NOT_FOUND, "nobody's"),
        ({"columns": {"series_ids": ["a"]}}, grpc.StatusCode.INVALID_ARGUMENT, "not both"),
    ],
)
def test_what_is_wrong_is_said(
    change: dict[str, object], code: grpc.StatusCode, says: str, server: Server, client: ForecastClient
) -> None:
    request = forecast_service_pb2.ForecastHistoryRequest(**change)
    for name, time, value in wander(1, 40).select("unique_id", "ds", "y").iter_rows():
        request.observations.add(series_id=name, value=value).observation_time.FromDatetime(time)
    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as raised:
        ForecastServiceStub(channel).ForecastHistory(request)
    assert raised.value.code() is code
    assert says in raised.value.details()
    del request.observations[:]
    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as raised:
        ForecastServiceStub(channel).ForecastHistory(forecast_service_pb2.ForecastHistoryRequest())
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_row_that_fits_nowhere_refuses_all(server: Server) -> None:
    """Rows of a frame are sorted by the client: another's are in any order, and say two things of one time."""
    rows = wander(1, 40).select("unique_id", "ds", "y").rows()
    with grpc.insecure_channel(server.address) as channel:
        stub = ForecastServiceStub(channel)
        for odd, code in (
            ((rows[5][1], 99.0), "ALREADY_EXISTS"),
            ((rows[0][1] - dt.timedelta(hours=1), 1.0), "FAILED"),
        ):
            request = forecast_service_pb2.ForecastHistoryRequest()
            for name, time, value in [*rows, ("s0", *odd)]:
                request.observations.add(series_id=name, value=value).observation_time.FromDatetime(time)
            with pytest.raises(grpc.RpcError) as raised:
                stub.ForecastHistory(request)
            assert raised.value.code().name.startswith(code)
            request.observations.pop()
            answer = stub.ForecastHistory(request)
            assert np.isfinite(answer.forecasts[0].values[:]).all()
