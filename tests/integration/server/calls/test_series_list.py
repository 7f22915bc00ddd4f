"""The list of series, by prefix and page by page: a real server."""

import subprocess
import sys

import grpc
import polars as pl
import pytest

from forecaster.client import ForecastClient
from forecaster.v1.forecast_service_pb2 import ListSeriesRequest
from forecaster.v1.forecast_service_pb2_grpc import ForecastServiceStub
from tests.integration.conftest import Server, wander

NAMES = ["meter", "meter/1", "meter/10", "meter/2", "mete", "metes", "zähler/1"]


@pytest.fixture
def listed(client: ForecastClient) -> ForecastClient:
    client.observe(pl.concat([wander(1, 30).with_columns(unique_id=pl.lit(name)) for name in NAMES]))
    return client


def test_a_list_has_those_that_begin_with_the_prefix(listed: ForecastClient, server: Server) -> None:
    for prefix in ("", "meter", "meter/", "meter/1", "zä", "nothing"):
        expected = sorted(name for name in NAMES if name.startswith(prefix))
        assert [info.unique_id for info in listed.list_series(prefix)] == expected
    words = ["series", "--server", server.address, "--prefix", "meter/", "--output", "-"]
    done = subprocess.run([sys.executable, "-m", "forecaster", *words], capture_output=True, text=True, check=False)
    assert [line.split(",")[0] for line in done.stdout.splitlines()] == ["unique_id", "meter/1", "meter/10", "meter/2"]


def test_a_page_goes_on_in_its_own_list_only(listed: ForecastClient, server: Server) -> None:
    with grpc.insecure_channel(server.address) as channel:
        stub, found, token = ForecastServiceStub(channel), [], ""
        while True:
            page = stub.ListSeries(ListSeriesRequest(page_size=2, page_token=token, prefix="meter"))
            assert page.total_size == len(NAMES)
            found += [series.series_id for series in page.series]
            token = page.next_page_token
            if not token:
                break
            kept = token
        assert found == ["meter", "meter/1", "meter/10", "meter/2"]
        for prefix in ("", "mete", "meter/"):
            with pytest.raises(grpc.RpcError, match="page_token") as refused:
                stub.ListSeries(ListSeriesRequest(page_token=kept, prefix=prefix))
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.RpcError, match="prefix: 257 characters, 256 are allowed"):
            stub.ListSeries(ListSeriesRequest(prefix="m" * 257))
