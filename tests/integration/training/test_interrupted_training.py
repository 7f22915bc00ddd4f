"""A training that is told to end: its run says so, and its exit status too, whenever it is told."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from forecaster.config import TrackingConfig
from forecaster.registry import registry


@pytest.mark.parametrize("when", ["its run has begun", "amid an epoch"])
def test_sigterm_ends_the_run(when: str, tracking: TrackingConfig, tmp_path: pathlib.Path) -> None:
    small = ["--model.hidden_size=8", "--model.num_layers=1", "--training.max_epochs=1000", "--training.min_updates=1"]
    command = [sys.executable, "-m", "forecaster", "train", f"--tracking.uri={tracking.uri}", *small]
    client = registry.connect(tracking)
    with (tmp_path / "log").open("w") as log:
        training = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log, env={**os.environ, "CI": "1"})
    deadline = time.monotonic() + 240

    def said() -> str:
        return (tmp_path / "log").read_text()

    def is_time() -> bool:
        if when == "amid an epoch":
            return "epoch 1/" in said()
        return bool(client.search_runs([registry.experiment_id(client, tracking)]))

    try:
        while not is_time():
            assert training.poll() is None, said()
            assert time.monotonic() < deadline, said()
            time.sleep(0.01)
        training.send_signal(signal.SIGTERM)
        assert training.wait(240) == 128 + signal.SIGTERM, said()
    finally:
        training.kill()
        training.wait()
    (run,) = client.search_runs([registry.experiment_id(client, tracking)])
    assert run.info.status == "KILLED", said()
    assert run.data.tags["error"].startswith("SystemExit"), said()
