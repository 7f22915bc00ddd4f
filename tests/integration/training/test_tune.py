"""A search from the ingested data to the best options: real trainings, a real study, a real store."""

import dataclasses
import io
import json
import pathlib
import signal
import subprocess
import sys

import pytest
import yaml
from mlflow.entities import Run

from forecaster.config import Config, TrackingConfig, to_dict
from forecaster.errors import ConfigError, DataError
from forecaster.registry import registry
from forecaster.training.fit import fit
from forecaster.training.run.job import read_series
from pipelines.context import Context
from pipelines.ingest.step import ingest
from pipelines.training.dataset import ingested
from pipelines.tuning.step import TuneResult, tune
from tests.unit.pipelines.tuning.tuning import SPACE, STEPS, UNTIL, WINDOW, tuning_config, write_source

TRIALS = 5


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, empty_store: pathlib.Path) -> Config:
    folder = tmp_path_factory.mktemp("tune")
    write_source(folder / "source.parquet")
    (folder / "mlflow.db").write_bytes(empty_store.read_bytes())
    made = tuning_config(folder, TrackingConfig(uri=f"sqlite:///{folder}/mlflow.db"), trials=TRIALS)
    ingest(made)
    return made


@pytest.fixture(scope="module")
def tuned(config: Config) -> tuple[TuneResult, str]:
    """Search for the first time; return what came of it, and what was said."""
    stream = io.StringIO()
    handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    result = tune(config, Context(trigger="cron", key="k1", stream=stream))
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == handlers
    return result, stream.getvalue()


def runs(config: Config, which: str) -> list[Run]:
    client = registry.connect(config.tracking)
    experiment = registry.experiment_id(client, config.tracking)
    return list(client.search_runs([experiment], which, order_by=["attributes.start_time ASC"]))


def test_every_trial_is_a_run_within_the_searchs(config: Config, tuned: tuple[TuneResult, str]) -> None:
    result, said = tuned
    (parent,) = runs(config, "tags.step = 'tune'")
    assert parent.info.run_id == result.run_id
    assert parent.info.status == "FINISHED"
    assert (parent.data.tags["trigger"], parent.data.tags["retrain_key"]) == ("cron", "k1")
    trials = runs(config, f"tags.mlflow.parentRunId = '{result.run_id}'")
    assert sorted(int(one.data.tags["trial"]) for one in trials) == list(range(TRIALS))
    counts: dict[str, int] = {}
    client = registry.connect(config.tracking)
    for one in trials:
        state, number = one.data.tags["state"], one.data.tags["trial"]
        counts[state] = counts.get(state, 0) + 1
        assert one.info.status == "FINISHED"
        assert f"trial {number} {state}: {one.data.tags['mlflow.note.content']}" in said
        assert 4 <= int(one.data.params["model.hidden_size"]) <= 8
        curve = client.get_metric_history(one.info.run_id, "val_mase")
        assert [point.step for point in curve] == list(range(1, len(curve) + 1))
        assert (state == "complete") == (len(curve) == config.training.max_epochs)
    assert counts["complete"] >= 1
    assert counts["cut short"] >= 1
    assert {state: count for state, count in result.counts.items() if count} == counts


def test_the_dashboard_shows_the_search(config: Config, tuned: tuple[TuneResult, str], tmp_path: pathlib.Path) -> None:
    result, _ = tuned
    client = registry.connect(config.tracking)
    run = client.get_run(result.run_id)
    assert run.data.tags["mlflow.note.content"] == result.summary()
    assert (
        run.data.metrics["best_mase"]
        == result.val_mase
        == min(point.value for point in client.get_metric_history(result.run_id, "trial_mase"))
    )
    client.download_artifacts(result.run_id, "", str(tmp_path))
    pictures = {path.name for path in (tmp_path / "figures").iterdir() if path.read_bytes().startswith(b"\x89PNG")}
    assert pictures == {"history.png"} | ({"importances.png"} if result.counts["complete"] >= 4 else set())
    best = yaml.safe_load((tmp_path / "best.yaml").read_text())
    assert best["model"] == json.loads(json.dumps(to_dict(result.config)))["model"]
    table = json.loads((tmp_path / "trials.json").read_text())
    assert table["columns"] == ["trial", "state", "val_mase", *sorted(SPACE), "epochs", "seconds", "reason"]
    assert table["data"][0][0] == result.best
    assert json.loads(run.data.tags["mlflow.loggedArtifacts"]) == [{"path": "trials.json", "type": "table"}]


def test_its_options_are_those_of_the_best_training(config: Config, tuned: tuple[TuneResult, str]) -> None:
    """The same options give the same figure again: nothing of the trials before is left in the process."""
    result, _ = tuned
    data = ingested(config).data
    _, series = read_series(data, until=UNTIL, stream=io.StringIO())
    again = fit(series, dataclasses.replace(result.config, data=data))
    assert again.backtest.mase == pytest.approx(result.val_mase, rel=1e-6)
    kept = yaml.safe_load(result.path.read_text())
    assert result.path.name == "dataset-tuning.yaml"
    assert {f"{section}.{name}" for section, given in kept.items() for name in given} == set(config.tuning.space)
    assert kept["model"]["hidden_size"] == result.config.model.hidden_size


def test_the_backtests_window_is_never_seen(tuned: tuple[TuneResult, str]) -> None:
    """In the window all values are a million: with one of them among its data no trial would be near the naive."""
    result, said = tuned
    assert f"{2 * (STEPS - WINDOW)} rows in 2 series from 2024-01-01T00:00:00Z to 2024-01-12T11:00:00Z" in said
    assert result.val_mase < 10


def test_the_same_search_again_does_nothing(config: Config, tuned: tuple[TuneResult, str]) -> None:
    result, _ = tuned
    assert tune(config, Context(key="k1", stream=io.StringIO())) == result
    assert len(runs(config, "tags.step = 'trial'")) == TRIALS


def test_another_key_shows_the_same_search_again(config: Config, tuned: tuple[TuneResult, str]) -> None:
    result, _ = tuned
    other = tune(config, Context(key="k2", stream=io.StringIO()))
    assert other.run_id != result.run_id
    assert dataclasses.replace(other, run_id=result.run_id) == result
    assert len(runs(config, "tags.step = 'trial'")) == TRIALS


def test_options_that_do_not_go_together_fail_with_a_reason(config: Config) -> None:
    space = {"model.layer_periods": [[1], [1, 2]], "model.num_layers": {"low": 1, "high": 2}}
    search = tuning_config(
        pathlib.Path(config.ingest.output).parent, config.tracking, trials=4, space=space, startup_trials=4
    )
    search = dataclasses.replace(search, training=dataclasses.replace(search.training, max_epochs=1, seed=3))
    result = tune(search, Context(stream=io.StringIO()))
    assert sum(result.counts.values()) == 4
    failed = runs(config, f"tags.mlflow.parentRunId = '{result.run_id}' and attributes.status = 'FAILED'")
    assert len(failed) == result.counts["failed"] >= 1
    for one in failed:
        assert one.data.tags["state"] == "failed"
        assert "model.layer_periods=" in one.data.tags["mlflow.note.content"]
        assert "model.num_layers" in one.data.params


def test_killed_and_started_again_it_makes_the_total(config: Config, tmp_path: pathlib.Path) -> None:
    search = dataclasses.replace(config, tuning=dataclasses.replace(config.tuning, study="killed", trials=3))
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(to_dict(search)))
    command = [sys.executable, "-m", "pipelines", "tune", "--config", str(path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("trial 1:"):
                break
        process.kill()
    (parent,) = [one for one in runs(config, "tags.step = 'tune'") if one.data.tags["study"].startswith("killed")]
    assert parent.info.status == "RUNNING"
    stream = io.StringIO()
    result = tune(search, Context(stream=stream))
    assert (result.run_id, sum(result.counts.values())) == (parent.info.run_id, 3)
    assert "trial 0:" not in stream.getvalue()  # it was done already
    assert "trial 2:" in stream.getvalue()  # the killed one's options
    trials = runs(config, f"tags.mlflow.parentRunId = '{parent.info.run_id}'")
    left = [one for one in trials if one.data.tags.get("state") == "left behind"]
    assert len(trials) - len(left) == 3
    assert {one.info.status for one in left} <= {"KILLED"}
    assert runs(config, "attributes.status = 'RUNNING'") == []


def test_what_cannot_be_searched_is_said_before_anything_is_made(tmp_path: pathlib.Path) -> None:
    tracking = TrackingConfig(uri=f"sqlite:///{tmp_path}/mlflow.db")
    made = tuning_config(tmp_path, tracking, trials=3)
    with pytest.raises(DataError, match="run `forecaster pipelines ingest` first, or retrain"):
        tune(made, Context())
    with pytest.raises(ConfigError, match=r"tuning\.trials=0 is not allowed: use 1 or more"):
        tune(dataclasses.replace(made, tuning=dataclasses.replace(made.tuning, trials=0)), Context())
    with pytest.raises(ConfigError, match=r"model\.hiden_size is no option"):
        tune(tuning_config(tmp_path, tracking, trials=3, space={**SPACE, "model.hiden_size": [1, 2]}), Context())
    assert list(tmp_path.iterdir()) == []
