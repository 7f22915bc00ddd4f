"""The load generators: requests that are bytes already, sent as fast as answers come or at a rate, and timed.

They run in a process of their own (`Generator`) and import gRPC and numpy only. Python holds one core of it at most;
each run says how much it took. Nothing is decoded here but what tells which request an answer belongs to.
"""

import asyncio
import concurrent.futures
import contextlib
import gc
import itertools
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

_UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
_TIMEOUT_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How requests are sent.

    Args:
        in_flight: send the next one when fewer than this many are unanswered; None leaves it to the rate.
        rate: send this many a second whether answered or not. A latency then counts from when its request was due.
        stop_file: send no more requests once there is such a file.
        samples: how many answers are kept.
    """

    in_flight: int | None = None
    rate: float | None = None
    stop_file: str | None = None
    samples: int = 16


@dataclass(slots=True)
class Run:
    """What one run found.

    Args:
        latencies: seconds from request to answer, by request; infinite for what was not answered.
        answered_at: seconds from the beginning to each answer, by request.
        seconds: from the first request to the last answer.
        cpu_seconds: what the generator itself took.
        errors: what was answered by an error, or not at all.
        samples: some answers, by request.
    """

    latencies: list[float]
    answered_at: list[float]
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    errors: list[str] = field(default_factory=list)
    samples: dict[int, bytes] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.latencies) / self.seconds

    @property
    def cores(self) -> str:
        """What the generator took of the machine, in words."""
        return f"generator {self.cpu_seconds / self.seconds:.2f} cores"


class Clock:
    """When requests went out and answers came in; says when the next request may go.

    Args:
        count: requests of the run.
        plan: how they are sent.
    """

    def __init__(self, count: int, plan: Plan) -> None:
        self._plan, self._sent = plan, [0.0] * count
        self._window = threading.Semaphore(plan.in_flight or count)
        self.run = Run([float("inf")] * count, [float("inf")] * count)
        self._every = max(count // plan.samples, 1)
        self._cpu = time.process_time()
        self._began = time.perf_counter()

    def wait(self, k: int) -> None:
        """Return when request `k` may go out."""
        if self._plan.rate is not None:
            due = self._began + k / self._plan.rate
            if (early := due - time.perf_counter()) > 0:
                time.sleep(early)
            self._sent[k] = due
        else:
            self._window.acquire()
            self._sent[k] = time.perf_counter()

    def answered(self, k: int, answer: bytes) -> None:
        """Take note of an answer."""
        now = time.perf_counter()
        self.run.latencies[k] = now - self._sent[k]
        self.run.answered_at[k] = now - self._began
        if k % self._every == 0:
            self.run.samples[k] = answer
        self._window.release()

    def failed(self, error: str) -> None:
        """Take note of an error."""
        self.run.errors.append(error)
        self._window.release()

    def finish(self, sent: int | None = None) -> Run:
        """Return what was found; `sent` is for runs that were stopped."""
        self.run.latencies = self.run.latencies[:sent]
        self.run.answered_at = self.run.answered_at[:sent]
        self.run.seconds = time.perf_counter() - self._began
        self.run.cpu_seconds = time.process_time() - self._cpu
        return self.run


def request_of(mark: bytes, answer: bytes) -> int:
    """Return the number of 8 digits behind `mark` in an answer."""
    start = answer.index(mark) + len(mark)
    return int(answer[start : start + 8])


def stream(address: str, method: str, requests: Sequence[bytes], plan: Plan, mark: bytes = b"") -> Run:
    """Send requests over one bidirectional stream.

    Answers come in order, or, with `mark`, in any order: `request_of` tells whose they are.
    """
    with _quiet(), _channel(address) as channel:
        clock = Clock(len(requests), plan)
        over = threading.Event()

        def outgoing() -> Iterator[bytes]:
            for k, request in enumerate(requests):
                clock.wait(k)
                if over.is_set():
                    return
                yield request

        count = 0
        try:
            for answer in channel.stream_stream(method)(outgoing()):
                clock.answered(request_of(mark, answer) if mark else count, answer)
                count += 1
        except grpc.RpcError as error:
            over.set()
            for _ in range(len(requests) - count):
                clock.failed(_words(error))
        return clock.finish()


def unary(address: str, methods: Sequence[str], requests: Sequence[bytes], plan: Plan) -> Run:
    """Send requests as unary calls; the methods take turns."""
    with _quiet(), _channel(address) as channel:
        calls = [channel.unary_unary(method) for method in methods]
        clock = Clock(len(requests), plan)
        left = threading.Semaphore(0)

        def note(k: int, call: Any) -> None:
            if call.code() is grpc.StatusCode.OK:
                clock.answered(k, call.result())
            else:
                clock.failed(_words(call))
            left.release()

        sent = 0
        for k, request in enumerate(requests):
            if plan.stop_file is not None and os.path.exists(plan.stop_file):
                break
            clock.wait(k)
            sent += 1
            call = calls[k % len(calls)].future(request, timeout=_TIMEOUT_SECONDS)
            call.add_done_callback(lambda call, k=k: note(k, call))
        for _ in range(sent):
            left.acquire()
        return clock.finish(sent)


def http(address: str, path: str, bodies: Sequence[bytes], in_flight: int) -> Run:
    """POST JSON bodies over `in_flight` connections that stay open, the next one when the answer is there."""
    host, port = address.rsplit(":", 1)
    head = f"POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: "
    requests = [f"{head}{len(body)}\r\n\r\n".encode() + body for body in bodies]

    async def connection(clock: Clock, numbers: Iterator[int]) -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        for k in numbers:
            clock.wait(k)
            writer.write(requests[k])
            headers = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(headers.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
            answer = await reader.readexactly(length)
            if headers.startswith(b"http/1.1 200"):
                clock.answered(k, answer)
            else:
                clock.failed(headers.split(b"\r\n", 1)[0].decode())
        writer.close()

    async def everything() -> Run:
        clock, numbers = Clock(len(requests), Plan()), iter(range(len(requests)))
        await asyncio.gather(*(connection(clock, numbers) for _ in range(min(in_flight, len(requests)))))
        return clock.finish()

    with _quiet():
        return asyncio.run(everything())


class Generator:
    """A process that runs the functions of this module; `with` ends it."""

    def __init__(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pool = concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn)

    def __enter__(self) -> "Generator":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def __call__(self, work: Callable[..., Run], *arguments: Any) -> Run:
        """Run `work` there and return what it found."""
        return self._pool.submit(work, *arguments).result()

    def begin(self, work: Callable[..., Run], *arguments: Any) -> concurrent.futures.Future[Run]:
        """Run `work` there and return at once."""
        return self._pool.submit(work, *arguments)


def joined(parts: Sequence[Sequence[bytes]]) -> list[bytes]:
    """Return requests that take turns, as `unary` sends them to its methods."""
    return list(itertools.chain.from_iterable(zip(*parts, strict=True)))


@contextlib.contextmanager
def _channel(address: str) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(address, options=_UNLIMITED) as channel:
        grpc.channel_ready_future(channel).result(timeout=_TIMEOUT_SECONDS)
        yield channel


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the garbage collector from adding to latencies."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _words(error: Any) -> str:
    return f"{error.code().name}: {error.details()}"
