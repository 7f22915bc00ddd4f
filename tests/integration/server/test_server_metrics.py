"""A real server, scraped over HTTP while it observes and forecasts."""

import asyncio
import re
import threading
import time
import urllib.error
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from forecaster.client import AsyncForecastClient, ForecastClient, RetryPolicy
from forecaster.errors import SeriesNotFoundError
from tests.integration.conftest import Server, ServerFactory, wander


def metrics_url(server: Server) -> str:
    (url,) = re.findall(r"metrics on (http://\S+)", server.log.read_text())
    return str(url)


def scrape(url: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    with urllib.request.urlopen(url, timeout=60) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        text = answer.read().decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def at(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return f"forecaster_{name}", frozenset(labels.items())


def test_a_server_is_scraped_while_it_works(servers: ServerFactory) -> None:
    server = servers("--serving.metrics_port=0", "--serving.snapshot_seconds=0.2")
    url, model = metrics_url(server), servers.tracking.model
    seen: list[dict[tuple[str, frozenset[tuple[str, str]]], float]] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            seen.append(scrape(url))
            time.sleep(0.01)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        with ForecastClient(server.address, retry=RetryPolicy(timeout_seconds=60)) as client:
            assert client.observe(wander(3, 40)).applied == 120
            assert client.observe(wander(3, 40)).duplicates == 120
            for hour in range(40, 60):
                client.observe(wander(3, 1, start=hour))
                client.forecast(["s0", "s1"], horizon=6)
            with client.stream(horizon=3) as stream:
                stream.send(wander(3, 1, start=60))
            with pytest.raises(SeriesNotFoundError):
                client.get_series("nobody")
    finally:
        stop.set()
        watching.join(180)
    deadline = time.monotonic() + 180
    wanted = at("live_scored_forecasts", model=model, version="1", horizon="1")
    while not (last := scrape(url)).get(wanted) or last[at("series_unsaved", model=model, version="1")]:
        assert time.monotonic() < deadline, last
        time.sleep(0.05)

    assert last[at("ready")] == 1
    assert last[at("observations_total", model=model, outcome="applied")] == 120 + 3 * 21
    assert last[at("observations_total", model=model, outcome="duplicate")] == 120
    assert last[at("forecasts_total", model=model)] == 2 * 20 + 3
    assert last[at("series", model=model, version="1")] == 3
    assert last[at("rpcs_total", method="Forecast", code="OK")] == 20
    assert last[at("rpcs_total", method="StreamForecasts", code="OK")] == 1
    assert last[at("rpcs_total", method="GetSeries", code="NOT_FOUND")] == 1
    assert last[at("rpc_duration_seconds_count", method="Forecast")] == 20
    assert last[at("rpc_duration_seconds_count", method="StreamForecasts")] == 1
    assert last[at("rpc_duration_seconds_bucket", method="Forecast", le="+Inf")] == 20
    assert 0 < last[at("rpc_duration_seconds_sum", method="Forecast")] < 60
    assert last["process_cpu_seconds_total", frozenset()] > 0
    assert abs(last[at("snapshot_round_timestamp_seconds", model=model)] - time.time()) < 20

    assert len(seen) > 3
    for key in (key for key in last if key[0].endswith(("_total", "_bucket", "_count"))):
        values = [one.get(key, 0.0) for one in (*seen, last)]
        assert values == sorted(values), key  # counters never fall

    assert server.stop() == 0
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(url, timeout=60)


async def stream_by_asyncio(address: str) -> None:
    """Let two streams end: one with a frame at a time, and one with several under way at once."""
    async with AsyncForecastClient(address, retry=RetryPolicy(timeout_seconds=60)) as client:
        async with client.stream(horizon=3) as stream:
            assert (await stream.send(wander(3, 1, start=40))).observed.applied == 3
        async with client.stream(horizon=3) as stream:
            for hour in range(41, 46):
                await stream.send_nowait(wander(3, 1, start=hour))
            assert [reply.observed.applied async for reply in stream] == [3] * 5


def test_an_asyncio_stream_whose_frames_have_answers_ends_as_a_call_that_succeeded(servers: ServerFactory) -> None:
    server = servers("--serving.metrics_port=0")
    url = metrics_url(server)
    with ForecastClient(server.address) as client:
        client.observe(wander(3, 40))
    asyncio.run(stream_by_asyncio(server.address))
    deadline = time.monotonic() + 180
    while sum((codes := stream_codes(scrape(url))).values()) != 2:
        assert time.monotonic() < deadline, codes
        time.sleep(0.05)
    assert codes == {"OK": 2}


def stream_codes(scraped: dict[tuple[str, frozenset[tuple[str, str]]], float]) -> dict[str, float]:
    """Return how many streams have ended, by their code."""
    counts = {tuple(sorted(labels)): count for (name, labels), count in scraped.items() if name == at("rpcs_total")[0]}
    return {dict(labels)["code"]: n for labels, n in counts.items() if dict(labels)["method"] == "StreamForecasts"}


def test_none_is_served_unless_it_is_asked_for(server: Server) -> None:
    assert "metrics" not in server.log.read_text()


def test_a_taken_port_is_said_in_one_line(servers: ServerFactory) -> None:
    port = metrics_url(servers("--serving.metrics_port=0")).split(":")[2].split("/")[0]
    line = servers.refused(f"--serving.metrics_port={port}", state="other")
    assert f"port {port}" in line
    assert "--serving.metrics_port" in line
