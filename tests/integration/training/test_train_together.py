"""Several processes train one model: the figures are those of one process, MLflow is written once, failures end all."""

import dataclasses
import io
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow.entities import Run

from forecaster.config import Config, TrackingConfig, TrainerConfig
from forecaster.errors import UnavailableError
from forecaster.registry import registry
from forecaster.training.callbacks import Epoch
from forecaster.training.fit import fit
from forecaster.training.run.job import read_series, train
from tests.integration.training.test_train_pipeline import make_config, write_csv

TOGETHER = TrainerConfig(devices=2, strategy="ddp")


@pytest.fixture(scope="module")
def csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "meters.csv"
    write_csv(path)
    return path


def exact(config: Config) -> Config:
    """Without dropout two processes compute what one does, but for the rounding of sums."""
    return dataclasses.replace(config, model=dataclasses.replace(config.model, dropout=0.0))


def runs(config: Config) -> list[Run]:
    client = registry.connect(config.tracking)
    return list(client.search_runs([registry.experiment_id(client, config.tracking)]))


def test_two_processes_compute_what_one_does_and_write_once(csv: Path, tracking: TrackingConfig) -> None:
    config = exact(make_config(csv, tracking, max_epochs=2))
    stream = io.StringIO()
    result = train(dataclasses.replace(config, trainer=TOGETHER), stream=stream)
    series = read_series(config.data, until=None, stream=io.StringIO())[1]
    alone = fit(series, config)
    assert result is not None
    assert result.fit is not None
    for one, other in zip(result.fit.history, alone.history, strict=True):
        assert one.updates == other.updates
        assert one.train_loss == pytest.approx(other.train_loss, rel=1e-4)
        assert one.val_mase == pytest.approx(other.val_mase, rel=1e-4)
    assert [line[:9] for line in stream.getvalue().splitlines()[-2:]] == ["epoch 1/2", "epoch 2/2"]
    assert [run.info.status for run in runs(config)] == ["FINISHED"]
    assert result.model.version == "1"


def test_torchrun_starts_them_too(csv: Path, tracking: TrackingConfig, tmp_path: Path) -> None:
    config = exact(make_config(csv, tracking, max_epochs=2))
    options = {
        "data.path": csv,
        "data.id_column": "meter",
        "data.time_column": "time",
        "data.target_column": "load",
        "tracking.uri": tracking.uri,
        "model.season_lengths": "[12]",
        "training.max_epochs": 2,
    }
    small = {"hidden_size": 8, "num_layers": 1, "decoder_size": 8, "horizon": 4, "dropout": 0}
    options |= {f"model.{name}": value for name, value in small.items()}
    options |= {f"training.{name}": value for name, value in (("min_updates", 16), ("chunk_steps", 24))}
    options |= {"training.validation_steps": 48}
    words = [f"--{name}={value}" for name, value in options.items()]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*torchrun, "-m", "forecaster", "train", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("forecaster version 1 ") == done.stdout.count("\n") == 1
    assert done.stderr.count("epoch 2/2") == 1
    (run,) = runs(config)
    series = read_series(config.data, until=None, stream=io.StringIO())[1]
    assert run.data.metrics["mase"] == pytest.approx(fit(series, config).backtest.mase, rel=1e-4)


def others() -> list[int]:
    """Return the processes that train along."""
    return [child.pid for child in multiprocessing.active_children() if child.name.startswith("forecaster-rank")]


def test_a_process_that_is_lost_ends_the_others_with_a_reason(csv: Path, tracking: TrackingConfig) -> None:
    config = dataclasses.replace(make_config(csv, tracking, max_epochs=1000), trainer=TOGETHER)
    series = read_series(config.data, until=None, stream=io.StringIO())[1]
    lost = 0.0

    def lose(epoch: Epoch) -> None:
        nonlocal lost
        if epoch.number == 2:
            (pid,) = others()
            os.kill(pid, signal.SIGKILL)
            lost = time.monotonic()

    with pytest.raises(UnavailableError, match="forecaster-rank-1 was ended by SIGKILL"):
        fit(series, config, reporters=[lose])
    assert time.monotonic() - lost < 20
    assert not others()


def test_what_the_first_process_fails_at_ends_the_others(csv: Path, tracking: TrackingConfig) -> None:
    config = dataclasses.replace(make_config(csv, tracking, max_epochs=1000), trainer=TOGETHER)
    series = read_series(config.data, until=None, stream=io.StringIO())[1]

    def fail(epoch: Epoch) -> None:
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        fit(series, config, reporters=[fail])
    assert not others()
