"""From a challenger to a champion or a refusal, on a real store: what is written where, and what a kill leaves."""

import dataclasses
import datetime as dt
import hashlib
import io
import json
import math
import pathlib
import shutil
from collections.abc import Iterator

import polars as pl
import pytest
from mlflow import MlflowClient

from forecaster.config import BacktestConfig, Config, PromotionConfig
from forecaster.errors import FailedPreconditionError, ModelNotFoundError
from forecaster.evaluation.rolling import rolling_origin
from forecaster.registry import aliases, registry
from forecaster.registry.trial import TrialVerdict
from forecaster.serving.trial import try_here
from forecaster.training.run.job import read_series
from pipelines.__main__ import main
from pipelines.backtest.result import BacktestResult
from pipelines.backtest.step import backtest
from pipelines.context import Context
from pipelines.promotion.step import promote, rollback
from pipelines.training.dataset import ingested, read_manifest
from tests.integration.pipelines import promoting
from tests.integration.pipelines.promoting import GOOD, SPOILT, WEAK, WINDOW_START
from tests.killing import DyingClient, Killed

KEY = "feed"
FILES = ["promotion_decision.json", "promotion_report.html", "promotion_report.md"]


def context(key: str | None = KEY) -> Context:
    return Context(trigger="test", key=key, stream=io.StringIO())


def challenge(config: Config, version: str, key: str | None = KEY) -> None:
    """Make a version the challenger, as the training of a retraining does."""
    client = registry.connect(config.tracking)
    if key is not None:
        client.set_model_version_tag(config.tracking.model, version, "retrain_key", key)
    registry.set_alias(client, config.tracking, registry.CHALLENGER, version)


def names(config: Config) -> dict[str, str]:
    client = registry.connect(config.tracking)
    return {name: str(one) for name, one in client.get_registered_model(config.tracking.model).aliases.items()}


def read(config: Config, run_id: str, name: str) -> str:
    return pathlib.Path(registry.connect(config.tracking).download_artifacts(run_id, name)).read_text()


@pytest.fixture(scope="module")
def made(empty_store: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Return a store with a champion, WEAK, and no challenger; nobody may change it."""
    folder = tmp_path_factory.mktemp("promoting")
    shutil.copy(empty_store, folder / "mlflow.db")
    return promoting.make_store(folder)


@pytest.fixture(scope="module")
def good(made: Config, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, BacktestResult]:
    """Return a copy in which GOOD is the challenger and has its backtest; nobody may change it."""
    config = promoting.clone(made, tmp_path_factory.mktemp("good"))
    challenge(config, GOOD)
    return config, backtest(config, context())


@pytest.fixture
def config(made: Config, tmp_path: pathlib.Path) -> Config:
    """Return a store of the test's own."""
    return promoting.clone(made, tmp_path / "store")


@pytest.fixture
def scored(good: tuple[Config, BacktestResult], tmp_path: pathlib.Path) -> Config:
    """Return a store of the test's own in which GOOD has its backtest."""
    return promoting.clone(good[0], tmp_path / "store")


def test_a_backtest_is_what_each_model_scores_on_the_window(good: tuple[Config, BacktestResult]) -> None:
    config, result = good
    assert result.versions == {"challenger": GOOD, "champion": WEAK}
    assert result.whole.first_time == WINDOW_START
    assert (result.series, result.whole.origins) == (promoting.SERIES, promoting.SERIES * promoting.WINDOW)
    _, series = read_series(ingested(config).data, until=None, stream=io.StringIO())
    for name, version in result.versions.items():
        model = registry.load_bundle(config.tracking, version)[1].model
        alone = rolling_origin(model, series, first_time_us=int(WINDOW_START.timestamp() * 1e6))
        metrics = alone.metrics()
        naive = metrics.pop("seasonal_naive_mase")
        assert result.whole.figures[name] == pytest.approx(metrics)
        assert result.whole.figures["seasonal_naive"]["mase"] == pytest.approx(naive)
        assert result.by_horizon[name] == pytest.approx(alone.mase_by_horizon)
    assert [fold.origins for fold in result.folds] == [54, 54, 60]
    assert result.folds[0].first_time == WINDOW_START
    assert result.folds[-1].last_time == result.whole.last_time
    assert result.data == read_manifest(config).content_hash
    assert result.notes == ()


def test_the_dashboard_shows_the_backtest(good: tuple[Config, BacktestResult]) -> None:
    config, result = good
    client = registry.connect(config.tracking)
    run = client.get_run(result.run_id)
    wanted = {"step": "backtest", "trigger": "test", "retrain_key": KEY, "challenger_version": GOOD}
    assert (wanted | {"champion_version": WEAK}).items() <= run.data.tags.items()
    assert run.info.status == "FINISHED"
    for name, figures in result.whole.figures.items():
        for figure, value in figures.items():
            assert run.data.metrics[f"{name}_{figure}"] == pytest.approx(value)
        curve = client.get_metric_history(result.run_id, f"{name}_mase_by_horizon")
        assert [one.value for one in sorted(curve, key=lambda one: one.step)] == list(result.by_horizon[name])
    (data,) = run.inputs.dataset_inputs
    assert [(tag.key, tag.value) for tag in data.tags] == [("mlflow.data.context", "backtest")]
    for name, version in result.versions.items():
        model_id = registry.resolve(config.tracking, version).model_id
        linked = {one.key: one for one in client.get_logged_model(model_id).metrics or []}
        metric = linked[f"{name}_mase"]
        assert (metric.run_id, metric.dataset_digest) == (result.run_id, data.dataset.digest)
        assert metric.value == result.whole.figures[name]["mase"]
    assert {one.model_id for one in run.inputs.model_inputs} == {
        registry.resolve(config.tracking, version).model_id for version in (WEAK, GOOD)
    }


def test_folds_are_nested_runs_and_tables_are_artifacts(good: tuple[Config, BacktestResult]) -> None:
    config, result = good
    client = registry.connect(config.tracking)
    nested = client.search_runs(
        [client.get_run(result.run_id).info.experiment_id],
        f"tags.mlflow.parentRunId = '{result.run_id}'",
        order_by=["attributes.start_time ASC"],
    )
    assert [run.info.run_name for run in nested] == ["fold 1", "fold 2", "fold 3"]
    assert {run.info.status for run in nested} == {"FINISHED"}
    for run, fold in zip(nested, result.folds, strict=True):
        assert dt.datetime.fromisoformat(run.data.params["first_time"]) == fold.first_time
        assert dt.datetime.fromisoformat(run.data.params["last_time"]) == fold.last_time
        assert run.data.metrics["challenger_mase"] == pytest.approx(fold.figures["challenger"]["mase"])
        assert run.data.metrics["origins"] == fold.origins
    figures = {one.path for one in client.list_artifacts(result.run_id, "figures")}
    assert figures == {f"figures/by_{name}.png" for name in ("fold", "horizon", "series")}
    table = pl.read_parquet(client.download_artifacts(result.run_id, "tables/by_series.parquet"))
    assert table["challenger_mase"].mean() == pytest.approx(result.whole.figures["challenger"]["mase"])
    worse = table["challenger_mase"] - table["champion_mase"]
    assert worse.is_sorted(descending=True)
    shown = json.loads(read(config, result.run_id, "tables/by_horizon.json"))
    assert shown["columns"] == ["step", "challenger_mase", "champion_mase", "seasonal_naive_mase"]
    assert [row[1] for row in shown["data"]] == pytest.approx(list(result.by_horizon["challenger"]))


def test_a_backtest_of_the_same_retraining_is_read_back(scored: Config) -> None:
    again = backtest(scored, context())
    client = registry.connect(scored.tracking)
    assert str(again) == str(backtest(scored, context()))
    assert len(runs(client, scored)) == 1
    challenge(scored, GOOD, "another key")
    assert backtest(scored, context("another key")).run_id != again.run_id
    challenge(scored, GOOD)
    registry.set_alias(client, scored.tracking, registry.CHAMPION, SPOILT)
    now = backtest(scored, context())  # the champion is another one: what was measured is of no use
    assert now.versions["champion"] == SPOILT
    assert len(runs(client, scored)) == 3


def runs(client: MlflowClient, config: Config) -> list:
    return list(client.search_runs([registry.experiment_id(client, config.tracking)], "tags.step = 'backtest'"))


def test_a_challenger_that_has_seen_the_window_is_refused(config: Config) -> None:
    client = registry.connect(config.tracking)
    with pytest.raises(ModelNotFoundError, match="no version of forecaster is the challenger"):
        backtest(config, context())
    challenge(config, GOOD)
    for seen, told in ((WINDOW_START, "has seen data up to 2024-01-12T08:00:00"), (None, "does not say what it has")):
        client.delete_model_version_tag(config.tracking.model, GOOD, "data_window_end")
        if seen is not None:
            aliases.tag(client, config.tracking, GOOD, {"data_window_end": seen.isoformat()})
        with pytest.raises(FailedPreconditionError, match=told) as caught:
            backtest(config, context())
        assert "forecaster pipelines train --until 2024-01-12T08:00:00Z" in str(caught.value)
        if seen is None:
            aliases.tag(client, config.tracking, GOOD, {"data_window_end": "2024-01-01"})
    assert not runs(client, config)
    challenge(config, WEAK)
    with pytest.raises(FailedPreconditionError, match="version 1 is the champion already"):
        backtest(config, context())


def test_a_champion_that_has_seen_some_of_the_window_is_noted(config: Config) -> None:
    client = registry.connect(config.tracking)
    challenge(config, GOOD)
    seen = (WINDOW_START + dt.timedelta(hours=4)).isoformat()
    aliases.tag(client, config.tracking, WEAK, {"data_window_end": seen})
    result = backtest(config, context())
    assert result.notes == ("the champion has learnt from the first 5 of the 28 steps: it is harder to beat",)
    assert result.notes[0] in result.table()
    decision = promote(config, context())
    assert "The champion has learnt from the first 5" in read(config, decision.run_id, FILES[1])


def test_a_better_challenger_becomes_the_champion_and_everybody_can_read_why(scored: Config) -> None:
    client = registry.connect(scored.tracking)
    decision = promote(scored, context())
    assert decision.promoted
    assert names(scored) == {"champion": GOOD, "previous": WEAK}
    version = client.get_model_version(scored.tracking.model, GOOD)
    assert version.tags["validation_status"] == "passed"
    assert version.tags["promotion_reason"] == decision.reason
    assert version.tags["promotion_run"] == decision.run_id
    assert version.description.startswith("a test's\n\n**Backtest:** promoted: MASE 0.")
    run = client.get_run(decision.run_id)
    page = f"#/experiments/{run.info.experiment_id}/runs/{decision.run_id}/artifacts/promotion_report.html"
    assert f"[report]({page})" in version.description
    assert run.data.tags["verdict"] == "promoted"
    assert decision.reason in run.data.tags["mlflow.note.content"]
    assert {one.path for one in client.list_artifacts(decision.run_id)} >= set(FILES)
    plain = json.loads(read(scored, decision.run_id, FILES[0]))
    assert (plain["outcome"], plain["version"], plain["champion"]) == ("promoted", GOOD, WEAK)
    assert plain["data"] == read_manifest(scored).content_hash
    assert read(scored, decision.run_id, FILES[1]).count("data:image/png;base64,") == 3
    assert str(promote(scored, context())) == str(decision)  # again: what was decided, and nothing changes
    assert promote(scored, context(None)).line() == (
        "nothing to do: forecaster version 2 is the champion, and no other version is the challenger"
    )
    assert str(backtest(scored, context())) != ""  # still read back, for a retraining that is taken up again
    assert len(runs(client, scored)) == 1


def test_a_challenger_made_worse_on_purpose_is_refused_and_everybody_can_read_why(config: Config) -> None:
    client = registry.connect(config.tracking)
    challenge(config, SPOILT)
    backtest(config, context())
    decision = promote(config, context())
    assert not decision.promoted
    assert names(config) == {"champion": WEAK, "challenger": SPOILT}
    reason = "it does not beat the champion (MASE "
    assert decision.reason.startswith(reason)
    version = client.get_model_version(config.tracking.model, SPOILT)
    assert version.tags["validation_status"] == "failed"
    assert version.tags["promotion_reason"].startswith(reason)
    assert f"**Backtest:** refused: {reason}" in version.description
    plain = json.loads(read(config, decision.run_id, FILES[0]))
    assert plain["outcome"] == "refused"
    assert plain["reason"].startswith(reason)
    assert plain["clauses"][0]["passed"] is False
    assert reason in read(config, decision.run_id, FILES[1])
    assert reason in read(config, decision.run_id, FILES[2])
    assert client.get_run(decision.run_id).data.tags["verdict"] == "refused"
    before = version.description
    assert promote(config, context()).time == decision.time
    assert client.get_model_version(config.tracking.model, SPOILT).description == before
    stricter = dataclasses.replace(config, promotion=PromotionConfig(margin=0.5))
    assert promote(stricter, context()).rule["margin"] == 0.5  # another rule: it is decided anew


def test_the_first_model_ever_has_only_the_seasonal_naive_to_beat(config: Config) -> None:
    client = registry.connect(config.tracking)
    client.delete_registered_model_alias(config.tracking.model, registry.CHAMPION)
    challenge(config, GOOD)
    result = backtest(config, context(None))
    assert result.candidates() == ["challenger", "seasonal_naive"]
    assert result.measured().champion_mase is None
    assert promote(config, context(None)).promoted
    assert names(config) == {"champion": GOOD}


def test_a_challenger_of_somebody_else_is_not_judged_by_a_retraining(config: Config) -> None:
    """Another one was trained by hand meanwhile: its backtest would be this retraining's."""
    challenge(config, GOOD, key=None)
    with pytest.raises(FailedPreconditionError, match="is not of this retraining"):
        backtest(config, context())


def test_a_dry_run_says_the_same_and_writes_nothing(scored: Config) -> None:
    def everything() -> dict[str, str]:
        folder = pathlib.Path(scored.ingest.output).parent
        files = (path for path in sorted(folder.rglob("*")) if path.is_file())
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    before = everything()
    tried = promote(scored, context(), dry_run=True)
    assert everything() == before
    done = promote(scored, context())
    assert tried.line() == (
        "dry run, nothing was changed: " + done.line().replace(" is the champion in", " would become the champion in")
    )
    assert (tried.clauses, tried.measured) == (done.clauses, done.measured)
    before = everything()
    promote(scored, context(), dry_run=True)
    assert everything() == before


def test_promotion_asks_for_a_backtest_of_today(scored: Config) -> None:
    client = registry.connect(scored.tracking)
    with pytest.raises(FailedPreconditionError, match="version 2, the challenger, has no finished backtest"):
        promote(scored, context("another key"))
    registry.set_alias(client, scored.tracking, registry.CHAMPION, SPOILT)
    with pytest.raises(FailedPreconditionError, match="is version 3 now, and the backtest was against version 1"):
        promote(scored, context())
    assert "validation_status" not in client.get_model_version(scored.tracking.model, GOOD).tags
    nowhere = dataclasses.replace(scored.tracking, uri=f"{scored.tracking.uri}.not")
    with pytest.raises(ModelNotFoundError, match="there is no such file"):
        promote(dataclasses.replace(scored, tracking=nowhere), context())
    with pytest.raises(ModelNotFoundError, match="there is no such file"):
        rollback(dataclasses.replace(scored, tracking=nowhere))


def test_a_promotion_killed_before_any_write_is_ended_by_the_next(
    scored: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    whole = registry.connect
    champions, writes = [], 0
    while True:
        config = promoting.clone(scored, tmp_path / f"killed-{writes}")
        with monkeypatch.context() as patched:
            patched.setattr(registry, "connect", lambda tracking, n=writes: DyingClient(whole(tracking), n))
            try:
                promote(config, context())
            except Killed:
                pass
            else:
                break
        champions.append(registry.load_bundle(config.tracking)[0].version)  # it serves
        decision = promote(config, context())
        assert decision.promoted
        assert names(config) == {"champion": GOOD, "previous": WEAK}
        version = registry.resolve(config.tracking, GOOD)
        assert version.tags["promotion_run"] == decision.run_id
        assert json.loads(read(config, decision.run_id, FILES[0]))["outcome"] == "promoted"
        writes += 1
    assert champions == [WEAK] * (writes - 1) + [GOOD]


def test_rollback_by_the_command_line_undoes_a_promotion_and_itself(
    scored: Config, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = [f"--tracking.uri={scored.tracking.uri}"]
    assert main(["promote", *where, "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith("dry run, nothing was changed: forecaster version 2 would become")
    assert main(["promote", *where, "--promotion.margin=0.9"]) == 0
    assert capsys.readouterr().out.startswith("forecaster version 2 is not the champion (version 1 stays): it does not")
    assert main(["promote", *where]) == 0
    assert capsys.readouterr().out.startswith("forecaster version 2 is the champion in place of version 1: MASE 0.")
    for back, out in ((WEAK, GOOD), (GOOD, WEAK)):
        assert main(["rollback", *where]) == 0
        assert capsys.readouterr().out == (
            f"forecaster version {back} is the champion again, in place of version {out}, which is `previous` now:"
            " the same command undoes it\n"
        )
        assert names(scored) == {"champion": back, "previous": out}
        assert registry.resolve(scored.tracking, out).tags["rolled_back_by"] == back
    registry.connect(scored.tracking).delete_registered_model_alias(scored.tracking.model, registry.PREVIOUS)
    assert main(["rollback", *where]) == 2
    error = "error: forecaster has no version before the champion: there is nothing to go back to\n"
    assert capsys.readouterr().err == error


def test_forecasts_that_are_not_finite_are_not_hidden_by_other_series(
    scored: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.backtest import step

    scores = step.score_all

    def broken(*arguments: object) -> dict[str, list]:
        found = scores(*arguments)  # type: ignore[arg-type]
        for part, one in enumerate(found["challenger"]):
            worst = dataclasses.replace(one.series[0], mase=math.nan)
            found["challenger"][part] = dataclasses.replace(one, series=(worst, *one.series[1:]))
        return found

    monkeypatch.setattr(step, "score_all", broken)
    challenge(scored, GOOD, "broken")
    result = backtest(scored, context("broken"))
    assert result.notes == ("forecasts of the challenger are not finite for 1 series",)
    decision = promote(scored, context("broken"))
    assert not decision.promoted
    assert "it does not beat the champion" in decision.reason
    assert "forecasts or figures that are not finite" in decision.reason


def test_the_window_and_its_folds_are_the_configurations(config: Config) -> None:
    challenge(config, GOOD)
    shorter = dataclasses.replace(config, backtest=BacktestConfig(steps=10, folds=1))
    result = backtest(shorter, context(None))
    assert result.whole.first_time == WINDOW_START + dt.timedelta(hours=promoting.WINDOW - 10)
    assert len(result.folds) == 1
    assert result.whole.origins == 10 * promoting.SERIES


@pytest.fixture(autouse=True)
def tried_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try versions in this process: one of their own takes seconds, and is what `test_trial.py` is about."""
    monkeypatch.setattr(
        "pipelines.promotion.step.try_version",
        lambda tracking, version, rows: TrialVerdict("", try_here(tracking, version, rows)),
    )


@pytest.fixture(autouse=True)
def no_pickle(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let nothing be unpickled."""
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    return
