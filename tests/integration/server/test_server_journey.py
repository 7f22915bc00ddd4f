"""A real server process over real gRPC: the API, and what survives its end."""

import asyncio
import datetime as dt
import pathlib
import signal
import time

import numpy as np
import polars as pl
import pytest
import torch

from forecaster.client import AsyncForecastClient, ForecastClient
from forecaster.data.windows import latest_segments
from forecaster.errors import SeriesNotFoundError
from forecaster.model.bundle import Bundle
from forecaster.model.inputs.observations import Observations
from tests.integration.conftest import START, Server, ServerFactory, wander


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


def test_an_id_of_any_script_is_taken(client: ForecastClient) -> None:
    name = "店舗\u3000A\u00a0é"
    assert client.observe(wander(1, 3).with_columns(unique_id=pl.lit(name))).applied == 3
    assert client.get_series(name).length == 3


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
