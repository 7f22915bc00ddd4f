"""From a folder whose name means something to URIs, globs and shells: train, ingest, and load as a server does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import forecaster
from tests.integration.training.test_train_pipeline import write_csv

FOLDER = "feature%2Fmain #1? [ü] *~"
WALK = """
import contextlib
import sys
from forecaster.registry import registry
from forecaster.cli import main
from forecaster.config import TrackingConfig
from forecaster.serving.storage.opening import open_storage
from pipelines.__main__ import main as step

store, data = sys.argv[1:]
columns = ["--data.id_column=meter", "--data.time_column=time", "--data.target_column=load"]
small = ["--model.hidden_size=4", "--model.num_layers=1", "--model.decoder_size=4", "--model.horizon=4"]
short = ["--training.max_epochs=1", "--training.min_updates=8"]
short += ["--promotion.max_coverage=1", "--promotion.min_coverage=0"]
uri = [f"--tracking.uri={store}"] if store else []
assert main(["train", f"--data.path={data}", *columns, *small, *short, *uri]) == 0
assert step(["ingest", f"--ingest.sources=['{data}']", "--ingest.output=data set", *columns]) == 0
assert step(["ingest", f"--ingest.sources=['{data}']", "--ingest.output=data set", *columns]) == 0
from forecaster.user_paths import literal
print(registry.load_bundle(TrackingConfig(uri=literal(store or "sqlite:///mlflow.db")), "1")[0].version)
with contextlib.closing(open_storage("state", "commit", "forecaster")):
    pass
"""


@pytest.mark.parametrize("is_relative", [True, False])
def test_train_ingest_and_load(tmp_path: Path, is_relative: bool) -> None:
    folder = tmp_path / FOLDER
    folder.mkdir()
    write_csv(folder / "mine data.csv")
    store = "" if is_relative else f"sqlite:///{folder}/mlflow.db"
    data = "mine data.csv" if is_relative else str(folder / "mine data.csv")
    environment = os.environ | {"PYTHONPATH": str(Path(forecaster.__file__).parents[1])}
    command = [sys.executable, "-c", WALK, store, data]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "1"
    assert [path.name for path in tmp_path.iterdir()] == [FOLDER]  # nothing in a sibling
    made = {path.name for path in folder.iterdir()}
    assert made >= {"mlartifacts", "mlflow.db", "data set", "state"}
    assert made <= {"mlartifacts", "mlflow.db", "data set", "data set.lock", "state", "mine data.csv"}
