"""What people see: MLflow's pages on a store that two retrainings made, in a real browser.

Screenshots of every page go to `build/screenshots`.
"""

import contextlib
import dataclasses
import io
import pathlib
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import psutil
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from playwright.sync_api import Page, Response, expect

from forecaster.cli import main
from forecaster.config import BacktestConfig, IngestConfig, TrackingConfig
from forecaster.registry import registry
from forecaster.registry.registry import CHALLENGER, CHAMPION
from pipelines.retrain import retrain
from tests.chromium import headless_chromium
from tests.integration.training.test_train_pipeline import make_config, write_csv

SCREENSHOTS = pathlib.Path(__file__).resolve().parents[2] / "build" / "screenshots"
PAGE_MS = 60_000
SEEN_BEFORE = {  # what MLflow shows to those who come for the first time
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
    "mlflow.workflowType_v1": '"machine_learning"',
}
PICTURES = {
    "train": ("calibration.png", "error_by_horizon.png", "fan_chart.png"),
    "backtest": ("by_fold.png", "by_horizon.png", "by_series.png"),
}
# MLflow's pages ask for it, and only servers with the auth app answer.
NOT_THERE = "/users/current"


def fill_store(folder: pathlib.Path, tracking: TrackingConfig) -> None:
    """Retrain twice: the first model becomes the champion, the second had no time to learn and is refused."""
    write_csv(folder / "meters.csv")
    config = make_config(folder / "meters.csv", tracking)
    config = dataclasses.replace(
        config, ingest=IngestConfig(output=str(folder / "dataset")), backtest=BacktestConfig(steps=24, folds=2)
    )
    assert retrain(config, stream=io.StringIO()).outcome == "promoted"
    hurried = dataclasses.replace(config.training, max_epochs=1, min_updates=2)
    worse = dataclasses.replace(config, training=hurried)
    assert retrain(worse, trigger="drift", stream=io.StringIO()).outcome == "refused"


@dataclass
class Store:
    """What the pages are about.

    Args:
        tracking: where it is kept.
        client: of it.
        experiment: the experiment's id.
    """

    tracking: TrackingConfig
    client: MlflowClient
    experiment: str

    def run(self, step: str) -> Run:
        """Return the newest run of a step."""
        found = self.client.search_runs([self.experiment], f"tags.step = '{step}'", max_results=1)
        return found[0]


@dataclass
class Dashboard:
    """The command under way, and a browser's page.

    Args:
        process: of the command.
        url: that it says.
        page: of the browser.
        asked: hosts that the page's requests went to.
        failed: answers that say that something is wrong.
    """

    process: "subprocess.Popen[str]"
    url: str
    page: Page
    asked: set[str]
    failed: list[str]

    def open(self, path: str) -> Page:
        """Load a page from the start."""
        self.page.goto("about:blank")
        self.page.goto(f"{self.url.partition('#')[0]}#{path}")
        return self.page

    def shoot(self, name: str) -> None:
        """Keep what there is to see."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png")


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory, empty_store: pathlib.Path) -> TrackingConfig:
    folder = tmp_path_factory.mktemp("store")
    shutil.copy(empty_store, folder / "mlflow.db")
    return TrackingConfig(uri=f"sqlite:///{folder}/mlflow.db")


@pytest.fixture(scope="module")
def process(tracking: TrackingConfig) -> Iterator["subprocess.Popen[str]"]:
    """Start the command, on the store that is filled while it starts."""
    command = [
        sys.executable,
        "-m",
        "forecaster",
        "dashboard",
        "--port=0",
        "--no-open",
        f"--tracking.uri={tracking.uri}",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as started:
        yield started
        started.terminate()


@pytest.fixture(scope="module")
def store(
    tracking: TrackingConfig, process: "subprocess.Popen[str]", tmp_path_factory: pytest.TempPathFactory
) -> Store:
    fill_store(tmp_path_factory.mktemp("data"), tracking)
    client = registry.connect(tracking)
    return Store(tracking, client, registry.experiment_id(client, tracking))


@pytest.fixture(scope="module")
def dashboard(store: Store, process: "subprocess.Popen[str]") -> Iterator[Dashboard]:
    with headless_chromium() as browser:
        assert process.stdout is not None
        words = process.stdout.readline().split()
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.set_default_timeout(PAGE_MS)
        expect.set_options(timeout=PAGE_MS)
        for name, value in SEEN_BEFORE.items():
            page.add_init_script(f"localStorage.setItem({name!r}, {value!r})")
        asked: set[str] = set()
        failed: list[str] = []

        def note(response: Response) -> None:
            if response.status >= 400 and not response.url.endswith(NOT_THERE):
                failed.append(f"{response.status} {response.url}")

        page.on("request", lambda request: asked.add(request.url.partition("://")[2].partition("/")[0]))
        page.on("response", note)
        yield Dashboard(process, words[2], page, asked, failed)


def test_the_experiment_lists_the_retrainings(store: Store, dashboard: Dashboard) -> None:
    page = dashboard.open("/experiments")
    page.get_by_role("link", name=store.tracking.experiment, exact=True).click()
    for name in ("retrain (manual): promoted", "retrain (drift): refused"):
        expect(page.get_by_role("link", name=name, exact=True)).to_have_count(1)
    dashboard.shoot("runs")


def test_a_retrainings_page_says_what_became_of_it(store: Store, dashboard: Dashboard) -> None:
    run = store.run("retrain")
    page = dashboard.open(f"/experiments/{store.experiment}/runs/{run.info.run_id}")
    expect(page.get_by_text("does not beat the champion").first).to_be_visible()
    for child in ("train", "backtest"):
        expect(page.get_by_role("link", name=store.run(child).info.run_name, exact=True).first).to_be_visible()
    dashboard.shoot("retrain")


def test_a_trainings_page_draws_its_curves(store: Store, dashboard: Dashboard) -> None:
    run = store.client.get_run(store.client.get_model_version(store.tracking.model, "1").run_id)
    page = dashboard.open(f"/experiments/{store.experiment}/runs/{run.info.run_id}/model-metrics")
    for name in ("train_loss", "val_mase", "learning_rate"):
        page.get_by_placeholder("Search metric charts").fill(name)
        expect(page.locator(".js-plotly-plot .scatterlayer .trace").first).to_be_visible()
        expect(page.get_by_text(name, exact=True).first).to_be_visible()
    dashboard.shoot("curves")


@pytest.mark.parametrize("step", PICTURES)
def test_pictures_show(store: Store, dashboard: Dashboard, step: str) -> None:
    run = store.run(step)
    first, *others = PICTURES[step]
    page = dashboard.open(f"/experiments/{store.experiment}/runs/{run.info.run_id}/artifacts/figures/{first}")
    for name in (first, *others):
        page.get_by_text(name, exact=True).first.click()
        expect(page.get_by_text(f"figures/{name}", exact=True).first).to_be_visible()
        picture = page.locator("img[src^='blob:'], img[src*='artifact']").first
        expect(picture).to_be_visible()
        assert picture.evaluate("async one => { await one.decode(); return one.naturalWidth }") > 300
        dashboard.shoot(f"{step}-{name.removesuffix('.png')}")


def test_tables_show(store: Store, dashboard: Dashboard) -> None:
    run = store.run("train")
    page = dashboard.open(f"/experiments/{store.experiment}/runs/{run.info.run_id}/artifacts/worst_series.json")
    for text in ("unique_id", "seasonal_naive_mase", "m0"):
        expect(page.get_by_text(text, exact=True).first).to_be_visible()
    dashboard.shoot("train-worst_series")


def test_the_report_shows(store: Store, dashboard: Dashboard) -> None:
    run = store.run("backtest")
    page = dashboard.open(f"/experiments/{store.experiment}/runs/{run.info.run_id}/artifacts/promotion_report.html")
    report = page.frame_locator("iframe").first
    expect(report.get_by_text("does not beat the champion").first).to_be_visible()
    expect(report.get_by_text("seasonal naive").first).to_be_visible()
    dashboard.shoot("backtest-report")


def test_the_registered_model_shows_versions_and_aliases(store: Store, dashboard: Dashboard) -> None:
    name = store.tracking.model
    page = dashboard.open(f"/models/{name}")
    described = store.client.get_registered_model(name).description
    assert described
    expect(page.get_by_text(described.split("\n")[0][:40]).first).to_be_visible()
    for version, alias in (("1", CHAMPION), ("2", CHALLENGER)):
        row = page.get_by_role("row").filter(has=page.get_by_role("link", name=f"Version {version}", exact=True))
        expect(row).to_contain_text(alias)
        expect(row).to_contain_text("validation_status")
    dashboard.shoot("model")


def test_a_version_says_why_it_is_not_in_production(store: Store, dashboard: Dashboard) -> None:
    name = store.tracking.model
    page = dashboard.open(f"/models/{name}/versions/2")
    version = store.client.get_model_version(name, "2")
    assert version.description
    expect(page.get_by_text(version.description[:40]).first).to_be_visible()
    expect(page.get_by_text(CHALLENGER).first).to_be_visible()
    for text in ("promotion_reason", "validation_status", "data_window_end"):
        expect(page.get_by_text(text, exact=True).first).to_be_visible()
    expect(page.get_by_text("it does not beat the champion").first).to_be_visible()
    dashboard.shoot("version")
    with page.expect_popup() as opened:
        page.get_by_role("link", name="report", exact=True).click()
    report = opened.value.frame_locator("iframe").first
    expect(report.get_by_text("does not beat the champion").first).to_be_visible()
    opened.value.close()


def test_nothing_was_missing_and_nobody_else_was_asked(dashboard: Dashboard) -> None:
    """After all pages: telemetry, fonts or scripts from elsewhere would have been asked for by now."""
    assert dashboard.failed == []
    assert dashboard.asked == {dashboard.url.partition("://")[2].partition("/")[0]}


def test_other_names_are_refused(dashboard: Dashboard) -> None:
    """A page elsewhere whose name suddenly resolves to loopback must not read the store."""
    answer = dashboard.page.request.get(dashboard.url.partition("#")[0], headers={"Host": "elsewhere.example"})
    assert answer.status == 403


def test_it_ends_with_all_that_it_has_started(dashboard: Dashboard) -> None:
    started = psutil.Process(dashboard.process.pid).children(recursive=True)
    assert started
    dashboard.process.terminate()
    assert dashboard.process.wait(180) == 0
    assert not any(one.is_running() for one in started)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--tracking.uri=sqlite:///nothing.db"],
            "there is no store sqlite:///nothing.db: run `forecaster",
        ),
        (["--tracking.uri=mlruns"], "there is no store mlruns"),
        (["--tracking.uri=sqlite:///other.db"], "sqlite:///other.db is no store of MLflow"),
        (["--port=70000"], "port=70000 is not allowed: use 0 to 65535"),
        (
            ["--tracking.uri=postgresql://me:secret@127.0.0.1:1/x"],
            "the model store postgresql://me:***@127.0.0.1:1/x cannot",
        ),
    ],
)
def test_what_cannot_be_shown_is_said(
    options: list[str],
    said: str,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with contextlib.closing(sqlite3.connect("other.db")) as other:
        other.execute("CREATE TABLE something (x)")
    assert main(["dashboard", *options]) == 2
    assert capsys.readouterr().err.startswith(f"error: {said}")
    assert [path.name for path in tmp_path.iterdir()] == ["other.db"]


def test_a_port_that_is_taken_is_said(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["dashboard", f"--port={port}", f"--tracking.uri={store.tracking.uri}"]) == 2
    assert f"error: cannot listen on 127.0.0.1:{port}: Address already in use; choose" in capsys.readouterr().err


def test_a_store_that_is_a_server_has_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dashboard", "--tracking.uri=https://me:secret@mlflow.example"]) == 0
    assert capsys.readouterr().out == "the store is a server: its dashboard is https://me:***@mlflow.example\n"
