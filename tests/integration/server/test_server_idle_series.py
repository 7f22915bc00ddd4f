"""A real server lets go of series that nobody observes: clients notice nothing when one of them is observed again."""

import asyncio
import time

import numpy as np
import polars as pl
import pytest

from forecaster.client import AsyncForecastClient, ForecastClient, RetryPolicy
from forecaster.errors import SeriesNotFoundError
from forecaster.model.bundle import Bundle
from tests.integration.conftest import ServerFactory, wander
from tests.integration.server.test_server_journey import offline

PATIENCE = RetryPolicy(timeout_seconds=180, first_delay_seconds=0.01)
IDS = ["s0", "s1", "s2", "s3"]
OPTIONS = ("--serving.series_idle_seconds", "0.3", "--serving.snapshot_seconds", "0.1")


def until_idle(client: ForecastClient) -> None:
    """Wait until the server has let go of every series."""
    deadline = time.monotonic() + 180
    while list(client.list_series()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def assert_offline(bundle: Bundle, client: ForecastClient, frame: pl.DataFrame) -> None:
    """Every series' forecast is the offline model's; series may be idle by now, and come back with a repetition."""
    expected = offline(bundle, frame)
    last = frame.group_by("unique_id", maintain_order=True).last()
    for name in sorted(IDS):
        for _ in range(1000):
            client.observe(last.filter(pl.col("unique_id") == name))
            try:
                found = client.forecast([name])
            except SeriesNotFoundError:  # idle again
                continue
            break
        at = sorted(IDS).index(name)
        for k, level in enumerate(bundle.model.config.quantile_levels):
            np.testing.assert_allclose(found[f"q{level:g}"].to_numpy(), expected[at, :, k], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("how", ["observe", "stream", "observe async", "stream async", "killed"])
def test_a_series_comes_back_when_it_is_observed(servers: ServerFactory, how: str) -> None:
    server = servers(*OPTIONS)
    frame = wander(4, 40).sort("ds", maintain_order=True)
    past, rest = frame.head(4 * 30), frame.tail(4 * 10)
    with ForecastClient(server.address, retry=PATIENCE) as client:
        client.observe(past)
        until_idle(client)
        with pytest.raises(SeriesNotFoundError, match=r"is idle.*observe it"):
            client.forecast(["s1"])
        if how == "killed":
            server.kill()
            server = servers(*OPTIONS)
    with ForecastClient(server.address, retry=PATIENCE) as client:
        if how == "stream":
            with client.stream() as stream:
                for hour in rest.partition_by("ds", maintain_order=True):
                    assert stream.send(hour).observed.rejected.is_empty()
        elif "async" in how:
            asyncio.run(observe(server.address, rest, stream="stream" in how))
        else:
            client.observe(rest)
        assert_offline(servers.bundle, client, frame)
        client.delete_series("s1")
        until_idle(client)
        client.delete_series("s2")
        with pytest.raises(SeriesNotFoundError, match="no series 's2'"):
            client.get_series("s2")


async def observe(address: str, frame: pl.DataFrame, *, stream: bool) -> None:
    async with AsyncForecastClient(address, retry=PATIENCE) as client:
        if not stream:
            await client.observe(frame)
            return
        async with client.stream() as one:
            for hour in frame.partition_by("ds", maintain_order=True):
                assert (await one.send(hour)).observed.rejected.is_empty()
