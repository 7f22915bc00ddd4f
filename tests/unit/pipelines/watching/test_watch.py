"""What a watch keeps between its looks, and when it lets go of it: a real store, no server."""

import io
import pathlib
import time

from forecaster.config import Config, IngestConfig, ScheduleConfig, TrackingConfig
from forecaster.registry import registry
from pipelines.memory import Memory
from pipelines.watching.metrics_page import MetricsPage
from pipelines.watching.watch import Watch, memory_path


def make_watch(tmp_path: pathlib.Path, tracking: TrackingConfig, memory: Memory, pause: str = "6h") -> Watch:
    config = Config(
        tracking=tracking,
        ingest=IngestConfig(output=str(tmp_path / "dataset")),
        schedule=ScheduleConfig(metrics_url="http://127.0.0.1:9/metrics", drift_pause=pause),
    )
    return Watch(config, memory, io.StringIO())


def test_a_clock_that_was_set_back_blocks_nothing(tmp_path: pathlib.Path, tracking: TrackingConfig) -> None:
    path = memory_path(Config(ingest=IngestConfig(output=str(tmp_path / "dataset"))))
    far = time.time() + 1e7
    watch = make_watch(tmp_path, tracking, Memory(path=path, began=far, ended=far), pause="1s")
    found = Memory.load(path)
    assert found.began is not None
    assert abs(found.began - time.time()) < 60
    assert found.ended == found.began
    watch._memory.ended = far  # set back while it runs
    assert watch._pausing()
    time.sleep(1.1)
    assert not watch._pausing()


def test_a_newer_backtest_of_the_served_version_counts_after_a_retraining(
    tmp_path: pathlib.Path, tracking: TrackingConfig
) -> None:
    client = registry.connect(tracking)
    experiment = registry.experiment_id(client, tracking)
    client.create_registered_model(tracking.model)
    client.create_model_version(tracking.model, "/nowhere", run_id=client.create_run(experiment).info.run_id)
    watch = make_watch(tmp_path, tracking, Memory(path=tmp_path / "memory"))
    page = MetricsPage(model=tracking.model, version="1", live=(), counts={}, applied=0, started=0.0)
    for coverage in (0.7, 0.8):
        tags = {"step": "backtest", "champion_version": "1", "registered_model": tracking.model}
        run = client.create_run(experiment, tags=tags)
        client.log_metric(run.info.run_id, "champion_coverage_80", coverage)
        client.set_terminated(run.info.run_id)
        watch._drifted(page)
        assert watch._served is not None
        assert dict(watch._served.reference.coverage) == {0.8: 0.7}
    watch.ended()
    watch._drifted(page)
    assert watch._served is not None
    assert dict(watch._served.reference.coverage) == {0.8: 0.8}
