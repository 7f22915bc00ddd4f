"""Watching forecasts: real servers; what changes comes once, the newest never stays out, and an end is got over."""

import asyncio
import datetime as dt
import itertools

import grpc
import polars as pl
import pytest

from forecaster.client import AsyncForecastClient, ForecastClient, ForecastResult, RetryPolicy
from forecaster.errors import InvalidArgumentError, ModelNotFoundError
from forecaster.v1 import forecast_service_pb2
from forecaster.v1.forecast_service_pb2_grpc import ForecastServiceStub
from tests.integration.conftest import START, Server, ServerFactory, make_bundle, register_bundle, wander
from tests.integration.nursery import Nursery

HISTORY = 60
PATIENT = RetryPolicy(timeout_seconds=120)


def origins(result: ForecastResult) -> dict[str, int]:
    """Return for each series of a result the hour that its forecast begins with."""
    first = result.forecasts.group_by("unique_id", maintain_order=True).agg(pl.col("ds").min())
    return {name: (time - START) // dt.timedelta(hours=1) for name, time in first.iter_rows()}


def test_what_is_comes_first_and_then_what_changes(server: Server, client: ForecastClient) -> None:
    client.observe(wander(3, HISTORY))
    with ForecastClient(server.address) as other:
        results = other.watch(["s1", "s0", "new"], horizon=2, quantile_levels=[0.1, 0.5])
        first = next(results)
        assert origins(first) == {"s1": HISTORY, "s0": HISTORY}
        assert first.failures["unique_id"].to_list() == ["new"]
        assert first.forecasts.equals(client.forecast(["s1", "s0"], horizon=2, quantile_levels=[0.1, 0.5]))
        client.observe(wander(3, HISTORY))  # nothing new
        client.observe(wander(3, 1, start=HISTORY).filter(unique_id="s2"))  # nobody's here
        client.observe(wander(3, 1, start=HISTORY).filter(unique_id="s0"))
        assert origins(next(results)) == {"s0": HISTORY + 1}
        with client.stream() as stream:
            stream.send(wander(2, 1, start=HISTORY + 1).filter(unique_id="s0"))
            assert origins(next(results)) == {"s0": HISTORY + 2}
        client.delete_series("s1")
        gone = next(results)
        assert (len(gone.forecasts), gone.failures["reason"].to_list()) == (0, ["SERIES_NOT_FOUND"])
        client.observe(wander(1, HISTORY).with_columns(unique_id=pl.lit("new")))
        assert origins(next(results)) == {"new": HISTORY}
        results.close()


def test_what_changes_while_nobody_reads_comes_as_it_is_by_then(server: Server, client: ForecastClient) -> None:
    """Ten megabytes in all: gRPC's windows take a few messages of one, and the server keeps names only."""
    ids = [f"s{k}" for k in range(400)]
    client.observe(wander(400, 30))
    request = forecast_service_pb2.WatchForecastsRequest(series_ids=ids)
    request.options.quantile_levels.extend(0.1 + 0.8 * k / 400 for k in range(400))
    hours = 20
    with grpc.insecure_channel(server.address) as channel:
        answers = ForecastServiceStub(channel).WatchForecasts(request)
        assert 0 < len(next(answers).forecasts) < 100
        for hour in range(30, 30 + hours):
            client.observe(wander(400, 1, start=hour))
        seen: dict[str, list[int]] = {name: [] for name in ids}
        last = int(START.timestamp()) + 3600 * (30 + hours - 1)
        for answer in answers:
            for forecast in answer.forecasts:
                seen[forecast.series_id].append(forecast.origin_time.seconds)
            if all(origin and origin[-1] == last for origin in seen.values()):
                break
        answers.cancel()
    for times in seen.values():
        assert all(before <= after for before, after in itertools.pairwise(times))
    assert sum(map(len, seen.values())) < 400 * hours


def test_an_end_of_the_server_is_got_over(servers: ServerFactory) -> None:
    async def play() -> None:
        server = servers()
        port = f"--serving.port={server.address.rsplit(':', 1)[1]}"
        async with AsyncForecastClient(server.address, retry=PATIENT) as client:
            await client.observe(wander(2, HISTORY))
            results = client.watch(["s0", "s1"])
            assert origins(await anext(results)) == {"s0": HISTORY, "s1": HISTORY}
            for kill in (True, False):
                waiting = asyncio.ensure_future(anext(results))
                await asyncio.to_thread(server.kill if kill else server.stop)
                server = await asyncio.to_thread(servers, port)
                again = await waiting
                assert set(origins(again)) == {"s0", "s1"}
            await client.observe(wander(2, 1, start=HISTORY))
            changed: dict[str, int] = {}
            while changed != {"s0": HISTORY + 1, "s1": HISTORY + 1}:
                changed |= origins(await anext(results))
            await results.aclose()

    asyncio.run(play())


def test_another_version_is_a_new_forecast_of_all(tracking: object, tmp_path: object, nursery: Nursery) -> None:
    first = make_bundle()
    register_bundle(tracking, first)
    factory = ServerFactory(tracking, first, tmp_path, nursery)
    try:
        with ForecastClient(factory("--serving.poll_seconds=3600").address) as client:
            client.observe(wander(3, HISTORY))
            results = client.watch(["s0", "s1", "s2"])
            before = next(results)
            register_bundle(tracking, make_bundle(seed=11))
            client.activate_model("2")
            after = next(results)
            while set(after.forecasts["unique_id"]) != {"s0", "s1", "s2"}:
                after = next(results)
            assert origins(after) == origins(before)
            assert not after.forecasts.equals(before.forecasts)
            assert after.forecasts.equals(client.forecast(["s0", "s1", "s2"]))
            results.close()
    finally:
        factory.end()


def test_what_is_wrong_is_said_at_once(server: Server, client: ForecastClient) -> None:
    with pytest.raises(InvalidArgumentError, match="beyond the model's horizon"):
        next(client.watch(["s0"], horizon=999))
    with pytest.raises(InvalidArgumentError, match="it is empty"):
        next(client.watch([]))
    with ForecastClient(server.address, model="nobody's") as other, pytest.raises(ModelNotFoundError):
        next(other.watch(["s0"]))
    request = forecast_service_pb2.WatchForecastsRequest(series_ids=["s0"])
    request.options.future_covariates.add()
    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError, match="call Forecast"):
        next(ForecastServiceStub(channel).WatchForecasts(request))
