"""Many messages under way on one stream, against a real server: order, crashes, limits, deadlines, slow clients."""

import asyncio
import datetime as dt
import itertools
import math
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import grpc
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from forecaster.client import AsyncForecastClient, ForecastClient, RetryPolicy, StreamReply
from forecaster.client.calls import observe_call
from forecaster.client.results import forecast_frame
from forecaster.client.streaming.outbox import MOST
from forecaster.errors import DeadlineError, InvalidArgumentError, LimitReachedError
from forecaster.v1.forecast_pb2 import ForecastOptions
from forecaster.v1.forecast_service_pb2 import ForecastRequest, ObserveRequest, StreamForecastsRequest
from forecaster.v1.forecast_service_pb2_grpc import ForecastServiceStub
from tests.integration.conftest import START, Server, ServerFactory, wander

HISTORY = 40
KINDS = pytest.mark.parametrize("kind", ["blocking", "asyncio"])


class Stream:
    """A stream of either client, awaited."""

    def __init__(self, stream: object, wait: Callable[..., Awaitable[object]]) -> None:
        self._stream, self._wait = stream, wait

    async def send_nowait(self, frame: pl.DataFrame) -> None:
        await self._wait(self._stream.send_nowait, frame)

    async def receive(self) -> StreamReply:
        return await self._wait(self._stream.receive)

    @property
    def unanswered(self) -> int:
        return self._stream.unanswered


@asynccontextmanager
async def stream_of(kind: str, address: str, *, timeout_seconds: float = 60.0) -> AsyncIterator[Stream]:
    retry = RetryPolicy(timeout_seconds=timeout_seconds)
    if kind == "blocking":
        with ForecastClient(address, retry=retry) as client, client.stream(horizon=3) as stream:
            yield Stream(stream, asyncio.to_thread)
    else:
        async with AsyncForecastClient(address, retry=retry) as client, client.stream(horizon=3) as stream:

            async def wait(function: Callable[..., Awaitable[object]], *arguments: object) -> object:
                return await function(*arguments)

            yield Stream(stream, wait)


def check(reply: StreamReply, hour: int, series: int) -> int:
    """Check the answer to one hour of some series; return how many of its rows were new.

    Forecasts are of the present state, which may know later hours that are under way already.
    """
    observed = reply.observed
    assert (observed.applied + observed.duplicates, len(observed.rejected)) == (series, 0)
    assert reply.forecasts["ds"].min() >= START + dt.timedelta(hours=hour + 1)
    return observed.applied


@KINDS
def test_many_frames_under_way_are_answered_in_order(server: Server, client: ForecastClient, kind: str) -> None:
    client.observe(wander(20, HISTORY))

    async def talk() -> None:
        async with stream_of(kind, server.address) as stream:
            for hour in range(HISTORY, HISTORY + 100):
                await stream.send_nowait(wander(20 if hour % 2 else 2, 1, start=hour))  # as columns, and as rows
            assert stream.unanswered == 100
            for hour in range(HISTORY, HISTORY + 100):
                reply = await stream.receive()
                assert check(reply, hour, 20 if hour % 2 else 2) == len(reply.forecasts) / 3
            assert stream.unanswered == 0
            with pytest.raises(InvalidArgumentError, match="every frame has its answer"):
                await stream.receive()
        expected = client.forecast([f"s{k}" for k in range(20)], horizon=3).sort("unique_id", "ds")
        assert_frame_equal(reply.forecasts, expected, rel_tol=1e-5)

    asyncio.run(talk())


@KINDS
def test_a_killed_server_costs_a_stream_nothing(servers: ServerFactory, kind: str) -> None:
    """What was unanswered is sent again, answered as duplicate where it was applied, and no series has a gap."""
    server, hours = servers(), 150
    with ForecastClient(server.address) as client:
        client.observe(wander(3, HISTORY))

    async def talk() -> int:
        address, new = server.address, 0
        async with stream_of(kind, address) as stream:
            frames = (wander(3, 1, start=hour) for hour in range(HISTORY, HISTORY + hours))
            for frame in itertools.islice(frames, 60):
                await stream.send_nowait(frame)
            for hour in range(HISTORY, HISTORY + 20):
                new += check(await stream.receive(), hour, 3)
            server.kill()
            for frame in frames:
                await stream.send_nowait(frame)
            again = asyncio.ensure_future(asyncio.to_thread(servers, f"--serving.port={address.rsplit(':', 1)[1]}"))
            for hour in range(HISTORY + 20, HISTORY + hours):
                new += check(await stream.receive(), hour, 3)
            await again
        return new

    new = asyncio.run(talk())
    with ForecastClient(server.address) as client:
        assert [info.length for info in client.list_series()] == [HISTORY + hours] * 3
        assert client.observe(wander(3, HISTORY + hours)).duplicates == 3 * (HISTORY + hours)
    assert 60 <= new <= 3 * hours


@KINDS
def test_a_stream_that_timed_out_goes_on_where_it_was(server: Server, client: ForecastClient, kind: str) -> None:
    client.observe(wander(3, HISTORY))

    async def talk() -> None:
        async with stream_of(kind, server.address, timeout_seconds=1.0) as stream:
            await stream.send_nowait(wander(3, 1, start=HISTORY))
            check(await stream.receive(), HISTORY, 3)
            server.process.send_signal(signal.SIGSTOP)
            try:
                for hour in range(HISTORY + 1, HISTORY + 30):
                    await stream.send_nowait(wander(3, 1, start=hour))
                for _ in range(2):
                    with pytest.raises(DeadlineError, match="in time"):
                        await stream.receive()
            finally:
                server.process.send_signal(signal.SIGCONT)
            for hour in range(HISTORY + 1, HISTORY + 30):
                check(await stream.receive(), hour, 3)

    asyncio.run(talk())
    assert client.get_series("s2").length == HISTORY + 30


@KINDS
def test_a_wrong_frame_is_answered_by_its_error_and_the_others_as_ever(
    server: Server, client: ForecastClient, kind: str
) -> None:
    client.observe(wander(1, HISTORY))
    wrong = wander(1, 1, start=HISTORY + 2).with_columns(y=pl.lit(math.inf))

    async def talk() -> None:
        async with stream_of(kind, server.address) as stream:
            for frame in (*(wander(1, 1, start=HISTORY + k) for k in range(2)), wrong, wander(1, 1, start=HISTORY + 2)):
                await stream.send_nowait(frame)
            for hour in (HISTORY, HISTORY + 1):
                check(await stream.receive(), hour, 1)
            with pytest.raises(InvalidArgumentError, match="inf is not a finite number"):
                await stream.receive()
            check(await stream.receive(), HISTORY + 2, 1)

    asyncio.run(talk())
    assert client.get_series("s0").length == HISTORY + 3


@KINDS
def test_a_full_queue_costs_a_stream_nothing(servers: ServerFactory, kind: str) -> None:
    """A message that found no room is tried again, and none behind it got before it."""
    server = servers("--serving.max_queued_observations=24", "--serving.max_request_observations=24")
    with ForecastClient(server.address) as client:
        client.observe(wander(4, 3))

        async def talk() -> None:
            async with stream_of(kind, server.address) as stream:
                for hour in range(3, 123):
                    await stream.send_nowait(wander(4, 1, start=hour))
                for _ in range(3, 123):
                    observed = (await stream.receive()).observed
                    assert (observed.applied + observed.duplicates, len(observed.rejected)) == (4, 0)

        asyncio.run(talk())
        assert [info.length for info in client.list_series()] == [123] * 4


def test_an_outbox_is_bounded(client: ForecastClient) -> None:
    with client.stream() as stream:
        for hour in range(MOST):
            stream.send_nowait(wander(1, 1, start=hour))
        with pytest.raises(LimitReachedError, match="receive some"):
            stream.send_nowait(wander(1, 1, start=MOST))
        with pytest.raises(InvalidArgumentError, match="receive their answers first"):
            stream.send(wander(1, 1, start=MOST))
        assert sum(reply.observed.applied for reply in stream) == MOST


def test_a_slow_client_is_held_back(servers: ServerFactory) -> None:
    """A server whose answers are not taken reads no more, and goes on when they are."""
    server, total = servers("--serving.max_stream_in_flight=4"), 400
    with ForecastClient(server.address) as client, grpc.insecure_channel(server.address) as channel:
        client.observe(wander(200, 30))
        requests = []
        for sequence in range(total):
            call = observe_call(wander(1, 1, start=30 + sequence), None, "", None)
            requests.append(StreamForecastsRequest(sequence=sequence, columns=call.request.columns))
            requests[-1].columns.series_ids.extend(f"s{k}" for k in range(1, 200))  # forecast, and not observed
            requests[-1].options.packed = True
        answers = ForecastServiceStub(channel).StreamForecasts(iter(requests))
        assert next(answers).sequence == 0
        lengths = [0, client.get_series("s0").length]
        while lengths[-1] > lengths[-2]:
            time.sleep(1)
            lengths.append(client.get_series("s0").length)
        assert lengths[-1] < 30 + total
        assert [answer.sequence for answer in answers] == list(range(1, total))
        assert client.get_series("s0").length == 30 + total


def test_a_request_whose_deadline_passed_is_dropped_whole(server: Server, client: ForecastClient) -> None:
    """Under load some requests are answered, some are not; of each, all rows are applied or none."""
    busy = threading.Event()

    def load(series: int) -> None:
        hour = 0
        with ForecastClient(server.address) as other:
            while not busy.is_set():
                frame = wander(1, 4000, start=hour).with_columns(unique_id=pl.lit(f"load {series}"))
                other.observe(frame)
                hour += 4000

    with ThreadPoolExecutor(2) as pool, grpc.insecure_channel(server.address) as channel:
        loads = [pool.submit(load, k) for k in range(2)]
        time.sleep(0.5)
        stub, codes, lengths = ForecastServiceStub(channel), {}, {}
        deadline = time.monotonic() + 180
        late: set[str] = set()
        while not late - set(lengths):  # some are dropped, sooner or later: that depends on the machine
            assert time.monotonic() < deadline
            for k in range(len(codes), len(codes) + 150):
                call = observe_call(wander(1, 3).with_columns(unique_id=pl.lit(f"quick {k:05}")), None, "", None)
                seconds = 0.002 + 0.0002 * (k % 150)
                codes[f"quick {k:05}"] = stub.Observe.future(call.request, timeout=seconds).code()
            late = {name for name, code in codes.items() if code is grpc.StatusCode.DEADLINE_EXCEEDED}
            lengths = {one.unique_id: one.length for one in client.list_series() if one.unique_id.startswith("quick")}
        busy.set()
        for done in loads:
            done.result()
    assert set(codes.values()) <= {grpc.StatusCode.OK, grpc.StatusCode.DEADLINE_EXCEEDED}
    assert set(lengths.values()) == {3}
    assert set(codes) - late <= set(lengths)


def test_columns_say_what_messages_say(server: Server, client: ForecastClient) -> None:
    client.observe(wander(5, 30))
    client.observe(wander(6, 3).filter(unique_id="s5"))
    with grpc.insecure_channel(server.address) as channel:
        stub = ForecastServiceStub(channel)
        ids = ["s4", "s5", "s0", "nobody"]
        request = ForecastRequest(series_ids=ids, options=ForecastOptions(packed=True), allow_partial=True)
        packed = stub.Forecast(request)
        assert list(packed.columns.series_ids) == ["s4", "s0"]
        assert {failure.series_id for failure in packed.failures} == {"s5", "nobody"}
        request.options.packed = False
        plain = stub.Forecast(request)
        assert [message.series_id for message in plain.forecasts] == ["s4", "s0"]
        assert plain.failures == packed.failures
        for k, message in enumerate(plain.forecasts):
            mine = slice(6 * k, 6 * k + 6)
            assert message.origin_time.ToMicroseconds() == packed.columns.origin_times_us[k]
            assert list(message.values) == packed.columns.values[mine]
            assert [list(path.values) for path in message.quantiles] == [
                column.values[mine] for column in packed.columns.quantiles
            ]
        call = observe_call(wander(5, 1, start=30), None, "", None)
        stream = StreamForecastsRequest(sequence=9, columns=call.request.columns, options=ForecastOptions(packed=True))
        answer = next(stub.StreamForecasts(iter([stream])))
        assert (answer.sequence, list(answer.outcomes)) == (9, [1] * 5)
        after = [f"s{k}" for k in range(5)]
        assert_frame_equal(forecast_frame(answer.columns, after), client.forecast(after), rel_tol=1e-5)
        both = ObserveRequest(columns=call.request.columns, observations=[{"series_id": "a"}])
        with pytest.raises(grpc.RpcError, match="not both"):
            stub.Observe(both)
