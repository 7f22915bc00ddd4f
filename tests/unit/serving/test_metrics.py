"""What Prometheus is told, beside what is known otherwise: a whole model without gRPC, over its life."""

import asyncio
import contextlib
import pathlib
import time
import urllib.error
import urllib.request
from bisect import bisect_left
from collections.abc import AsyncIterator

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from forecaster.config import ServingConfig, TrackingConfig
from forecaster.errors import ConfigError, InvalidArgumentError
from forecaster.registry.registry import RegisteredModel
from forecaster.serving.api.handlers import add_service
from forecaster.serving.api.health import HEALTH, HealthServicer
from forecaster.serving.backend import Backend, Phase
from forecaster.serving.calibration.live_scores import LiveReport
from forecaster.serving.counters import BOUNDS_SECONDS, Calls
from forecaster.serving.host import Host, ModelSource
from forecaster.serving.intake.decoding import Intake
from forecaster.serving.metrics import ServerCollector, exposed
from forecaster.serving.storage.opening import open_storage
from forecaster.serving.swap.version import ModelState, Version
from forecaster.serving.work.forecasting import ForecastWork
from tests.unit.serving.calibration.calibrating import GAUSSIAN, Series, calibration
from tests.unit.serving.folding import BUNDLE, columns, make_bundle

LEVELS = (0.1, 0.5, 0.9)


class Scrape:
    """One exposition, parsed."""

    def __init__(self, text: str) -> None:
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self._samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families.values()
            for sample in family.samples
        }
        assert len(self._samples) == sum(len(family.samples) for family in self.families.values())  # none stands twice

    def __call__(self, name: str, **labels: str) -> float:
        return self._samples[f"forecaster_{name}", frozenset(labels.items())]

    def labels(self, name: str) -> list[dict[str, str]]:
        return [dict(labels) for sample, labels in self._samples if sample == f"forecaster_{name}"]


def scrape(backend: Backend) -> Scrape:
    registry = CollectorRegistry()
    registry.register(ServerCollector(backend))
    return Scrape(generate_latest(registry).decode())


@contextlib.asynccontextmanager
async def running(folder: pathlib.Path) -> AsyncIterator[tuple[Host, Backend]]:
    config = ServingConfig(durability="none", metrics_port=0, max_queued_observations=70_000)
    registered = RegisteredModel("load", "7", "", "")
    with contextlib.closing(open_storage(str(folder), "none", "load")) as storage:
        host = Host(ModelSource(TrackingConfig(model="load"), registered, BUNDLE, storage), config, lambda error: None)
        host.start()
        await host.recover(lambda: False)
        yield host, Backend([host.served], config)
        assert await host.drain(10)
        host.close()


def test_a_model_before_it_has_done_anything(tmp_path: pathlib.Path) -> None:
    async def play() -> None:
        async with running(tmp_path) as (_, backend):
            seen = scrape(backend)
            assert seen("ready") == 0
            backend.phase = Phase.SERVING
            assert scrape(backend)("ready") == 1
            for name in ("series", "series_resident", "series_unsaved"):
                assert seen(name, model="load", version="7") == 0
            assert seen("observations_total", model="load", outcome="applied") == 0
            assert seen("queue_limit_rows", model="load") == 70_000
            assert seen("series_limit", kind="registered") == 10_000_000
            assert seen("version_state", model="load", version="7", state="active") == 1
            assert not seen.labels("live_mase")
            assert not seen.labels("rpcs_total")

    asyncio.run(play())


def test_what_an_engine_did_is_what_it_answered(tmp_path: pathlib.Path) -> None:
    async def play() -> None:
        async with running(tmp_path) as (host, backend):
            batcher = host.served.batcher
            await batcher.observe(columns([("a", 0, 1.0), ("a", 1, 2.0), ("b", 0, 1.0)]))
            await batcher.observe(columns([("a", 1, 2.0), ("a", 1, 3.0), ("a", 2, 2.0)]))
            await batcher.forecast(ForecastWork(("a", "b", "nobody"), 3, LEVELS))
            seen = scrape(backend)
            for outcome, count in (("applied", 4), ("duplicate", 1), ("rejected", 1)):
                assert seen("observations_total", model="load", outcome=outcome) == count
            assert seen("forecasts_total", model="load") == 2
            reason = "CONFLICTING_VALUE"
            assert seen("rejected_observations_total", model="load", reason=reason) == 1
            assert seen("turns_total", model="load") == 3
            assert seen("queue_rows", model="load") == 0
            journal = host.served.engine.storage.journal
            assert seen("journal_last_sequence", model="load") == journal.last_sequence() > 0
            assert seen("series", model="load", version="7") == 2
            assert seen("series_unsaved", model="load", version="7") == 2

            before = time.time()
            await host.served.maintenance.round()
            await batcher.observe(columns([("a", 3, 1.0)]))
            await batcher.call(lambda: host.served.engine.delete("b"))
            seen = scrape(backend)
            assert before <= seen("snapshot_round_timestamp_seconds", model="load") <= time.time()
            assert seen("series_unsaved", model="load", version="7") == 1
            assert seen("series_resident", model="load", version="7") == 1
            assert seen("journal_last_sequence", model="load") == journal.last_sequence()

    asyncio.run(play())


def test_a_deleted_series_is_not_unsaved_nor_is_the_next_one_in_its_slot(tmp_path: pathlib.Path) -> None:
    async def play() -> None:
        async with running(tmp_path) as (host, backend):
            await host.served.batcher.observe(columns([("a", 0, 1.0), ("b", 0, 1.0)]))
            await host.served.batcher.call(lambda: host.served.engine.delete("b"))
            assert scrape(backend)("series_unsaved", model="load", version="7") == 1
            await host.served.maintenance.round()
            assert scrape(backend)("series_unsaved", model="load", version="7") == 0
            await host.served.batcher.observe(columns([("c", 0, 1.0)]))
            assert scrape(backend)("series_unsaved", model="load", version="7") == 1

    asyncio.run(play())


def test_live_scores_are_the_mean_over_the_series(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forecaster.serving.upkeep.maintenance._SCORED_AT_ONCE", 2)  # several parts of few series
    names = tuple(f"s{k}" for k in range(5))
    rng = np.random.default_rng(0)

    async def play() -> None:
        async with running(tmp_path) as (host, backend):
            for hour in range(40):
                await host.served.batcher.observe(columns([(name, hour, float(rng.normal())) for name in names]))
                await host.served.batcher.forecast(ForecastWork(names[:4], 5, LEVELS))  # the last one has no scores
            await host.served.maintenance.score()
            each = [host.served.engine.describe(name).live for name in names[:4]]
            seen = scrape(backend)
            for k, score in enumerate(each[0]):
                at = {"model": "load", "version": "7", "horizon": str(score.horizon)}
                scores = [one[k] for one in each]
                assert min(one.scored for one in scores) > 0
                assert seen("live_scored_forecasts", **at) == sum(one.scored for one in scores)
                assert seen("live_mase", **at) == pytest.approx(np.mean([one.mase for one in scores]))
                assert seen("live_bias", **at) == pytest.approx(np.mean([one.bias for one in scores]))
                raw = np.mean([one.coverage for one in scores])
                corrected = np.mean([one.calibrated_coverage for one in scores])
                assert seen("live_coverage_ratio", interval="raw", **at) == pytest.approx(raw)
                assert seen("live_coverage_ratio", interval="calibrated", **at) == pytest.approx(corrected)
                assert seen("live_nominal_coverage_ratio", **at) == pytest.approx(score.nominal)
            assert len(seen.labels("live_mase")) == len(each[0]) > 1

    asyncio.run(play())


def test_reports_join(tmp_path: pathlib.Path) -> None:
    sums = np.random.default_rng(1).uniform(0, 3, (7, 2, 5)).astype(np.float32)
    sums[2] = 0
    whole = LiveReport.of_sums((1, 6), 0.8, sums)
    parts = [LiveReport.of_sums((1, 6), 0.8, sums[rows]) for rows in (slice(0, 3), slice(3, 3), slice(3, 7))]
    assert LiveReport.joined(parts).mean() == whole.mean()


def test_one_mad_value_moves_no_fleet() -> None:
    """Of fifty series whose errors are half a unit, one gets a value of 1e150."""
    rng, names = np.random.default_rng(0), tuple(map(str, range(50)))
    series = Series(calibration(1), names)
    series.observe({i: series.next_run(i, [0.0]) for i in range(50)})
    reports = []
    for values in (rng.laplace(scale=0.5, size=(80, 50)), [[*[0.5] * 49, 1e150]]):
        for row in values:
            series.forecast(range(50), np.broadcast_to(GAUSSIAN, (50, 1, len(GAUSSIAN))).copy())
            series.observe({i: series.next_run(i, [float(value)]) for i, value in enumerate(row)})
        reports.append(series.calibration.report(series.tensors, series.slots).mean()[0])
    before, after = reports
    assert before.mase == pytest.approx(0.5, rel=0.1)
    assert after.mase == pytest.approx(before.mase, rel=0.05)
    assert after.mase_median == pytest.approx(before.mase_median, rel=0.02)
    assert after.bias == pytest.approx(before.bias, abs=0.02)


def test_versions_that_come_up_are_shown_and_old_ones_are_not(tmp_path: pathlib.Path) -> None:
    async def play() -> None:
        async with running(tmp_path) as (host, backend):
            versions, engine = host.served.versions, host.served.engine
            known = versions._versions
            known["5"] = Version(RegisteredModel("load", "5", "", ""), ModelState.FAILED, changed=0.0)
            known["6"] = Version(RegisteredModel("load", "6", "", ""), ModelState.RETIRED)
            known["8"] = Version(RegisteredModel("load", "8", "", ""), ModelState.REBUILDING, progress=0.25)
            await host.served.batcher.observe(columns([("a", 0, 1.0)]))
            engine.lanes.begin(engine.make_lane(make_bundle(seed=8), "8", empty=True))
            seen = scrape(backend)
            shown = {(one["version"], one["state"]) for one in seen.labels("version_state")}
            assert shown == {("7", "active"), ("8", "rebuilding")}
            assert seen("version_progress_ratio", model="load", version="8") == 0.25
            assert seen("series", model="load", version="7") == 1
            assert seen("series", model="load", version="8") == 0
            engine.lanes.abandon()

    asyncio.run(play())


def test_calls_are_counted_by_how_they_ended() -> None:
    calls = Calls()
    durations = (0.0004, 0.001, 0.3, 60.0)
    for seconds in durations:
        calls.took("Observe", seconds)
    taken = calls.durations()["Observe"]
    assert [taken.counts[bisect_left(BOUNDS_SECONDS, one)] for one in durations] == [2, 2, 1, 1]
    assert taken.counts[-1] == 1
    assert taken.seconds == pytest.approx(sum(durations))

    class Servicer(HealthServicer):
        async def Check(self, request, call):  # noqa: N802
            if request.service == "bad":
                raise InvalidArgumentError("bad")
            if request.service == "defect":
                raise RuntimeError("a defect")
            return await super().Check(request, call)

    async def play() -> None:
        server = grpc.aio.server()
        servicer = Servicer((), Intake(10, 10**6))
        servicer.calls = calls
        add_service(server, HEALTH, servicer)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                called = health_pb2_grpc.HealthStub(channel).Check
                assert (await called(health_pb2.HealthCheckRequest())).status == 2
                for name in ("bad", "defect"):
                    with pytest.raises(grpc.aio.AioRpcError):
                        await called(health_pb2.HealthCheckRequest(service=name))
                with pytest.raises(grpc.aio.AioRpcError, match="no HealthCheckRequest"):
                    await channel.unary_unary("/grpc.health.v1.Health/Check")(b"\xff")
        finally:
            await server.stop(grace=None)

    asyncio.run(play())
    assert calls.by_code() == {("Check", "OK"): 1, ("Check", "INVALID_ARGUMENT"): 2, ("Check", "INTERNAL"): 1}
    assert calls.by_reason() == {("Check", "INVALID_ARGUMENT"): 2, ("Check", "INTERNAL"): 1}
    assert sum(calls.durations()["Check"].counts) == 4


def test_the_port_answers_while_the_block_runs_and_a_taken_one_is_said(tmp_path: pathlib.Path) -> None:
    async def play() -> None:
        async with running(tmp_path) as (_, backend):
            with exposed(backend) as port:
                assert port
                url = f"http://127.0.0.1:{port}/metrics"
                answer = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=60).read())
                seen = Scrape(answer.decode())
                assert seen("ready") == 0
                assert seen.families["process_resident_memory_bytes"].samples[0].value > 1e6
                taken = Backend(backend.models, ServingConfig(metrics_port=port))
                with pytest.raises(ConfigError, match=f"port {port}.*metrics_port"), exposed(taken):
                    pass
            with pytest.raises(urllib.error.URLError):
                await asyncio.to_thread(urllib.request.urlopen, url, timeout=10)
            with exposed(Backend(backend.models, ServingConfig())) as none:
                assert none is None

    asyncio.run(play())


@pytest.mark.parametrize("port", [-1, 65_536])
def test_a_port_is_a_port(port: int) -> None:
    with pytest.raises(ConfigError, match=r"serving\.metrics_port"):
        ServingConfig(metrics_port=port)
