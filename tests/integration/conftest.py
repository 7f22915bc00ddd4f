"""A registered small model and real server processes on loopback."""

import dataclasses
import datetime as dt
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
import pytest
import torch

from forecaster.client import ForecastClient, RetryPolicy
from forecaster.config import ModelConfig, TrackingConfig
from forecaster.model.bundle import Bundle
from forecaster.model.seq2seq import Seq2Seq
from forecaster.registry import aliases, registry
from tests.integration.nursery import Forked, Nursery

HOUR_US = 3_600_000_000
START = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)


def make_bundle(seed: int = 3) -> Bundle:
    """Return a small model with random weights, whose forecasts depend on everything."""
    torch.manual_seed(seed)
    config = ModelConfig(hidden_size=8, decoder_size=8, horizon=6, season_lengths=(12,), min_history=12)
    model = Seq2Seq(config, HOUR_US)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return Bundle.of(model, frequency="1h", max_gap_steps=48)


def wander(series: int, steps: int, *, seed: int = 0, start: int = 0) -> pl.DataFrame:
    """Return `series` random walks of `steps` hours, columns unique_id, ds, y; every seventh value is missing."""
    frames = []
    for k in range(series):
        rng = np.random.default_rng([seed, k])  # the same walk, however long
        y = 100 * k + rng.standard_normal(start + steps).cumsum()
        times = [START + dt.timedelta(hours=i) for i in range(start, start + steps)]
        values = [None if (i + k) % 7 == 3 else float(v) for i, v in enumerate(y)][start:]
        frames.append(
            pl.DataFrame({"unique_id": f"s{k}", "ds": times, "y": values}, schema_overrides={"y": pl.Float64})
        )
    return pl.concat(frames).with_columns(pl.col("ds").cast(pl.Datetime("us", "UTC")))


@dataclass
class Server:
    """One server process."""

    process: subprocess.Popen[str] | Forked
    address: str
    log: pathlib.Path

    def kill(self) -> None:
        """End it as a power switch would; its files are free when this returns."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(180)

    def stop(self) -> int:
        """Ask it to end and return its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(180)


@dataclass
class ServerFactory:
    """Starts servers of one registered model: by the nursery, or without one as a shell does, which takes seconds."""

    tracking: TrackingConfig
    bundle: Bundle
    folder: pathlib.Path
    nursery: Nursery | None = None
    started: list[Server] = dataclasses.field(default_factory=list)
    timeout_seconds: float = 240.0  # the first start after a change compiles, beside whatever else runs

    def begin(self, *options: str, state: str = "state") -> Server:
        """Start a server on a free port; it has no address yet."""
        log = self.folder / f"server-{len(self.started)}.log"
        fixed = [f"--tracking.uri={self.tracking.uri}", f"--serving.state={self.folder / state}", "--serving.port=0"]
        arguments = ["serve", *fixed, f"--serving.address_file={log.with_suffix('.address')}", *options]
        server = Server(self._start(arguments, log), "", log)
        self.started.append(server)
        return server

    def __call__(self, *options: str, state: str = "state") -> Server:
        """Start a server and wait until it serves."""
        server = self.begin(*options, state=state)
        address_file = server.log.with_suffix(".address")
        deadline = time.monotonic() + self.timeout_seconds
        while not address_file.exists():
            if server.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the server did not start: {server.log.read_text()}")
            time.sleep(0.01)
        server.address = address_file.read_text().strip()
        return server

    def refused(self, *options: str, state: str = "state") -> str:
        """Start a server that ends at once and return the one line that it says."""
        server = self.begin(*options, state=state)
        status, said = server.process.wait(self.timeout_seconds), server.log.read_text()
        assert status == 2, said
        assert "Traceback" not in said
        (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
        return line

    def end(self) -> None:
        """Kill the servers that run."""
        for server in self.started:
            if server.process.poll() is None:
                server.kill()

    def _start(self, arguments: list[str], log: pathlib.Path) -> subprocess.Popen[str] | Forked:
        if self.nursery is not None:
            return self.nursery.start(arguments, log)
        command, environment = [sys.executable, "-m", "forecaster", *arguments], {**os.environ, "OMP_NUM_THREADS": "1"}
        with log.open("w") as stream:
            return subprocess.Popen(command, stderr=stream, text=True, env=environment)


def register_bundle(tracking: TrackingConfig, bundle: Bundle, history: pl.DataFrame | None = None) -> None:
    """Log and register a bundle and make it the champion; `history` has the model's covariates, if it knows some."""
    client = registry.connect(tracking)
    run = client.create_run(registry.experiment_id(client, tracking))
    history = wander(1, 40) if history is None else history
    example = history.with_columns(pl.col("ds").dt.replace_time_zone(None)).to_pandas()
    model_id = registry.log_bundle(client, tracking, run.info.run_id, bundle, example)
    version = registry.register(client, tracking, model_id, description="a test's", tags={})
    aliases.promote(client, tracking, version.version)


@pytest.fixture(scope="session")
def registered(empty_store: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrackingConfig, Bundle]:
    """Return a store with a champion; nobody may change it."""
    folder = tmp_path_factory.mktemp("registered")
    (folder / "mlflow.db").write_bytes(empty_store.read_bytes())
    tracking = TrackingConfig(uri=f"sqlite:///{folder / 'mlflow.db'}")
    bundle = make_bundle()
    register_bundle(tracking, bundle)
    return tracking, bundle


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """Return what starts servers quickly; they end with the session, or when the test kills them."""
    made = Nursery()
    yield made
    made.close()


@pytest.fixture
def servers(
    registered: tuple[TrackingConfig, Bundle], tmp_path: pathlib.Path, nursery: Nursery
) -> Iterator[ServerFactory]:
    """Return what starts servers; the test's end stops those that run."""
    factory = ServerFactory(*registered, tmp_path, nursery)
    yield factory
    factory.end()


@pytest.fixture
def server(servers: ServerFactory) -> Server:
    """Return one running server."""
    return servers()


@pytest.fixture
def client(server: Server) -> Iterator[ForecastClient]:
    """Return a client of that server."""
    with ForecastClient(server.address, retry=RetryPolicy(timeout_seconds=60)) as client:
        yield client
