"""The demonstration in small: training, server, stream, SIGKILL and report are the real ones."""

import datetime as dt
import json
import os
import pathlib
import subprocess
import sys
from contextlib import closing

import polars as pl
import pytest

from forecaster.config import DataConfig, TrackingConfig
from forecaster.data.schema import read_frame
from forecaster.data.windows import latest_segments
from forecaster.demo.report import DemoReport
from forecaster.evaluation.rolling import rolling_origin
from forecaster.registry.registry import load_bundle
from forecaster.serving.storage.opening import open_storage

SMALL = (
    *("--days=3", "--model.hidden_size=16", "--model.num_layers=1", "--model.decoder_size=16"),
    *("--training.max_epochs=1", "--training.min_updates=40", "--training.origin_stride=12", "--training.threads=1"),
)


def demo(output: pathlib.Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "forecaster", "demo", "--output", str(output), *SMALL, *options]
    env = os.environ | dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY"), "http://127.0.0.1:9")  # nobody's
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=280, check=False)


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("demo") / "out put"
    done = demo(folder)
    assert done.returncode == 0, done.stderr
    (folder.parent / "stdout").write_text(done.stdout)
    return folder


@pytest.fixture(scope="module")
def report(output: pathlib.Path) -> DemoReport:
    return DemoReport(**json.loads((output / "report.json").read_text()))


def test_nothing_is_lost_and_nothing_is_applied_twice(report: DemoReport) -> None:
    assert (report.lost, report.applied_twice) == (0, 0)
    assert report.observations_acknowledged == report.observations_recovered
    frame = read_frame(DataConfig()).filter(pl.col("ds") <= dt.datetime(2013, 12, 29, 12, tzinfo=dt.UTC))
    assert report.observations_recovered == frame["y"].count()


def test_the_servers_forecasts_are_the_offline_models(report: DemoReport) -> None:
    assert report.offline_difference < 1e-4
    assert report.offline_difference_after_kill < 1e-4


def test_the_figures_are_those_of_the_backtest(report: DemoReport, output: pathlib.Path) -> None:
    """Forecasts that came through gRPC, hour by hour, score as the offline evaluation of the same model does."""
    _, bundle = load_bundle(TrackingConfig(uri=f"sqlite:///{output / 'mlflow.db'}"))
    series = latest_segments(read_frame(DataConfig()), bundle.step_us, bundle.max_gap_steps)
    since = dt.datetime(2013, 12, 28, tzinfo=dt.UTC)
    offline = rolling_origin(bundle.model, series, first_time_us=int(since.timestamp() * 1e6))
    assert report.mase == pytest.approx(offline.mase, rel=1e-5)
    assert report.seasonal_naive_mase == pytest.approx(offline.seasonal_naive_mase, rel=1e-9)
    assert report.coverage_80 == pytest.approx(offline.coverage[0.8], abs=1e-4)
    assert report.mase < report.seasonal_naive_mase


def test_it_leaves_a_picture_and_says_how_to_go_on(output: pathlib.Path) -> None:
    assert (output / "forecasts.png").read_bytes().startswith(b"\x89PNG")
    said = (output.parent / "stdout").read_text()
    assert "forecaster dashboard --tracking.uri" in said
    assert "forecaster.v1.ForecastService/Forecast" in said
    assert "lost, applied twice" in said


def test_it_leaves_a_running_servers_state_alone(output: pathlib.Path) -> None:
    with closing(open_storage(str(output / "state"), "commit", "forecaster")):
        done = demo(output)
    assert done.returncode == 2
    assert "in use by another server" in done.stderr
    assert (output / "state" / "forecaster" / "journal.db").exists()


def test_it_does_not_write_over_something_else(tmp_path: pathlib.Path) -> None:
    (tmp_path / "thesis.txt").write_text("the only copy")
    done = demo(tmp_path)
    assert done.returncode == 2
    assert "holds something else: choose another --output" in done.stderr
    assert [one.name for one in tmp_path.iterdir()] == ["thesis.txt"]
