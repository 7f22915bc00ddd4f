"""The registry on a real SQLite store: log, register, alias, find, load; and what is said when nothing is there."""

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

import forecaster
from forecaster.config import ModelConfig, TrackingConfig
from forecaster.errors import BundleError, ConfigError, ModelNotFoundError, UnavailableError
from forecaster.model.bundle import Bundle
from forecaster.model.seq2seq import Seq2Seq
from forecaster.registry import aliases, registry
from forecaster.registry.registry import RegisteredModel

HOUR = 3_600_000_000


def make_bundle(seed: int = 0) -> Bundle:
    torch.manual_seed(seed)
    config = ModelConfig(hidden_size=4, num_layers=1, decoder_size=4, horizon=3, season_lengths=(4,))
    return Bundle.of(Seq2Seq(config.resolve(HOUR), HOUR), frequency="1h", max_gap_steps=5)


def make_history() -> pd.DataFrame:
    times = pd.date_range("2024-01-01", periods=8, freq="h")
    return pd.DataFrame({"unique_id": "a", "ds": times, "y": [float(i % 4) for i in range(8)]})


def add_version(tracking: TrackingConfig, bundle: Bundle) -> RegisteredModel:
    client = registry.connect(tracking)
    run = client.create_run(registry.experiment_id(client, tracking))
    model_id = registry.log_bundle(client, tracking, run.info.run_id, bundle, make_history())
    tags = {"fingerprint": bundle.fingerprint, "validation_status": "passed"}
    return registry.register(client, tracking, model_id, description="a test", tags=tags)


def test_a_registered_bundle_comes_back_whole(tracking: TrackingConfig) -> None:
    bundle = make_bundle()
    made = add_version(tracking, bundle)
    assert (made.name, made.version, made.uri) == ("forecaster", "1", "models:/forecaster/1")
    found, loaded = registry.load_bundle(tracking, "1")
    assert found == dataclasses.replace(made, run_id=found.run_id)
    (model,) = registry.connect(tracking).get_run(found.run_id).outputs.model_outputs
    assert found.model_id == model.model_id
    assert found.tags == {"fingerprint": bundle.fingerprint, "validation_status": "passed", "model_id": model.model_id}
    assert loaded.fingerprint == bundle.fingerprint
    assert (loaded.frequency, loaded.max_gap_steps) == ("1h", 5)


def test_promotion_moves_the_old_champion_to_previous(tracking: TrackingConfig) -> None:
    client = registry.connect(tracking)
    first, second = (add_version(tracking, make_bundle(seed)) for seed in (1, 2))
    assert aliases.promote(client, tracking, first.version) is None
    assert registry.resolve(tracking).version == first.version
    before = aliases.promote(client, tracking, second.version)
    assert before is not None
    assert before.version == first.version
    assert registry.load_bundle(tracking)[1].fingerprint == make_bundle(2).fingerprint
    assert registry.resolve(tracking, "previous").version == first.version
    aliases.promote(client, tracking, second.version)  # again: nothing changes
    assert registry.resolve(tracking, "previous").version == first.version
    registry.set_alias(client, tracking, registry.CHALLENGER, first.version)
    assert set(registry.resolve(tracking, "1").aliases) == {"previous", "challenger"}


def test_artifacts_lie_beside_the_database_and_nowhere_else(
    tracking: TrackingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    add_version(tracking, make_bundle())
    registry.load_bundle(tracking, "1")
    assert not list((tmp_path / "elsewhere").iterdir())
    assert sorted(path.name for path in (tmp_path / "tracking").iterdir()) == ["mlartifacts", "mlflow.db"]


def test_a_store_can_be_moved_as_one_folder(tracking: TrackingConfig, tmp_path: Path) -> None:
    add_version(tracking, make_bundle())
    shutil.move(tmp_path / "tracking", tmp_path / "moved")
    moved = TrackingConfig(uri=f"sqlite:///{tmp_path / 'moved' / 'mlflow.db'}")
    assert registry.load_bundle(moved, "1")[1].fingerprint == make_bundle().fingerprint


def test_artifacts_go_where_they_are_told(tracking: TrackingConfig, tmp_path: Path) -> None:
    told = dataclasses.replace(tracking, artifacts=str(tmp_path / "artifacts"))
    add_version(told, make_bundle())
    assert (tmp_path / "artifacts" / "models").is_dir()
    assert registry.load_bundle(tracking, "1")[1].fingerprint == make_bundle().fingerprint
    other = dataclasses.replace(tracking, artifacts=str(tmp_path / "other"))
    with pytest.raises(ConfigError, match="keeps its artifacts in"):
        registry.experiment_id(registry.connect(other), other)


def test_reading_makes_no_store(tmp_path: Path) -> None:
    config = TrackingConfig(uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    with pytest.raises(ModelNotFoundError) as caught:
        registry.load_bundle(config)
    assert str(caught.value) == (
        f"no model is registered as forecaster@champion in {config.uri}; there is no such file:"
        " run `forecaster train` first, or name another store with --tracking.uri"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("wanted", "named"), [("champion", "forecaster@champion"), ("7", "forecaster version 7")])
@pytest.mark.parametrize("registered", [False, True])
def test_what_is_not_registered_is_not_found(
    tracking: TrackingConfig, wanted: str, named: str, registered: bool
) -> None:
    if registered:
        registry.connect(tracking).create_registered_model("forecaster")
    with pytest.raises(ModelNotFoundError, match=f"no model is registered as {named} in sqlite:") as caught:
        registry.resolve(tracking, wanted)
    assert caught.value.resource_names == (named,)


def test_without_a_champion_the_newest_version_is_named(tracking: TrackingConfig) -> None:
    add_version(tracking, make_bundle())
    client = registry.connect(tracking)
    source = client.get_model_version("forecaster", "1").source
    for _ in range(9):  # the newest by number, not by text
        client.create_model_version("forecaster", source)
    with pytest.raises(ModelNotFoundError) as caught:
        registry.resolve(tracking)
    assert str(caught.value) == (
        "no version of forecaster is champion, the newest is 10: train a better one, or name it"
        " (--serving.alias 10, --version 10)"
    )
    assert caught.value.resource_names == ("forecaster@champion",)
    assert registry.resolve(tracking, "10").version == "10"


@pytest.mark.parametrize("name", ["o'brien", 'the "best"', """o'brien's "best\""""])
def test_names_may_hold_quotes(tracking: TrackingConfig, name: str) -> None:
    client = registry.connect(tracking)
    for model, versions in ((name, 1), ("another", 2)):
        client.create_registered_model(model)
        for _ in range(versions):
            client.create_model_version(model, "/nowhere")
    with pytest.raises(ModelNotFoundError, match="is champion, the newest is 1:"):
        registry.resolve(dataclasses.replace(tracking, model=name))


@pytest.mark.parametrize("name", ["demand.v2 50%", "o'brien", """o'brien's "best\""""])
def test_a_name_that_the_registry_takes_can_be_trained_under(tracking: TrackingConfig, name: str) -> None:
    tracking = dataclasses.replace(tracking, model=name)
    made = add_version(tracking, make_bundle())
    registry.set_alias(registry.connect(tracking), tracking, registry.CHAMPION, made.version)
    found, bundle = registry.load_bundle(tracking)
    assert (found.name, found.version) == (name, made.version)
    assert bundle.fingerprint == make_bundle().fingerprint


def test_a_torn_bundle_is_a_bundle_error(tracking: TrackingConfig, tmp_path: Path) -> None:
    add_version(tracking, make_bundle())
    (weights,) = (tmp_path / "tracking").rglob("model.safetensors")
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(BundleError, match="cannot be read"):
        registry.load_bundle(tracking, "1")
    shutil.rmtree(weights.parent)
    with pytest.raises(ModelNotFoundError, match="the files of forecaster version 1 are gone"):
        registry.load_bundle(tracking, "1")


def test_a_file_that_is_no_database_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("not a database " * 100)
    config = TrackingConfig(uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    with pytest.raises(UnavailableError, match="cannot be used") as caught:
        registry.resolve(config)
    assert "\n" not in str(caught.value)


def test_mlflow_itself_forecasts_with_it_where_pickle_is_forbidden(tracking: TrackingConfig, tmp_path: Path) -> None:
    add_version(tracking, make_bundle())
    script = """
import sys, mlflow, pandas as pd
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/forecaster/1")
history = pd.concat([model.input_example, model.input_example.assign(unique_id="b")])
model.predict(history).to_parquet("whole.parquet")
model.predict(history, params={"horizon": 2}).to_parquet("two.parquet")
assert "lightning" not in sys.modules
try:
    model.predict(history.head(2))
except Exception as error:
    print(error)
"""
    here = str(Path(forecaster.__file__).parents[1])
    environment = os.environ | {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "PYTHONPATH": here}
    done = subprocess.run(
        [sys.executable, "-c", script, tracking.uri],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "1 series have fewer than 4 values after their last long gap, the first is a" in done.stdout
    whole, two = (pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("whole", "two"))
    assert whole["unique_id"].tolist() == ["a"] * 3 + ["b"] * 3
    assert whole["ds"].tolist() == list(pd.date_range("2024-01-01T08:00", periods=3, freq="h")) * 2
    levels = [f"q{level:g}" for level in make_bundle().model.config.quantile_levels]
    assert whole.columns.tolist() == ["unique_id", "ds", "y_hat", *levels]
    assert (whole[levels].diff(axis=1).iloc[:, 1:] >= 0).all(axis=None)
    assert (whole["y_hat"] == whole["q0.5"]).all()
    assert two.equals(whole[whole.index % 3 < 2].reset_index(drop=True))


def moved_project(tracking: TrackingConfig, tmp_path: Path, *, copied: bool) -> TrackingConfig:
    (shutil.copytree if copied else shutil.move)(tmp_path / "tracking", tmp_path / "moved")
    return dataclasses.replace(tracking, uri=f"sqlite:///{tmp_path / 'moved' / 'mlflow.db'}")


@pytest.mark.parametrize("copied", [False, True])
def test_a_moved_project_keeps_its_new_artifacts_itself(
    tracking: TrackingConfig, tmp_path: Path, copied: bool, caplog: pytest.LogCaptureFixture
) -> None:
    client = registry.connect(tracking)
    experiment = registry.experiment_id(client, tracking)
    (tmp_path / "tracking" / "mlartifacts").mkdir()
    there = moved_project(tracking, tmp_path, copied=copied)
    client = registry.connect(there)
    assert registry.experiment_id(client, there) == experiment
    assert f"was moved from {tmp_path / 'tracking' / 'mlartifacts'}" in caplog.text
    run = client.create_run(experiment)
    assert run.info.artifact_uri.startswith(str(tmp_path / "moved" / "mlartifacts"))
    caplog.clear()
    registry.experiment_id(client, there)
    assert not caplog.text
    if copied:
        registry.experiment_id(registry.connect(tracking), tracking)
        assert not caplog.text


def test_a_folder_of_artifacts_that_was_chosen_stays(tracking: TrackingConfig, tmp_path: Path) -> None:
    chosen = tmp_path / "elsewhere" / "mlartifacts"
    chosen.mkdir(parents=True)
    client = registry.connect(tracking)
    told = dataclasses.replace(tracking, artifacts=str(chosen))
    experiment = registry.experiment_id(client, told)
    assert registry.experiment_id(client, tracking) == experiment
    assert client.get_experiment(experiment).artifact_location == str(chosen)


@pytest.mark.parametrize(
    "uri",
    [
        "sqlite:////proc/nowhere/mlflow.db",
        "sqlite:////dev/null/mlflow.db",
        "postgresql+psycopg://me:s3cret@127.0.0.1:9/x",
    ],
)
def test_a_store_that_cannot_be_used_is_said_at_once(uri: str) -> None:
    """MLflow's own retries take 110 seconds: what is asked for here is that they are not begun."""
    with pytest.raises(UnavailableError) as caught:
        registry.connect(TrackingConfig(uri=uri))
    assert str(caught.value).startswith("the model store ")
    assert "\n" not in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("password", ["s3cret", "p%40ss%2Fw0rd"])
def test_mlflows_own_words_show_no_password(password: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UnavailableError) as caught:
        registry.connect(TrackingConfig(uri=f"http://someone:{password}@127.0.0.1:9/store"))
    said = str(caught.value)
    assert said.count("http://someone:***@127.0.0.1:9/store") == 2  # ours and MLflow's
    assert password not in said
