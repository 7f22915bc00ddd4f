"""Real servers whose model changes: under load, back again, by a broken bundle, across restarts and kills."""

import contextlib
import dataclasses
import datetime as dt
import json
import pathlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import polars as pl
import pytest
import safetensors.torch
import torch

from forecaster.client import ForecastClient, ModelInfo, RetryPolicy
from forecaster.config import ModelConfig, TrackingConfig
from forecaster.errors import ModelNotFoundError
from forecaster.model.bundle import Bundle
from forecaster.model.covariates import Covariate, CovariateSpec
from forecaster.model.inputs.observations import Observations
from forecaster.model.seq2seq import Seq2Seq
from forecaster.registry import aliases, registry
from tests.integration.conftest import HOUR_US, Server, ServerFactory, make_bundle, register_bundle, wander
from tests.integration.nursery import Nursery
from tests.integration.server.test_server_faults import until
from tests.integration.server.test_server_journey import offline

SERIES, HISTORY = 40, 60


def other_bundle(step_us: int = HOUR_US, spec: CovariateSpec | None = None, **changes: object) -> Bundle:
    """Return a model of another architecture, with another memory."""
    torch.manual_seed(11)
    fields: dict[str, object] = {"hidden_size": 10, "num_layers": 2, "decoder_size": 8, "horizon": 6, "min_history": 12}
    fields |= {"cell": "lstm", "season_lengths": (6, 30), "layer_periods": (1, 3)} | changes
    model = Seq2Seq(ModelConfig(**fields), step_us, spec or CovariateSpec())  # type: ignore[arg-type]
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return Bundle.of(model, frequency="1h" if step_us == HOUR_US else "30m", max_gap_steps=48)


OTHER = other_bundle()


@pytest.fixture
def swappable(tracking: TrackingConfig, tmp_path: pathlib.Path, nursery: Nursery) -> Iterator[ServerFactory]:
    """Return what starts servers of a registry of the test's own, whose only version is the champion."""
    bundle = make_bundle()
    register_bundle(tracking, bundle)
    factory = ServerFactory(tracking, bundle, tmp_path, nursery)
    yield factory
    factory.end()


def wait_for(client: ForecastClient, version: str, *states: str) -> ModelInfo:
    """Return a version's description once it is in one of the states."""
    deadline = time.monotonic() + 120
    while True:
        with contextlib.suppress(ModelNotFoundError):
            model = client.get_model(version)
            if model.state in states:
                return model
            assert model.state != "FAILED" or "FAILED" in states, model.failure
        assert time.monotonic() < deadline
        time.sleep(0.02)


def assert_forecasts(client: ForecastClient, bundle: Bundle, frame: pl.DataFrame) -> None:
    """Every series' forecast is the offline model's after these observations."""
    ids = sorted(frame["unique_id"].unique())
    found, expected = client.forecast(ids), offline(bundle, frame)
    for k, level in enumerate(bundle.model.config.quantile_levels):
        values = found[f"q{level:g}"].to_numpy().reshape(len(ids), -1)
        np.testing.assert_allclose(values, expected[:, :, k], rtol=1e-4, atol=1e-4)


class Load:
    """Threads that observe, forecast and stream without a retry, each its own series, until told to stop."""

    def __init__(self, address: str) -> None:
        self._address, self._stop = address, threading.Event()
        self.failures: list[BaseException] = []
        self.hours = {"rows": HISTORY, "stream": HISTORY}  # acknowledged hours of the series of each
        self.stamps: dict[str, list[str]] = {}
        self.requests = 0
        jobs: tuple[Callable[[ForecastClient], None], ...] = (self._rows, self._forecasts, self._stream)
        self._threads = [threading.Thread(target=self._work, args=(job,)) for job in jobs]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(180)
        assert not self.failures, self.failures

    def _work(self, job: Callable[[ForecastClient], None]) -> None:
        try:
            # A try of which the answer is UNAVAILABLE or LIMIT_REACHED is a failure, too.
            with ForecastClient(
                self._address, retry=RetryPolicy(timeout_seconds=60, first_delay_seconds=100)
            ) as client:
                job(client)
        except BaseException as error:  # noqa: BLE001 -- shown by the test
            self.failures.append(error)

    def _hour(self, which: str) -> pl.DataFrame:
        hour = wander(SERIES, 1, start=self.hours[which])
        even = pl.col("unique_id").str.slice(1).cast(pl.Int64) % 2 == 0
        return hour.filter(even if which == "rows" else ~even)

    def _rows(self, client: ForecastClient) -> None:
        while not self._stop.is_set():
            assert client.observe(self._hour("rows")).applied == SERIES // 2
            self.hours["rows"] += 1
            self.requests += 1
            time.sleep(0.01)

    def _stream(self, client: ForecastClient) -> None:
        with client.stream(horizon=3, quantile_levels=[0.1, 0.9]) as stream:
            while not self._stop.is_set():
                reply = stream.send(self._hour("stream"))
                assert (reply.observed.applied, reply.failures) == (SERIES // 2, {})
                assert len(reply.forecasts) == 3 * SERIES // 2
                self.hours["stream"] += 1
                self.requests += 1
                time.sleep(0.01)

    def _forecasts(self, client: ForecastClient) -> None:
        ids = [f"s{k}" for k in range(SERIES)]
        while not self._stop.is_set():
            found = client.forecast(ids)
            assert found["unique_id"].unique(maintain_order=True).to_list() == ids
            assert found["y_hat"].is_finite().all()
            for info in client.list_series():
                self.stamps.setdefault(info.unique_id, []).append(info.model_version)
            self.requests += 1
            time.sleep(0.01)

    def observed(self) -> pl.DataFrame:
        """Return what was acknowledged, history included."""
        most = wander(SERIES, max(self.hours.values()))
        number = pl.col("unique_id").str.slice(1).cast(pl.Int64)
        count = pl.when(number % 2 == 0).then(self.hours["rows"]).otherwise(self.hours["stream"])
        return most.filter(pl.int_range(pl.len()).over("unique_id") < count)

    def assert_moved(self, *versions: str) -> None:
        """Each series' stamps go from version to version, never back."""
        assert len(self.stamps) == SERIES
        for stamps in self.stamps.values():
            order = [stamp for k, stamp in enumerate(stamps) if k == 0 or stamp != stamps[k - 1]]
            assert order == list(versions), order


def test_under_load_no_request_fails_and_nothing_is_lost(swappable: ServerFactory) -> None:
    """By hand, by the alias, and back to the version before: always the offline model of the stamped version."""
    server = swappable("--serving.poll_seconds=0.2", "--serving.snapshot_seconds=0.2")
    with ForecastClient(server.address) as client:
        client.observe(wander(SERIES, HISTORY))
        with Load(server.address) as load:
            until(lambda: load.requests > 10)
            with_alias = registry.connect(swappable.tracking)
            register_bundle(swappable.tracking, OTHER)  # the alias moves
            wait_for(client, "2", "ACTIVE")
            before = load.requests
            until(lambda: load.requests > before + 10)
        load.assert_moved("1", "2")
        observed = load.observed()
        assert_forecasts(client, OTHER, observed)
        assert client.observe(observed).duplicates == len(observed)
        assert [info.length for info in client.list_series()] == observed.group_by("unique_id").len().sort("unique_id")[
            "len"
        ].to_list()
        assert [(one.version, one.state) for one in client.list_models()] == [("1", "RETIRED"), ("2", "ACTIVE")]
        assert client.activate_model("previous").version == "1"
        wait_for(client, "1", "ACTIVE")
        assert_forecasts(client, swappable.bundle, observed)
        time.sleep(0.6)
        assert client.get_model().version == "1"  # the alias has not moved since
        aliases.promote(with_alias, swappable.tracking, "1")
        time.sleep(1)  # several polls
        aliases.promote(with_alias, swappable.tracking, "2")
        wait_for(client, "2", "ACTIVE")
        assert_forecasts(client, OTHER, observed)
    assert server.stop() == 0
    server = swappable()
    assert f"recovered {SERIES} series, 0 observations replayed" in server.log.read_text()
    with ForecastClient(server.address) as client:
        assert client.get_model().version == "2"
        assert_forecasts(client, OTHER, observed)


def files_of(tracking: TrackingConfig, version: str) -> pathlib.Path:
    location = registry.connect(tracking).get_model_version_download_uri(tracking.model, version)
    return pathlib.Path(location.removeprefix("file://")) / "artifacts" / "bundle"


def without_weights(folder: pathlib.Path) -> None:
    (folder / "model.safetensors").unlink()


def with_other_shapes(folder: pathlib.Path) -> None:
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    name = sorted(weights)[0]
    safetensors.torch.save_file(weights | {name: torch.zeros(3, 5, 7)}, folder / "model.safetensors")


def with_nan(folder: pathlib.Path) -> None:
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    name = next(one for one in sorted(weights) if weights[one].is_floating_point())
    safetensors.torch.save_file(
        weights | {name: torch.full_like(weights[name], torch.nan)}, folder / "model.safetensors"
    )


def with_a_negative_gap(folder: pathlib.Path) -> None:
    described = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(described | {"max_gap_steps": -1}))


def nested(folder: pathlib.Path) -> None:
    (folder / "config.json").write_text("[" * 100_000)


def as_it_is(folder: pathlib.Path) -> None:
    assert folder.is_dir()


def test_broken_bundles_leave_the_old_model_serving(swappable: ServerFactory) -> None:
    broken = [
        (make_bundle(4), without_weights, "cannot be read"),
        (make_bundle(5), with_other_shapes, "does not fit"),
        (make_bundle(6), with_nan, "not finite"),
        (make_bundle(7), with_a_negative_gap, "max_gap_steps has to be a whole number"),
        (make_bundle(8), nested, "nested too deeply"),
        (other_bundle(HOUR_US // 2), as_it_is, "another time grid"),
    ]
    history = wander(3, 40)
    server = swappable("--serving.poll_seconds=1000")
    with ForecastClient(server.address) as client:
        client.observe(history)
        for number, (bundle, breaks, _) in enumerate(broken, start=2):
            register_bundle(swappable.tracking, bundle)
            breaks(files_of(swappable.tracking, str(number)))
            client.activate_model(str(number))
            wait_for(client, str(number), "FAILED")
            assert_forecasts(client, swappable.bundle, history)
        found = {one.version: one for one in client.list_models()}
        assert found["1"].state == "ACTIVE"
        for number, (_, _, reason) in enumerate(broken, start=2):
            failed = found[str(number)]
            assert (failed.state, reason in failed.failure) == ("FAILED", True), failed
            assert "/" not in failed.failure  # strangers are told no places of the machine
        for nowhere in ("9" * 20, "nobody"):
            with pytest.raises(ModelNotFoundError) as missing:
                client.activate_model(nowhere)
            assert "/" not in str(missing.value)
    server.kill()
    server = swappable("--serving.poll_seconds=0.2")  # the alias points at a broken version
    with ForecastClient(server.address) as client:
        wait_for(client, str(len(broken) + 1), "FAILED")
        assert client.get_model().version == "1"
        assert_forecasts(client, swappable.bundle, history)


def with_rain(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(rain=(pl.col("ds").dt.epoch("s") // 3600 % 7).cast(pl.Float64))


def offline_with_rain(bundle: Bundle, dry: pl.DataFrame, wet: pl.DataFrame) -> np.ndarray:
    """Return the quantiles [B, D, Q] after observations without a covariate and then with it, by series id."""
    rows, whole = [], pl.concat([dry.with_columns(rain=pl.lit(None, pl.Float64)), wet])
    for _, one in whole.sort("unique_id", "ds").group_by("unique_id", maintain_order=True):
        values, rain = (torch.from_numpy(one[name].fill_null(np.nan).to_numpy().copy()) for name in ("y", "rain"))
        times = torch.from_numpy(one["ds"].dt.epoch("us").to_numpy().copy())
        with torch.inference_mode():
            observations = Observations.of(times[None], values[None], rain[None, :, None])
            state, _ = bundle.model.scan(bundle.model.initial_state(1), observations)
            rows.append(bundle.model.decode(state, bundle.model.config.horizon)[0].numpy())
    return np.stack(rows)


def test_models_of_other_covariates_take_the_place_while_clients_stream(swappable: ServerFactory) -> None:
    """None, then rain, then none again: no message is refused, and a restart serves what the registry says."""
    rainy = other_bundle(spec=CovariateSpec(past=(Covariate("rain", 3.0, 2.0),)))
    history, start = wander(3, 40), 40
    server = swappable("--serving.poll_seconds=0.2", "--serving.snapshot_seconds=0.2")
    with ForecastClient(server.address) as client:
        client.observe(history)
        register_bundle(swappable.tracking, rainy, with_rain(history))  # the alias moves
        wait_for(client, "2", "ACTIVE")
        assert_forecasts(client, rainy, history)
        with client.stream(horizon=3, quantile_levels=[0.1, 0.9]) as stream:
            for hour in range(start, start + 80):
                if hour == start + 20:
                    register_bundle(swappable.tracking, OTHER)
                if hour == start + 40:
                    wait_for(client, "3", "ACTIVE")
                reply = stream.send(with_rain(wander(3, 1, start=hour)))
                assert (reply.observed.applied, reply.failures) == (3, {})
                if hour == start + 19:
                    found = client.forecast(["s0", "s1", "s2"])
                    wet = with_rain(wander(3, 20, start=start))
                    expected = offline_with_rain(rainy, history, wet)
                    for k, level in enumerate(rainy.model.config.quantile_levels):
                        values = found[f"q{level:g}"].to_numpy().reshape(3, -1)
                        np.testing.assert_allclose(values, expected[:, :, k], rtol=1e-4, atol=1e-4)
        assert_forecasts(client, OTHER, wander(3, start + 80))
    server.kill()
    server = swappable("--serving.poll_seconds=0.2")
    with ForecastClient(server.address) as client:
        assert client.get_model().version == "3"
        assert_forecasts(client, OTHER, wander(3, start + 80))
        client.activate_model("2")  # which finds the rain of then in the journal
        wait_for(client, "2", "ACTIVE")


def test_a_restart_begins_with_the_version_whose_states_there_are(swappable: ServerFactory) -> None:
    history = wander(5, 40)
    server = swappable()
    with ForecastClient(server.address) as client:
        client.observe(history)
    assert server.stop() == 0
    register_bundle(swappable.tracking, OTHER)
    server = swappable("--serving.poll_seconds=0.2")
    assert "beginning with version 1" in server.log.read_text()
    assert "0 observations replayed" in server.log.read_text()
    with ForecastClient(server.address) as client:
        wait_for(client, "2", "ACTIVE")
        assert_forecasts(client, OTHER, history)


def test_a_kill_in_the_middle_of_a_swap_loses_nothing(swappable: ServerFactory) -> None:
    history = wander(SERIES, HISTORY)
    server = swappable("--serving.poll_seconds=1000")
    with ForecastClient(server.address) as client:
        client.observe(history)
        register_bundle(swappable.tracking, OTHER)
    bundles, told = {"1": swappable.bundle, "2": OTHER}, "1"
    for delay in (0.0, 0.15, 0.4):
        with ForecastClient(server.address) as client:
            served = client.get_model().version
            told = "1" if served == "2" else "2"
            client.activate_model(told)
            time.sleep(delay)
        server.kill()
        server = swappable("--serving.poll_seconds=1000", f"--serving.alias={told}")  # what was begun goes on
        with ForecastClient(server.address) as client:
            wait_for(client, told, "ACTIVE")
            assert {info.model_version for info in client.list_series()} == {told}
            assert_forecasts(client, bundles[told], history)
            assert client.observe(history).duplicates == len(history)


def run_cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "forecaster", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_two_models_and_the_commands(swappable: ServerFactory) -> None:
    second = dataclasses.replace(swappable.tracking, model="second")
    register_bundle(second, OTHER)
    register_bundle(second, make_bundle(8))
    history = wander(3, 40)
    server: Server = swappable("--serving.models=[forecaster, second]", "--serving.poll_seconds=1000")
    with ForecastClient(server.address) as first, ForecastClient(server.address, model="second") as other:
        first.observe(history)
        other.observe(history.filter(unique_id="s0"))
        assert [info.unique_id for info in first.list_series()] == ["s0", "s1", "s2"]
        assert [(info.unique_id, info.model_name) for info in other.list_series()] == [("s0", "second")]
        with pytest.raises(ModelNotFoundError), ForecastClient(server.address, model="third") as nobody:
            nobody.observe(history)
        done = run_cli("activate", "1", "--model", "second", "--server", server.address)
        assert (done.returncode, done.stdout) == (0, "second version 1: ACTIVE\n"), done.stderr
        done = run_cli("models", "--server", server.address)
        expected = ["forecaster version 1: ACTIVE", "second version 1: ACTIVE", "second version 2: RETIRED"]
        assert done.stdout.splitlines() == expected, done.stderr
        assert run_cli("activate", "99", "--server", server.address).returncode != 0
        assert_forecasts(other, OTHER, history.filter(unique_id="s0"))
        assert_forecasts(first, swappable.bundle, history)
        first.delete_series("s0")
        assert other.get_series("s0").length == 40
    assert server.stop() == 0
    server = swappable("--serving.models=[forecaster, second]", "--serving.poll_seconds=1000", "--serving.alias=1")
    with ForecastClient(server.address, model="second") as other:
        assert other.get_series("s0").model_version == "1"
        assert other.get_series("s0").last_ds == history["ds"].max() + dt.timedelta(0)
