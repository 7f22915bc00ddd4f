"""The step `train`: the data set's challenger, once for each key, wherever a training of it was killed."""

import dataclasses
import io
import sys
from pathlib import Path

import pytest
from mlflow.entities import Run as MlflowRun

from forecaster.config import BacktestConfig, Config, IngestConfig, TrackingConfig
from forecaster.errors import DataError
from forecaster.registry import registry
from forecaster.training.run import job
from forecaster.training.run.run import Run
from pipelines.context import Context
from pipelines.ingest.step import ingest
from pipelines.training.step import train
from tests.integration.training.test_train_pipeline import make_config, write_csv


class Killed(BaseException):
    """What stands for a process that ends without a word: nothing behind it is run, MLflow is told nothing."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_csv(folder / "meters.csv")
    return folder


@pytest.fixture
def config(folder: Path, tracking: TrackingConfig) -> Config:
    """Return the configuration of an ingested data set."""
    config = make_config(folder / "meters.csv", tracking)
    output = IngestConfig(output=str(folder / "dataset"))
    config = dataclasses.replace(config, ingest=output, backtest=BacktestConfig(steps=24))
    ingest(config, io.StringIO())
    return config


def context(key: str | None) -> Context:
    return Context(trigger="cron", key=key, stream=io.StringIO())


def runs(config: Config) -> list[MlflowRun]:
    """Return all runs, the oldest first."""
    client = registry.connect(config.tracking)
    experiment = registry.experiment_id(client, config.tracking)
    return list(client.search_runs([experiment], order_by=["attributes.start_time ASC"]))


def test_it_registers_a_challenger_trained_before_the_backtests_window(config: Config) -> None:
    result = train(config, context=context(None))
    assert result is not None
    assert result.model.aliases == (registry.CHALLENGER,)
    assert result.line().startswith("forecaster version 1 is the challenger: MASE 0.")
    assert result.model.tags["data_window_end"] == "2024-01-12T11:00:00Z"  # 24 hours before the end
    assert result.model.tags["trigger"] == "cron"
    (run,) = runs(config)
    assert (run.info.status, run.data.tags["step"], run.data.tags["trigger"]) == ("FINISHED", "train", "cron")
    again = train(config, context=context(None))  # without a key: another one
    assert again is not None
    assert again.model.version == "2"
    assert registry.resolve(config.tracking, registry.CHALLENGER).version == "2"


def kill(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, *, after: bool, times: int = 1) -> None:
    """Let a function end everything, before or after its work, when it is called so many times."""
    real, left = getattr(owner, name), times

    def die(*arguments: object, **named: object) -> object:
        nonlocal left
        left -= 1
        if left == 0 and not after:
            raise Killed
        result = real(*arguments, **named)
        if left == 0:
            raise Killed
        return result

    monkeypatch.setattr(owner, name, die)


def test_a_killed_training_is_gone_on_with_and_done_once(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in the second epoch, before the registration and before the alias, it is finished by the next."""
    client = registry.connect(config.tracking)
    end = type(client).set_terminated

    def end_unless_killed(*arguments: object) -> None:
        if sys.exc_info()[0] is not Killed:  # a process that is killed cannot end its run
            end(*arguments)

    monkeypatch.setattr(type(client), "set_terminated", end_unless_killed)
    trained: list[int] = []
    report = Run.report
    monkeypatch.setattr(Run, "report", lambda run, epoch: (trained.append(epoch.number), report(run, epoch))[1])
    steps = ((Run, "report", True, 2), (registry, "register", False, 1), (registry, "set_alias", False, 1))
    for owner, name, after, times in steps:
        with monkeypatch.context() as patch:
            kill(patch, owner, name, after=after, times=times)
            with pytest.raises(Killed):
                train(config, context=context("k1"))
    monkeypatch.undo()
    result = train(config, context=context("k1"))
    assert result is not None
    assert trained == [1, 2, 2, 3, 1, 1, 2, 3]  # trained to 2; on from 2 (1 is told the new run); all told to the third
    assert result.fit is None
    assert "was trained on the same data and configuration before" in result.line()
    assert result.model.version == "1"
    assert result.model.aliases == (registry.CHALLENGER,)
    assert [run.info.status for run in runs(config)] == ["KILLED", "KILLED", "FINISHED"]
    assert [run.data.tags.get("error") for run in runs(config)] == ["its process ended without a word"] * 2 + [None]
    last = runs(config)[-1]
    curve = client.get_metric_history(last.info.run_id, "val_mase")
    assert sorted({point.step for point in curve}) == [1, 2, 3]
    models = client.search_logged_models([last.info.experiment_id])
    assert [one.source_run_id for one in models] == [last.info.run_id]
    assert not list(Path(config.ingest.output).with_name("dataset-checkpoints").rglob("*.ckpt"))

    other = train(config, context=context("k2"))
    assert other is not None
    assert other.model.version == "2"
    assert registry.resolve(config.tracking, "1").aliases == ()


def test_under_a_name_with_quotes_it_is_done_once_too(config: Config) -> None:
    named = dataclasses.replace(config, tracking=dataclasses.replace(config.tracking, model="""o'brien's "best\""""))
    first, again = (train(named, context=context("k1")) for _ in range(2))
    assert first is not None
    assert again is not None
    assert (first.model.version, again.model.version) == ("1", "1")
    assert first.fit is not None
    assert again.fit is None


def test_a_torn_checkpoint_does_not_stop_it(config: Config) -> None:
    folder = Path(config.ingest.output).with_name("dataset-checkpoints") / "forecaster" / "k1"
    folder.mkdir(parents=True)
    (folder / "last.ckpt").write_bytes(b"torn")
    said = context("k1")
    result = train(config, context=said)
    assert result is not None
    assert result.model.version == "1"
    assert isinstance(said.stream, io.StringIO)
    assert "trains from the beginning: training.resume" in said.stream.getvalue()


def test_it_starts_from_the_champion_and_says_so(config: Config) -> None:
    warm = dataclasses.replace(config, training=dataclasses.replace(config.training, start_from="champion"))
    first, second = context(None), context(None)
    result = train(warm, context=first)
    assert result is not None
    assert result.model.tags["started_from"] == "scratch"
    client = registry.connect(config.tracking)
    registry.set_alias(client, config.tracking, registry.CHAMPION, result.model.version)
    result = train(warm, context=second)
    assert result is not None
    assert result.model.tags["started_from"] == "forecaster version 1"
    assert client.get_run(result.run_id).data.tags["started_from"] == "forecaster version 1"
    for said, where in ((first, "from scratch: there is no champion yet"), (second, "from forecaster version 1")):
        assert isinstance(said.stream, io.StringIO)
        assert f"training starts {where}\n" in said.stream.getvalue()


def test_it_does_not_start_from_weights_that_know_the_backtests_window(config: Config) -> None:
    """`forecaster train` has learnt from all there is: what starts from that would look better than it is."""
    result = job.train(config, stream=io.StringIO())
    assert result is not None
    assert result.is_champion
    said = context(None)
    warm = dataclasses.replace(config, training=dataclasses.replace(config.training, start_from="champion"))
    result = train(warm, context=said)
    assert result is not None
    assert result.model.tags["started_from"] == "scratch"
    assert isinstance(said.stream, io.StringIO)
    assert (
        "from scratch: forecaster version 1 has seen data up to 2024-01-13T11:00:00Z, later" in said.stream.getvalue()
    )


def test_without_a_data_set_it_says_what_to_do(config: Config, tmp_path: Path) -> None:
    nowhere = dataclasses.replace(config, ingest=IngestConfig(output=str(tmp_path)))
    with pytest.raises(DataError, match="run `forecaster pipelines ingest` first"):
        train(nowhere)
    assert not runs(config)
