"""What all rows share: the registered model, server processes on loopback, the load generator, sizes.

Shapes: B series of a batch.
"""

import contextlib
import dataclasses
import functools
import pathlib
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import grpc
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc

from forecaster.config import ModelConfig, ServingConfig, TrackingConfig
from forecaster.model.bundle import Bundle
from forecaster.model.seq2seq import Seq2Seq
from forecaster.v1 import model_service_pb2, model_service_pb2_grpc
from tests.benchmarks.load import Generator
from tests.integration.conftest import HOUR_US, Server, ServerFactory, register_bundle

HORIZON = 24
LEVELS = (0.1, 0.5, 0.9)
_START_SECONDS = 600.0


def make_bundle(seed: int = 0) -> Bundle:
    """Return the default hourly model with untrained weights: speed does not depend on them."""
    torch.manual_seed(seed)
    model = Seq2Seq(ModelConfig(horizon=HORIZON), HOUR_US)
    return Bundle.of(model, frequency="1h", max_gap_steps=1000)


@dataclass(slots=True)
class Rig:
    """A folder with a registered model, and what runs on it.

    Args:
        folder: everything is written there.
        scale: the share of the full number of series.
        runs: how often everything is repeated.
        generator: sends the load.
    """

    folder: pathlib.Path
    scale: float
    runs: int
    generator: Generator
    bundle: Bundle = dataclasses.field(default_factory=make_bundle)
    _factory: ServerFactory | None = None

    @property
    def tracking(self) -> TrackingConfig:
        """The store of the registered model."""
        return TrackingConfig(uri=f"sqlite:///{self.folder / 'mlflow.db'}")

    @property
    def servers(self) -> ServerFactory:
        """What starts servers; the model is registered the first time."""
        if self._factory is None:
            register_bundle(self.tracking, self.bundle)
            self._factory = ServerFactory(self.tracking, self.bundle, self.folder, timeout_seconds=_START_SECONDS)
        return self._factory

    def scaled(self, count: int, least: int = 1) -> int:
        """Return the share of a full number that this run takes."""
        return max(int(count * self.scale), least)

    @contextlib.contextmanager
    def serving(self, *options: str, state: str) -> Iterator[Server]:
        """Run a server; the end of the block kills it."""
        server = self.servers(*options, state=state)
        try:
            yield server
        finally:
            if server.process.poll() is None:
                server.kill()

    def close(self) -> None:
        """Kill the servers that still run."""
        for one in self._factory.started if self._factory is not None else ():
            if one.process.poll() is None:
                one.kill()


@contextlib.contextmanager
def open_rig(*, scale: float, runs: int) -> Iterator[Rig]:
    """Make a rig in a temporary folder; the end of the block ends what it started."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="forecaster-bench-") as name, Generator() as generator:
        rig = Rig(pathlib.Path(name), scale, runs, generator)
        try:
            yield rig
        finally:
            rig.close()


def setting(name: str, value: object) -> list[str]:
    """Return an option of `forecaster serve`, or nothing if this version has no such setting."""
    known = {field.name for field in dataclasses.fields(ServingConfig)}
    return [f"--serving.{name}={value}"] if name in known else []


def has_setting(name: str) -> bool:
    """Return whether this version has a setting of the section `serving`."""
    return bool(setting(name, 0))


def stop(server: Server) -> None:
    """Ask a server to end, which writes its snapshots, and wait as long as that takes."""
    server.process.send_signal(signal.SIGTERM)
    status = server.process.wait(_START_SECONDS)
    assert status == 0, f"the server ended with {status}: {server.log.read_text()}"


def served_model(address: str) -> model_service_pb2.Model:
    """Return the server's description of its model."""
    with grpc.insecure_channel(address) as channel:
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        return stub.GetModel(model_service_pb2.GetModelRequest(), timeout=30).model


def is_serving(address: str) -> bool:
    """Return what the health service says."""
    with grpc.insecure_channel(address) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def resident_bytes(server: Server) -> int:
    """Return the resident memory of a server's process (VmRSS)."""
    lines = pathlib.Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return int(fields["VmRSS"].split()[0]) * 1024


def seconds_of(work: Callable[[], object], times: int) -> float:
    """Return the median time of `work`, called once more than that to warm up."""
    work()
    found = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


@functools.cache
def _bare_gru() -> torch.nn.GRU:
    return torch.nn.GRU(12, 64, 2, batch_first=True).eval()


def bare_step_seconds(batch: int = 512) -> float:
    """Return what torch's own GRU, 2 × 64 with 12 inputs, takes for a step of one series in a batch."""
    gru = _bare_gru()
    inputs, hidden = torch.randn(batch, 1, 12), torch.zeros(2, batch, 64)
    with torch.inference_mode():
        return seconds_of(lambda: gru(inputs, hidden), 200) / batch
