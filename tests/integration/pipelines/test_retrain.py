"""The loop closed: a server's journal, ingested, retrained on, promoted, served; killed at every step on the way."""

import dataclasses
import datetime as dt
import json
import pathlib
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import polars as pl
import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run

from forecaster.client import ForecastClient, RetryPolicy
from forecaster.config import (
    BacktestConfig,
    Config,
    DataConfig,
    IngestConfig,
    ModelConfig,
    PromotionConfig,
    TrackingConfig,
    TrainingConfig,
    to_dict,
)
from forecaster.data.schema import read_frame
from forecaster.registry import registry
from tests.integration.conftest import ServerFactory, make_bundle
from tests.integration.nursery import Forked, Nursery

START = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
SERIES, HISTORY = 4, 300  # series, hours of each in the file
PICKED_UP_SECONDS = 15.0  # design.md's bar for a promotion to be served
# Where a retraining is killed: the step, the module that calls the function, and the function.
KILLS = (
    ("ingest, files written and no manifest", "forecaster.data.manifest", "Manifest.write"),
    ("train, before its first epoch is over", "forecaster.training.callbacks", "History.on_train_epoch_end"),
    ("train, logged and not registered", "forecaster.registry.registry", "register"),
    ("train, registered and no challenger", "forecaster.registry.registry", "set_alias"),
    ("backtest, not scored", "pipelines.backtest.step", "score_all"),
    ("backtest, scored and not logged", "pipelines.backtest.runs", "log_result"),
    ("promote, not decided", "pipelines.promotion.decision", "judge"),
    ("promote, decided and nothing moved", "forecaster.registry.aliases", "set_alias"),
    ("promote, champion and still challenger", "forecaster.registry.aliases", "_end_challenge"),
    ("promoted, and the attempt not ended", "pipelines.retrain", "_ended"),
)

KILLED_IN_THE_LOOP = tuple(KILLS[k][0] for k in (0, 1, 5, 7))


def hours(start: int, count: int) -> pl.DataFrame:
    """Return `count` hours of wandering series with a season of 12 hours, columns unique_id, ds, y."""
    frames = []
    for k in range(SERIES):
        rng = np.random.default_rng(k)
        steps = np.arange(start + count)
        level = 50 + np.convolve(rng.normal(size=2000), 0.9 ** np.arange(40))[: start + count]
        y = level + 4 * np.sin(steps * np.pi / 6) + 0.3 * np.random.default_rng([k, 1]).normal(size=2000)[steps]
        times = [START + dt.timedelta(hours=i) for i in range(start + count)]
        frames.append(pl.DataFrame({"unique_id": f"m{k}", "ds": times, "y": y})[start:])
    return pl.concat(frames).with_columns(pl.col("ds").cast(pl.Datetime("us", "UTC"))).sort("ds", "unique_id")


@pytest.fixture
def config(tracking: TrackingConfig, tmp_path: pathlib.Path) -> Config:
    """Return a configuration whose source is a file of history."""
    hours(0, HISTORY).write_csv(tmp_path / "meters.csv")
    return Config(
        data=DataConfig(path=str(tmp_path / "meters.csv")),
        model=ModelConfig(hidden_size=8, num_layers=1, decoder_size=8, horizon=4, season_lengths=(12,)),
        training=TrainingConfig(max_epochs=1, min_updates=8, chunk_steps=24, validation_steps=40, threads=1),
        tracking=tracking,
        ingest=IngestConfig(output=str(tmp_path / "dataset")),
        backtest=BacktestConfig(steps=24, folds=2),
        promotion=PromotionConfig(margin=0.0),  # these models are barely trained, and a little better is enough here
    )


@pytest.fixture(scope="module")
def steps() -> Iterator[Nursery]:
    """Return what starts the steps of pipelines quickly."""
    made = Nursery("pipelines")
    yield made
    made.close()


@dataclasses.dataclass
class Pipelines:
    """Runs steps in processes of their own."""

    nursery: Nursery
    folder: pathlib.Path
    ran: int = 0

    def __call__(self, config: Config, *arguments: str, kill_at: tuple[str, str] | None = None) -> tuple[int, str]:
        """Run a step to its end and return its exit status and what it said."""
        return self.end(self.begin(config, *arguments, kill_at=kill_at))

    def begin(self, config: Config, *arguments: str, kill_at: tuple[str, str] | None = None) -> Forked:
        """Start a step."""
        self.ran += 1
        path = self.folder / f"config-{self.ran}.yaml"
        path.write_text(yaml.safe_dump(to_dict(config)))
        return self.nursery.start([*arguments, "--config", str(path)], self._log(self.ran), kill_at=kill_at)

    def end(self, child: Forked, number: int | None = None) -> tuple[int, str]:
        """Wait for the last step that was started, or for another, and return its exit status and what it said."""
        status = child.wait(120)
        return status, self._log(number or self.ran).read_text()

    def _log(self, number: int) -> pathlib.Path:
        return self.folder / f"step-{number}.log"


@pytest.fixture
def run(steps: Nursery, tmp_path: pathlib.Path) -> Pipelines:
    """Return what runs steps."""
    return Pipelines(steps, tmp_path)


class Traffic:
    """Observes hour after hour and forecasts, without a retry, until told to stop."""

    def __init__(self, address: str, first_hour: int) -> None:
        self._address, self._stop, self._first = address, threading.Event(), first_hour
        self.hours, self.failures, self.versions = 0, list[BaseException](), list[str]()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> "Traffic":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(180)

    def _work(self) -> None:
        try:
            with ForecastClient(
                self._address, retry=RetryPolicy(timeout_seconds=60, first_delay_seconds=100)
            ) as client:
                while not self._stop.wait(0.1):
                    client.observe(hours(self._first + self.hours, 1)).raise_for_rejections()
                    self.hours += 1
                    assert client.forecast([f"m{k}" for k in range(SERIES)])["y_hat"].is_finite().all()
                    self.versions.append(client.get_series("m0").model_version)
        except BaseException as error:  # noqa: BLE001 -- shown by the test
            self.failures.append(error)


def attempts(client: MlflowClient, config: Config, step: str = "retrain") -> list[Run]:
    """Return the runs of a step, the oldest first."""
    experiment = registry.experiment_id(client, config.tracking)
    found: list[Run] = client.search_runs([experiment], f"tags.step = '{step}'", order_by=["attributes.start_time ASC"])
    return found


def champion(config: Config) -> str:
    """Return the champion's version."""
    return registry.resolve(config.tracking).version


def served(address: str) -> str:
    """Return the version that a server serves."""
    with ForecastClient(address) as client:
        return client.get_model().version


def wait_until(holds: Callable[[], bool], seconds: float) -> float:
    """Return after how many seconds it holds."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < seconds
        time.sleep(0.05)
    return time.monotonic() - began


def test_the_same_data_is_trained_on_once(config: Config, run: Pipelines) -> None:
    """A second run says so; other data, or another configuration, is another matter."""
    status, said = run(config, "retrain")
    assert status == 0, said
    client = registry.connect(config.tracking)
    assert registry.resolve(config.tracking).version == "1"
    status, said = run(config, "retrain", "--trigger", "cron")
    assert (status, "nothing new" in said) == (0, True), said
    assert [(one.info.status, one.data.tags["trigger"]) for one in attempts(client, config)] == [("FINISHED", "manual")]
    hours(0, HISTORY + 1).write_csv(str(config.data.path))
    status, said = run(config, "retrain", "--trigger", "cron")
    assert (status, "nothing new" in said) == (0, False), said
    assert [one.data.tags["trigger"] for one in attempts(client, config)] == ["manual", "cron"]


def test_a_retraining_that_is_killed_anywhere_is_finished_by_the_next(config: Config, run: Pipelines) -> None:
    """Killed at one step after another, the work is done once and nothing is left half-done."""
    for step, *kill_at in KILLS:
        status, said = run(config, "retrain", kill_at=(kill_at[0], kill_at[1]))
        assert status == -9, f"{step}: {said}"
    status, said = run(config, "retrain")
    assert status == 0, said
    client = registry.connect(config.tracking)
    *killed, last = attempts(client, config)
    assert [one.info.status for one in killed] == ["KILLED"] * (len(KILLS) - 1)  # the first was killed before its run
    assert (last.info.status, last.data.tags["attempt_number"]) == ("FINISHED", str(len(KILLS)))
    (version,) = client.search_model_versions(f"name = '{config.tracking.model}'")
    assert registry.resolve(config.tracking).version == str(version.version) == "1"
    for step in ("train", "backtest"):
        assert [one.info.status for one in attempts(client, config, step)].count("FINISHED") == 1
        assert "RUNNING" not in {one.info.status for one in attempts(client, config, step)}
    status, said = run(config, "retrain")
    assert (status, "nothing new" in said) == (0, True), said


KILLED = {step: (module, function) for step, module, function in KILLS}


def test_what_was_interrupted_is_finished_before_newer_data_is_ingested(config: Config, run: Pipelines) -> None:
    """Where data never stops coming, nothing would ever be finished otherwise."""
    status, said = run(config, "retrain", kill_at=KILLED["backtest, not scored"])
    assert status == -9, said
    hours(0, HISTORY + 1).write_csv(str(config.data.path))
    status, said = run(config, "retrain")
    assert (status, "goes on with a retraining that was interrupted" in said) == (0, True), said
    assert champion(config) == "1"
    status, said = run(config, "retrain")
    assert (status, "nothing new" in said) == (0, False), said
    client = registry.connect(config.tracking)
    assert [one.info.status for one in attempts(client, config)] == ["KILLED", "FINISHED", "FINISHED"]
    assert [one.data.tags["attempt_number"] for one in attempts(client, config)] == ["1", "2", "1"]


def test_what_was_rolled_back_is_not_put_back_by_an_attempt_that_goes_on(config: Config, run: Pipelines) -> None:
    """The attempt was killed behind its promotion, and somebody did not like what was promoted."""
    status, said = run(config, "retrain")
    assert status == 0, said
    better = dataclasses.replace(config, training=dataclasses.replace(config.training, max_epochs=4, min_updates=16))
    status, said = run(better, "retrain", kill_at=KILLED["promoted, and the attempt not ended"])
    assert (status, champion(config)) == (-9, "2"), said
    status, said = run(better, "rollback")
    assert (status, champion(config)) == (0, "1"), said
    status, said = run(better, "retrain")
    assert (status, champion(config)) == (0, "1"), said
    assert "version 2 was rolled back" in said


def test_an_ingest_that_fails_is_seen_on_the_dashboard(config: Config, run: Pipelines) -> None:
    """Not only in the log of a job that nobody reads."""
    gone = dataclasses.replace(config, data=dataclasses.replace(config.data, path=f"{config.data.path}.gone"))
    status, said = run(gone, "retrain", "--trigger", "cron")
    assert status == 2, said
    (attempt,) = attempts(registry.connect(config.tracking), config)
    assert (attempt.info.status, attempt.data.tags["trigger"]) == ("FAILED", "cron")
    assert "meters.csv.gone" in attempt.data.tags["error"]


def test_of_two_at_once_one_leaves(config: Config, run: Pipelines) -> None:
    """It says who is at work; the work is done once."""
    children = [run.begin(config, "retrain") for _ in range(2)]
    ended = sorted(run.end(child, number) for number, child in enumerate(children, start=1))
    assert [status for status, _ in ended] == [0, 2], ended
    assert "retrain" in ended[1][1].splitlines()[-1]
    client = registry.connect(config.tracking)
    assert [one.info.status for one in attempts(client, config)] == ["FINISHED"]
    assert len(client.search_model_versions(f"name = '{config.tracking.model}'")) == 1


@pytest.fixture
def servers(config: Config, run: Pipelines, tmp_path: pathlib.Path, nursery: Nursery) -> Iterator[ServerFactory]:
    """Return what starts servers of a first, barely trained champion."""
    status, said = run(config, "retrain")
    assert status == 0, said
    factory = ServerFactory(config.tracking, make_bundle(), tmp_path, nursery)
    yield factory
    factory.end()


def test_what_a_server_observed_comes_back_to_it_as_a_better_model(
    config: Config, servers: ServerFactory, run: Pipelines, tmp_path: pathlib.Path
) -> None:
    """Journal, ingest, train, backtest, promote, swap: each killed once, under load of which no request fails."""
    server = servers("--serving.snapshot_seconds=1", "--serving.journal_seconds=2")  # some of it becomes Parquet files
    with ForecastClient(server.address) as client:
        client.observe(hours(0, HISTORY)).raise_for_rejections()
    again = dataclasses.replace(
        config,
        ingest=dataclasses.replace(config.ingest, state=str(tmp_path / "state")),
        training=dataclasses.replace(config.training, max_epochs=4, min_updates=16),
    )
    with Traffic(server.address, HISTORY) as traffic:
        for step in KILLED_IN_THE_LOOP:
            status, said = run(again, "retrain", kill_at=KILLED[step])
            assert status == -9, f"{step}: {said}"
        assert (champion(config), served(server.address)) == ("1", "1")
        child = run.begin(again, "retrain", "--trigger", "new_observations")
        wait_until(lambda: champion(config) != "1", 120)
        seconds = wait_until(lambda: served(server.address) == champion(config), PICKED_UP_SECONDS)
        status, said = run.end(child)
        assert status == 0, said
        wait_until(lambda: traffic.versions[-1] != "1", PICKED_UP_SECONDS)
    print(f"served {seconds:.1f} s after the promotion")
    assert not traffic.failures
    assert list(dict.fromkeys(traffic.versions)) == ["1", champion(config)]
    server.kill()
    server = servers()
    assert served(server.address) == champion(config)
    status, said = run(again, "ingest")
    assert status == 0, said
    manifest = json.loads((tmp_path / "dataset" / "manifest.json").read_text())
    assert manifest["rows"] == SERIES * (HISTORY + traffic.hours)
    kept = read_frame(dataclasses.replace(config.data, path=str(tmp_path / "dataset"))).select("unique_id", "ds", "y")
    assert kept.equals(hours(0, HISTORY + traffic.hours).sort("unique_id", "ds"))
