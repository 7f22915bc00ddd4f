"""A real server's metrics page: what of it comes to MLflow, and what it lets the scheduler ask for."""

import io
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import polars as pl
import pytest
import torch
import yaml
from mlflow import MlflowClient

from forecaster.client import ForecastClient, RetryPolicy
from forecaster.config import Config, ModelConfig, ScheduleConfig, TrackingConfig, to_dict
from forecaster.data.windows import to_segments
from forecaster.errors import UnavailableError
from forecaster.evaluation.rolling import rolling_origin
from forecaster.model.bundle import Bundle
from forecaster.model.seq2seq import Seq2Seq
from forecaster.registry import registry
from pipelines.memory import Memory
from pipelines.watching.metrics_page import MetricsPage, fetch
from pipelines.watching.reference import served
from pipelines.watching.serving_quality import EXPERIMENT, monitor
from pipelines.watching.watch import memory_path
from tests.integration.conftest import HOUR_US, Server, ServerFactory, register_bundle, wander
from tests.integration.nursery import Nursery
from tests.integration.pipelines.scheduling import Played, scheduled, until_signalled

SERIES, HISTORY, HORIZON = 8, 150, 4
EVERY_LOOK = ("--serving.metrics_port=0", "--serving.snapshot_seconds=0.1", "--serving.poll_seconds=0.3")


def bundle(seed: int) -> Bundle:
    """Return a small model that nobody has trained."""
    torch.manual_seed(seed)
    config = ModelConfig(
        hidden_size=8, decoder_size=8, horizon=HORIZON, season_lengths=(12,), timescale=168, min_history=12
    )
    return Bundle.of(Seq2Seq(config, HOUR_US), frequency="1h", max_gap_steps=48)


@pytest.fixture(scope="module")
def template(empty_store: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Return the folder of a store with a champion, whose run says how good it is on the first hours."""
    folder = tmp_path_factory.mktemp("template")
    (folder / "mlflow.db").write_bytes(empty_store.read_bytes())
    tracking, model = TrackingConfig(uri=f"sqlite:///{folder / 'mlflow.db'}"), bundle(3)
    register_bundle(tracking, model)
    segments = to_segments(wander(SERIES, HISTORY), HOUR_US, 48)
    backtest = rolling_origin(model.model, segments, first_time_us=segments[0].start_us + 60 * HOUR_US)
    client, run_id = registry.connect(tracking), registry.resolve(tracking).run_id
    for step, value in enumerate(backtest.mase_by_horizon, start=1):
        client.log_metric(run_id, "mase_by_horizon", value, step=step)
    for name, value in backtest.metrics().items():
        client.log_metric(run_id, name, value)
    return folder


@pytest.fixture
def store(template: pathlib.Path, tmp_path: pathlib.Path) -> TrackingConfig:
    """Return a store of the test's own."""
    shutil.copytree(template, tmp_path / "store")
    return TrackingConfig(uri=f"sqlite:///{tmp_path / 'store' / 'mlflow.db'}")


@pytest.fixture
def start(store: TrackingConfig, tmp_path: pathlib.Path, nursery: Nursery) -> Iterator[Callable[[], Server]]:
    """Return what starts servers of that store."""
    factory = ServerFactory(store, bundle(3), tmp_path, nursery)
    yield lambda: factory(*EVERY_LOOK)
    factory.end()


def metrics_url(server: Server) -> str:
    (url,) = re.findall(r"metrics on (http://\S+)", server.log.read_text())
    return str(url)


def serving_runs(client: MlflowClient) -> list[Any]:
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        return []
    return list(client.search_runs([found.experiment_id], order_by=["attributes.start_time ASC"]))


def until(condition: Callable[[], bool], seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def walk_on(client: ForecastClient, first: int, steps: int, shift: float = 0.0) -> None:
    """Forecast before every step, and observe it."""
    frame = wander(SERIES, steps, start=first).with_columns(pl.col("y") + shift)
    ids = frame["unique_id"].unique(maintain_order=True).to_list()
    for (_,), rows in frame.group_by("ds", maintain_order=True):
        client.forecast(ids, horizon=HORIZON)
        client.observe(rows)


def page(server: Server, tracking: TrackingConfig) -> MetricsPage:
    return fetch(metrics_url(server), tracking.model)


def test_new_observations_ask_for_a_retraining_also_over_restarts(
    start: Callable[[], Server], store: TrackingConfig, tmp_path: pathlib.Path
) -> None:
    server = start()
    options = {"metrics_url": metrics_url(server), "poll_seconds": 0.1, "drift": False, "new_observations": 400}
    config = scheduled(tmp_path, store, **options)
    played, again = Played(tmp_path, config), Played(tmp_path, config)
    with ForecastClient(server.address, retry=RetryPolicy(timeout_seconds=60)) as client:
        client.observe(wander(SERIES, 40))  # before anybody looks

        def first() -> None:
            played.until(lambda: memory_path(config).exists())
            client.observe(wander(SERIES, 30, start=40))
            played.until(lambda: Memory.load(memory_path(config)).observations == 240)

        played.play(first)
        assert played.triggers() == []
        client.observe(wander(SERIES, 10, start=70))  # while nobody looks

        def second() -> None:
            again.until(lambda: Memory.load(memory_path(config)).observations == 320)
            client.observe(wander(SERIES, 10, start=80))
            again.until(lambda: again.count("end") == 1)
            client.observe(wander(SERIES, 5, start=90))
            again.until(lambda: Memory.load(memory_path(config)).observations == 40)

        again.play(second)
    assert again.triggers() == ["new_observations"]
    assert "400 new observations" in again.stream.getvalue()


def test_drift_asks_once_and_is_said_on_the_dashboard(
    start: Callable[[], Server], store: TrackingConfig, tmp_path: pathlib.Path
) -> None:
    server = start()
    config = scheduled(tmp_path, store, metrics_url=metrics_url(server), poll_seconds=0.1, min_scored=100)
    played = Played(tmp_path, config)
    reference = served(store, "1").reference
    assert sorted(reference.mase) == [1, 2, 3, 4]
    assert 0 < reference.coverage[0.8] < 1
    with ForecastClient(server.address, retry=RetryPolicy(timeout_seconds=60)) as client:
        client.observe(wander(SERIES, 60))

        def script() -> None:
            walk_on(client, 60, HISTORY - 60)
            scored = {one.horizon: one.scored for one in page(server, store).live}
            played.until(
                lambda: (
                    {int(h): one["scored"] for h, one in Memory.load(memory_path(config)).drift["horizons"].items()}[1]
                    > 500
                )
            )
            assert scored.keys() == {1, 2, 4}
            assert played.triggers() == []  # as good as in the backtest
            for first in range(HISTORY, HISTORY + 40):
                if not played.triggers():
                    walk_on(client, first, 1, shift=300.0)
                    time.sleep(0.15)
            played.until(lambda: played.count("end") == 1)
            walk_on(client, HISTORY + 40, 5, shift=300.0)
            time.sleep(0.5)  # some more looks

        played.play(script)
    assert played.triggers() == ["drift"]
    said = played.stream.getvalue()
    assert re.search(r"watch: drift: the live (MASE|bias) \d steps? ahead", said), said
    (run,) = serving_runs(registry.connect(store))
    assert run.data.tags["mlflow.note.content"].startswith("Drift: the live ")


def test_each_served_version_has_a_run_that_goes_on(
    start: Callable[[], Server], store: TrackingConfig, tmp_path: pathlib.Path
) -> None:
    server, client = start(), registry.connect(store)
    schedule = ScheduleConfig(metrics_url=metrics_url(server), poll_seconds=0.2)
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(to_dict(Config(tracking=store, schedule=schedule))))
    command = [sys.executable, "-m", "pipelines", "monitor", "--config", str(file)]
    environment = {**os.environ, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    with ForecastClient(server.address, retry=RetryPolicy(timeout_seconds=60)) as requests:
        requests.observe(wander(SERIES, 60))
        walk_on(requests, 60, 10)
        config, stream = Config(tracking=store, schedule=schedule), io.StringIO()
        watched = until_signalled(lambda: monitor(config, stream=stream), lambda: until(lambda: len(seen(client)) > 2))
        assert (watched, stream.getvalue()) == (0, "")
        known = len(seen(client))
        with subprocess.Popen(command, env=environment) as process:
            try:
                until(lambda: len(seen(client)) > known)
                register_bundle(store, bundle(4))
                until(lambda: len(serving_runs(client)) == 2)
            finally:
                process.terminate()
                assert process.wait(180) == 0
    first, second = serving_runs(client)
    assert [one.info.status for one in (first, second)] == ["FINISHED"] * 2
    assert [one.data.tags["model_version"] for one in (first, second)] == ["1", "2"]
    assert {one.data.tags["model_name"] for one in (first, second)} == {store.model}
    # The last look may have been when its series had all moved to the second version already.
    assert max(one.value for one in client.get_metric_history(first.info.run_id, "live_scored/horizon_1")) > 0
    assert first.data.metrics["live_nominal/horizon_1"] == pytest.approx(0.8)
    assert {f"live_{name}/horizon_1" for name in ("mase", "bias", "coverage", "calibrated_coverage")} <= set(
        first.data.metrics
    )
    counts = {"forecasts_total": 80.0, "observations_applied_total": SERIES * 70.0}
    assert {name: first.data.metrics[name] for name in counts} == counts
    assert first.data.metrics["requests_total"] > 10
    resident = client.get_metric_history(first.info.run_id, "series_resident")
    assert max(one.value for one in resident) == SERIES
    model_id = registry.resolve(store, "1").model_id
    assert model_id.startswith("m-")
    inputs = client.get_run(first.info.run_id).inputs.model_inputs
    assert [one.model_id for one in inputs] == [model_id]
    linked = client.get_logged_model(model_id).metrics or []
    assert "live_mase/horizon_1" in {one.key for one in linked}
    assert client.get_experiment_by_name(EXPERIMENT).artifact_location == str(tmp_path / "store" / "mlartifacts")


def seen(client: MlflowClient) -> list[Any]:
    runs = serving_runs(client)
    return list(client.get_metric_history(runs[0].info.run_id, "live_mase/horizon_1")) if runs else []


def test_a_server_that_is_not_there_or_is_none_of_ours_is_said_in_one_line(
    start: Callable[[], Server], store: TrackingConfig
) -> None:
    with pytest.raises(UnavailableError, match="cannot be read"):
        fetch("http://127.0.0.1:9/metrics", store.model)
    server = start()
    with pytest.raises(UnavailableError, match="cannot be read"):
        fetch(metrics_url(server).replace("/metrics", "").replace("http", "https"), store.model)
    assert page(server, store).version == "1"
    assert fetch(metrics_url(server), "another").version is None
