"""A client that asks for little and waits for each answer, in a process of its own: how long others make it wait."""

import multiprocessing
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection

import grpc

from forecaster.v1 import forecast_service_pb2 as api
from forecaster.v1.forecast_service_pb2_grpc import ForecastServiceStub

_PAUSE_SECONDS = 0.01
_TIMEOUT_SECONDS = 60.0
_START, _HOUR = 1_600_000_000 // 3600 * 3600, 3600


@dataclass(frozen=True, slots=True)
class Waits:
    """What the client saw since it was last asked.

    Args:
        calls: how many answers came.
        p99: seconds.
        longest: seconds.
        failed: how many were errors.
    """

    calls: int
    p99: float
    longest: float
    failed: int


class Polite:
    """The client; it begins with `with`.

    Args:
        address: of the server.
    """

    def __init__(self, address: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_ask, args=(address, theirs), daemon=True)

    def __enter__(self) -> "Polite":
        self._process.start()
        assert self._ours.recv() == "ready"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()

    def waits(self) -> Waits:
        """Return what it saw since the last call; the call that is under way is waited for."""
        self._ours.send("tell")
        found: Waits = self._ours.recv()
        return found


def _ask(address: str, told: Connection) -> None:
    channel = grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)])
    observe = ForecastServiceStub(channel).Observe
    hour, waits, failed = 0, [], 0
    while True:
        request = api.ObserveRequest()
        row = request.observations.add(series_id="polite", value=1.0)
        row.observation_time.seconds = _START + hour * _HOUR
        began = time.perf_counter()
        try:
            observe(request, timeout=_TIMEOUT_SECONDS)
            hour += 1
        except grpc.RpcError:
            failed += 1
        waits.append(time.perf_counter() - began)
        if hour == 1:
            told.send("ready")
            waits.clear()
        if told.poll():
            told.recv()
            waits.sort()
            told.send(Waits(len(waits), waits[int(0.99 * (len(waits) - 1))], waits[-1], failed))
            waits, failed = [], 0
        time.sleep(_PAUSE_SECONDS)
