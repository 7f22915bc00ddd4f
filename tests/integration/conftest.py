"""A registered small model and real server processes on loopback."""

import contextlib
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

from forecaster import registry
from forecaster.client import ForecastClient, RetryPolicy
from forecaster.config import ModelConfig, TrackingConfig
from forecaster.model.bundle import Bundle
from forecaster.model.seq2seq import Seq2Seq

from .nursery import Nursery

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

    process: subprocess.Popen[str]
    address: str
    log: pathlib.Path

    def kill(self) -> None:
        """End it as a power switch would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def stop(self) -> int:
        """Ask it to end and return its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@dataclass
class ServerFactory:
    """Starts servers of one registered model."""

    tracking: TrackingConfig
    bundle: Bundle
    folder: pathlib.Path
    started: list[Server] = dataclasses.field(default_factory=list)
    timeout_seconds: float = 60.0

    def command(self, *options: str, state: str = "state") -> list[str]:
        """Return the command line of a server on a free port."""
        fixed = [f"--tracking.uri={self.tracking.uri}", f"--serving.state={self.folder / state}", "--serving.port=0"]
        return [sys.executable, "-m", "forecaster", "serve", *fixed, *options]

    def __call__(self, *options: str, state: str = "state") -> Server:
        """Start a server and wait until it serves."""
        address_file = self.folder / f"address-{len(self.started)}"
        log = self.folder / f"server-{len(self.started)}.log"
        command = self.command(f"--serving.address_file={address_file}", *options, state=state)
        with log.open("w") as stream:
            process = subprocess.Popen(command, stderr=stream, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        server = Server(process, "", log)
        self.started.append(server)
        deadline = time.monotonic() + self.timeout_seconds
        while not address_file.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the server did not start: {log.read_text()}")
            time.sleep(0.02)
        server.address = address_file.read_text().strip()
        return server


def register_bundle(tracking: TrackingConfig, bundle: Bundle, history: pl.DataFrame | None = None) -> None:
    """Log and register a bundle and make it the champion; `history` has the model's covariates, if it knows some."""
    client = registry.connect(tracking)
    run = client.create_run(registry.experiment_id(client, tracking))
    history = wander(1, 40) if history is None else history
    example = history.with_columns(pl.col("ds").dt.replace_time_zone(None)).to_pandas()
    model_id = registry.log_bundle(client, tracking, run.info.run_id, bundle, example)
    version = registry.register(client, tracking, model_id, description="a test's", tags={})
    registry.promote(client, tracking, version.version)


@pytest.fixture(scope="session")
def registered(empty_store: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrackingConfig, Bundle]:
    """Return a store with a champion; nobody may change it."""
    folder = tmp_path_factory.mktemp("registered")
    (folder / "mlflow.db").write_bytes(empty_store.read_bytes())
    tracking = TrackingConfig(uri=f"sqlite:///{folder / 'mlflow.db'}")
    bundle = make_bundle()
    register_bundle(tracking, bundle)
    return tracking, bundle


@pytest.fixture
def servers(registered: tuple[TrackingConfig, Bundle], tmp_path: pathlib.Path) -> Iterator[ServerFactory]:
    """Return what starts servers; the test's end stops those that run."""
    factory = ServerFactory(*registered, tmp_path)
    yield factory
    for server in factory.started:
        if server.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                server.kill()


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """Return what starts servers quickly; they end with the session, or when the test kills them."""
    made = Nursery()
    yield made
    made.close()


@pytest.fixture
def server(servers: ServerFactory) -> Server:
    """Return one running server."""
    return servers()


@pytest.fixture
def client(server: Server) -> Iterator[ForecastClient]:
    """Return a client of that server."""
    with ForecastClient(server.address, retry=RetryPolicy(timeout_seconds=20)) as client:
        yield client
