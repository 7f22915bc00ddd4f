"""From a CSV file to a champion that loads: real training, real MLflow on SQLite, the real command line."""

import dataclasses
import datetime as dt
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from mlflow import MlflowClient

import forecaster
from forecaster.cli import main
from forecaster.config import Config, DataConfig, ModelConfig, TrackingConfig, TrainingConfig
from forecaster.errors import DataError, ModelNotFoundError
from forecaster.registry import registry
from forecaster.training.run.job import TrainResult, train
from forecaster.training.run.run import Run

START = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
STEPS = 300
UNTIL = START + dt.timedelta(hours=280)


def write_csv(path: Path) -> None:
    """Write four wandering series with a season of 12 hours; one hour is missing in each."""
    rng = np.random.default_rng(0)
    frames = []
    for index in range(4):
        level = 50 + np.convolve(rng.normal(size=STEPS), 0.9 ** np.arange(40))[:STEPS]
        y = level + 4 * np.sin(np.arange(STEPS) * np.pi / 6) + 0.3 * rng.normal(size=STEPS)
        times = [START + dt.timedelta(hours=i) for i in range(STEPS)]
        frames.append(pl.DataFrame({"meter": f"m{index}", "time": times, "load": y}).filter(pl.arange(STEPS) != 77))
    pl.concat(frames).write_csv(path)


def make_config(path: Path, tracking: TrackingConfig, **training: object) -> Config:
    return Config(
        data=DataConfig(path=str(path), id_column="meter", time_column="time", target_column="load"),
        model=ModelConfig(hidden_size=8, num_layers=1, decoder_size=8, horizon=4, season_lengths=(12,)),
        training=dataclasses.replace(
            TrainingConfig(max_epochs=3, min_updates=16, chunk_steps=24, validation_steps=48, threads=1),
            **training,  # type: ignore[arg-type]
        ),
        tracking=tracking,
    )


@pytest.fixture(scope="module")
def csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "meters.csv"
    write_csv(path)
    return path


@pytest.fixture(scope="module")
def first(csv: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, TrainResult, str]:
    """Train once; return the training and what it wrote."""
    config = make_config(csv, TrackingConfig(uri=f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"))
    stream = io.StringIO()
    return config, train(config, until=UNTIL, stream=stream), stream.getvalue()


@pytest.fixture(scope="module")
def trained(first: tuple[Config, TrainResult, str]) -> tuple[Config, TrainResult, str]:
    """Train once more in the same store; return the second training and what it wrote."""
    config, stream = first[0], io.StringIO()
    return config, train(config, until=UNTIL, stream=stream), stream.getvalue()


def test_it_reports_the_data_and_every_epoch(trained: tuple[Config, TrainResult, str]) -> None:
    lines = trained[2].splitlines()
    assert lines[0].startswith("1,116 rows in 4 series from 2024-01-01T00:00:00Z to 2024-01-12T15:00:00Z")
    assert [line[:9] for line in lines[-3:]] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]


def test_the_first_model_that_beats_the_seasonal_naive_is_the_champion(
    first: tuple[Config, TrainResult, str], csv: Path
) -> None:
    config, result, _ = first
    assert result.is_champion
    assert "forecaster version 1 is the champion, the first of forecaster: MASE 0." in result.line()
    found, bundle = registry.load_bundle(config.tracking)
    assert (found.version, found.run_id) == ("1", result.run_id)
    assert bundle.fingerprint == result.fit.bundle.fingerprint == found.tags["fingerprint"]
    assert found.tags["validation_status"] == "passed"
    assert found.tags["data_window_end"] == "2024-01-12T15:00:00Z"


def test_a_second_one_is_the_challenger_and_says_what_decides(trained: tuple[Config, TrainResult, str]) -> None:
    config, result, _ = trained
    assert "forecaster version 2 is the challenger; version 1 stays the champion: MASE 0." in result.line()
    source = f"`forecaster pipelines retrain --ingest.sources '[{config.data.path}]'` lets a backtest decide"
    assert source in result.line()
    assert result.line().endswith("or serve it all the same with --serving.alias 2")
    found, bundle = registry.load_bundle(config.tracking, "challenger")
    assert (found.version, found.run_id) == ("2", result.run_id)
    assert bundle.fingerprint == result.fit.bundle.fingerprint == found.tags["fingerprint"]
    assert registry.resolve(config.tracking).version == "1"


def test_other_data_under_the_same_name_are_refused_before_training(
    first: tuple[Config, TrainResult, str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config, _, _ = first
    shops = tmp_path / "shops.csv"
    pl.read_csv(config.data.path).with_columns(pl.format("shop {}", "meter").alias("meter")).write_csv(shops)
    columns = ["--data.id_column=meter", "--data.time_column=time", "--data.target_column=load"]
    before = len(all_runs(config.tracking))
    assert main(["train", f"--data.path={shops}", *columns, f"--tracking.uri={config.tracking.uri}"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == (
        "error: forecaster version 1, the champion, is of other data: none of its series is among these ('shop m0' …);"
        " give the model of these data a name of its own with --tracking.model"
    )
    assert len(all_runs(config.tracking)) == before


def test_the_dashboard_shows_what_went_in_and_how_good_it_is(trained: tuple[Config, TrainResult, str]) -> None:
    config, result, _ = trained
    client = registry.connect(config.tracking)
    run = client.get_run(result.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["model.cell"] == "gru"
    assert run.data.params["model.min_history"] == "12"  # resolved
    assert run.data.tags["trigger"] == "manual"
    assert run.data.tags["registered_version"] == "2"
    assert "MASE" in run.data.tags["mlflow.note.content"]
    metrics = result.fit.backtest.metrics()
    assert {name: run.data.metrics[name] for name in metrics} == pytest.approx(metrics)
    (data,) = run.inputs.dataset_inputs
    assert (data.dataset.name, json.loads(data.dataset.source)["uri"]) == ("meters", config.data.path)
    assert json.loads(data.dataset.profile)["num_rows"] == 1116
    (model,) = run.outputs.model_outputs
    logged = client.get_logged_model(model.model_id)
    assert logged.status == "READY"
    assert {(one.dataset_name, one.dataset_digest) for one in logged.metrics} == {("meters", data.dataset.digest)}
    assert {one.key: one.value for one in logged.metrics} == pytest.approx(metrics)
    assert {name for name in run.data.metrics if name.startswith("system/")} >= {
        "system/cpu_utilization_percentage",
        "system/system_memory_usage_megabytes",
    }


def test_the_registered_model_explains_itself(trained: tuple[Config, TrainResult, str]) -> None:
    config, result, _ = trained
    client = registry.connect(config.tracking)
    model = client.get_registered_model("forecaster")
    assert "mlflow.pyfunc.load_model" in model.description
    assert model.tags["task"] == "time-series-forecasting"
    version = client.get_model_version("forecaster", "2")
    assert version.description.startswith("GRU 1 x 8, 4 steps of 1h ahead: MASE 0.")
    assert version.run_id == result.run_id
    assert version.tags["trigger"] == "manual"
    assert version.tags["started_from"] == "scratch"
    assert version.tags["dataset"].startswith("meters ")


def test_forecasts_are_shown_as_the_training_goes_on(trained: tuple[Config, TrainResult, str]) -> None:
    config, result, _ = trained
    client = registry.connect(config.tracking)
    names = [Path(file.path).name for file in client.list_artifacts(result.run_id, "images")]
    assert any(name.startswith("forecasts+step+1+timestamp+") and name.endswith(".png") for name in names)
    assert client.get_run(result.run_id).data.tags["mlflow.loggedImages"] == "True"


def test_curves_have_one_point_per_epoch_or_step(trained: tuple[Config, TrainResult, str]) -> None:
    config, result, _ = trained
    client = registry.connect(config.tracking)

    def curve(name: str) -> dict[int, float]:
        return {point.step: point.value for point in client.get_metric_history(result.run_id, name)}

    for name in ("train_loss", "learning_rate", "val_mase", "val_pinball", "val_coverage_80"):
        assert curve(name) == {epoch.number: getattr(epoch, name) for epoch in result.fit.history}
    for name in ("mase_by_horizon", "seasonal_naive_mase_by_horizon"):
        assert curve(name) == dict(enumerate(getattr(result.fit.backtest, name), start=1))


def test_the_artifacts_are_there_and_the_configuration_trains_again(
    trained: tuple[Config, TrainResult, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, result, _ = trained
    client = registry.connect(config.tracking)
    names = {file.path for file in client.list_artifacts(result.run_id)}
    assert names == {"config.yaml", "figures", "images", "worst_series.json"}
    figures = {file.path for file in client.list_artifacts(result.run_id, "figures")}
    assert figures == {f"figures/{name}.png" for name in ("calibration", "error_by_horizon", "fan_chart")}
    table = json.loads(Path(client.download_artifacts(result.run_id, "worst_series.json")).read_text())
    assert sorted(row[0] for row in table["data"]) == ["m0", "m1", "m2", "m3"]

    file = client.download_artifacts(result.run_id, "config.yaml")
    store = f"sqlite:///{tmp_path}/mlflow.db"
    arguments = ["--config", file, "--tracking.uri", store, "--training.max_epochs", "1", "--model.cell", "lstm"]
    assert main(["train", *arguments, "--until", UNTIL.isoformat()]) == 0
    assert capsys.readouterr().out.startswith("forecaster version 1 ")
    tracking = TrackingConfig(uri=store)
    (experiment,) = (e for e in registry.connect(tracking).search_experiments() if e.name == "forecaster")
    (run,) = registry.connect(tracking).search_runs([experiment.experiment_id])
    assert (run.data.params["model.cell"], run.data.params["training.max_epochs"]) == ("lstm", "1")


def test_mlflow_forecasts_with_the_champion_where_pickle_is_forbidden(
    trained: tuple[Config, TrainResult, str], tmp_path: Path
) -> None:
    config = trained[0]
    script = """
import sys, mlflow
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/forecaster@champion")
model.predict(model.input_example).to_parquet("forecast.parquet")
"""
    here = str(Path(forecaster.__file__).parents[1])
    environment = os.environ | {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "PYTHONPATH": here}
    command = [sys.executable, "-c", script, config.tracking.uri]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    forecast = pl.read_parquet(tmp_path / "forecast.parquet")
    assert forecast["ds"].to_list() == [dt.datetime(2024, 1, 12, 16 + i) for i in range(4)]
    assert forecast["y_hat"].is_between(30, 70).all()


def test_a_model_that_does_not_beat_the_seasonal_naive_is_registered_only(csv: Path, tracking: TrackingConfig) -> None:
    seasonal = csv.with_name("seasonal.csv")  # the seasonal naive makes no error but the noise's
    frame = pl.read_csv(csv).with_columns(load=pl.int_range(pl.len()).over("meter") % 12 * 1.0)
    noise = pl.Series(np.random.default_rng(0).normal(size=frame.height) * 1e-3)
    frame.with_columns(pl.col("load") + noise).write_csv(seasonal)
    config = make_config(seasonal, tracking, max_epochs=1, learning_rate=0.2)
    result = train(config, until=UNTIL, stream=io.StringIO())
    assert not result.is_champion
    assert "does not beat the seasonal naive" in result.line()
    assert registry.resolve(tracking, "1").tags["validation_status"] == "failed"
    with pytest.raises(ModelNotFoundError):
        registry.resolve(tracking)


@pytest.mark.parametrize(
    ("error", "status", "shown"),
    [(RuntimeError("out of luck"), "FAILED", "RuntimeError: out of luck"), (KeyboardInterrupt(), "KILLED", "Keyb")],
)
def test_a_training_that_fails_is_marked(
    csv: Path, tracking: TrackingConfig, error: BaseException, status: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(run: Run, epoch: object) -> None:
        raise error

    monkeypatch.setattr(Run, "report", fail)
    with pytest.raises(type(error)):
        train(make_config(csv, tracking), stream=io.StringIO())
    (run,) = all_runs(tracking)
    assert run.info.status == status
    assert run.data.tags["error"].startswith(shown)


def test_data_that_cannot_be_used_makes_no_run(csv: Path, tracking: TrackingConfig) -> None:
    with pytest.raises(DataError, match="there is no data before 2020-01-01"):
        train(make_config(csv, tracking), until=dt.datetime(2020, 1, 1), stream=io.StringIO())
    twice = csv.with_name("twice.csv")
    once = pl.read_csv(csv)
    pl.concat([once, once.with_columns(pl.col("load") + 1)]).write_csv(twice)  # the same rows again would be left out
    with pytest.raises(DataError, match="repeated times"):
        train(make_config(twice, tracking), stream=io.StringIO())
    assert not all_runs(tracking)


def test_the_command_line_errs_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text(yaml.safe_dump({"model": {"cells": "gru"}}))
    for arguments, message in (
        (["train", "--data.path", str(tmp_path / "no.csv")], "no such file"),
        (
            ["train", "--model.cell", "foo"],
            "model.cell: expected 'gru', 'lstm', 'rnn_tanh', 'rnn_relu', 'output'. Got value: foo",
        ),
        (["train", "--training.max_epochs", "0"], "training.max_epochs=0 is not allowed: use 1 or more"),
        (["train", "--until", "tomorrow"], "'tomorrow' is not a time"),
        (["train", "--config", str(broken)], "model.cells"),
        (["train", "--model.cel", "lstm"], "unrecognized arguments: --model.cel"),
        (["forget"], "invalid choice: 'forget'"),
    ):
        assert main(arguments) == 2
        shown = capsys.readouterr()
        assert shown.out == ""
        assert shown.err.startswith("error: ")
        assert message in shown.err
        assert shown.err.count("\n") == 1
    assert main([]) == 2
    assert "train" in capsys.readouterr().err  # the help


def all_runs(tracking: TrackingConfig) -> list:
    client: MlflowClient = registry.connect(tracking)
    return list(client.search_runs([experiment.experiment_id for experiment in client.search_experiments()]))
