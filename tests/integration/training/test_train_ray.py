"""Two workers of a local Ray cluster train what one process does, and write MLflow once."""

import dataclasses
import io
from pathlib import Path

import pytest

from forecaster.config import BacktestConfig, IngestConfig, TrackingConfig
from forecaster.registry import registry
from forecaster.training.fit import fit
from forecaster.training.run.job import read_series
from pipelines.ingest.step import ingest
from pipelines.training.dataset import ingested
from pipelines.training.ray import train_ray
from pipelines.window import window_start
from tests.integration.training.test_train_pipeline import make_config, write_csv

pytest.importorskip("ray.train", reason="the extra `ray` is not installed")


@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_two_workers_compute_what_one_process_does(tracking: TrackingConfig, tmp_path: Path) -> None:
    write_csv(tmp_path / "meters.csv")
    config = make_config(tmp_path / "meters.csv", tracking, max_epochs=2)
    model = dataclasses.replace(config.model, dropout=0.0)
    output = IngestConfig(output=str(tmp_path / "dataset"))
    config = dataclasses.replace(config, model=model, ingest=output, backtest=BacktestConfig(steps=24))
    ingest(config, io.StringIO())
    found = train_ray(config, workers=2)
    client = registry.connect(tracking)
    (run,) = client.search_runs([registry.experiment_id(client, tracking)])
    assert (run.info.status, run.data.tags["trigger"]) == ("FINISHED", "ray")
    assert (found.version, found.run_id, found.aliases) == ("1", run.info.run_id, (registry.CHALLENGER,))
    whole = ingested(config)
    _, series = read_series(whole.data, until=lambda frame: window_start(whole, frame), stream=io.StringIO())
    assert run.data.metrics["mase"] == pytest.approx(fit(series, whole).backtest.mase, rel=1e-4)
