"""The asyncio client's stream."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from forecaster.client import calls
from forecaster.client.calls import Wanted
from forecaster.client.covariates import has_more_columns
from forecaster.client.inputs import Frame, OnConflict, as_frame, is_correcting
from forecaster.client.results import ModelInfo, StreamReply
from forecaster.client.streaming.outbox import FAREWELL_SECONDS, Outbox, OutgoingFrame
from forecaster.client.transport.closing import AsyncClosing
from forecaster.client.transport.retry import Attempts, RetryPolicy, StreamEnded
from forecaster.errors import DeadlineError, ForecasterError


class AsyncForecastStream(AsyncClosing):
    """One bidirectional stream; reconnects and repeats unanswered frames by itself; see `ForecastStream`."""

    def __init__(
        self,
        stubs: calls.Stubs,
        retry: RetryPolicy,
        address: str,
        describe: Callable[[bool], Awaitable[ModelInfo | None]],
        wanted: Wanted,
        name: str,
    ) -> None:
        self._stubs, self._retry, self._address = stubs, retry, address
        self._describe, self._wanted, self._name = describe, wanted, name
        self._sequence = 0
        self._outbox = Outbox()
        self._connection: _Connection | None = None
        self._held = False  # of what was sent again, all but the oldest

    @property
    def unanswered(self) -> int:
        """Frames that were sent and whose answers were not received yet."""
        return len(self._outbox)

    async def send(
        self, frame: Frame, *, future: Frame | None = None, on_conflict: OnConflict = "refuse"
    ) -> StreamReply:
        """Send one frame and return its answer; rows that the server refuses are in it.

        Args:
            frame: see `ForecastClient.observe`; but each of its rows is what came, so that one without a value is a
                missing observation, also the last.
            future: of the forecasts behind it; see `ForecastClient.forecast`.
            on_conflict: see `ForecastClient.observe`.
        """
        self._outbox.check_empty()
        try:
            await self.send_nowait(frame, future=future, on_conflict=on_conflict)
            return await self.receive()
        except BaseException:  # also cancelled: what comes on this stream now answers a frame that nobody waits for
            await self.close()
            self._outbox.clear()
            raise

    async def send_nowait(
        self, frame: Frame, *, future: Frame | None = None, on_conflict: OnConflict = "refuse"
    ) -> None:
        """Send one frame without waiting for its answer, which `receive` returns; see `ForecastStream.send_nowait`."""
        self._outbox.check_room()
        given, corrects = as_frame(frame), is_correcting(on_conflict)
        model = await self._describe(future is not None or has_more_columns(given))
        wanted = self._wanted if future is None else dataclasses.replace(self._wanted, future=as_frame(future))
        request, parse = calls.stream_request(given, self._sequence + 1, wanted, self._name, model, corrects=corrects)
        self._sequence += 1
        self._outbox.add(request, parse)
        if self._connection is None:
            self._connect()
        elif not self._held:
            self._connection.send(self._outbox.newest)

    async def receive(self) -> StreamReply:
        """Return the answer to the oldest frame without one; see `ForecastStream.receive`."""
        self._outbox.check_any()
        attempts = Attempts(self._retry, self._address)
        while True:
            connection = self._connection or self._connect()
            try:
                async with asyncio.timeout(attempts.remaining_seconds):
                    answer = await connection.receive()
                reply = self._outbox.answered(answer)
                self._send_held()
                return reply
            except TimeoutError:
                await self.close()
                raise DeadlineError(f"no answer from {self._address} in time") from None
            except grpc.RpcError as failure:
                await self.close()
                try:
                    delay = attempts.delay(failure)
                except ForecasterError as error:
                    self._outbox.failed(error)
                    raise
                await asyncio.sleep(delay)

    async def __aiter__(self) -> AsyncIterator[StreamReply]:
        """Yield the answers to all frames without one."""
        while self._outbox:
            yield await self.receive()

    async def close(self) -> None:
        """End the stream."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close(all_answered=not self._outbox)

    def _connect(self) -> "_Connection":
        """Connect and send what has no answer: the oldest first and alone, since a later one may hide what it meets.

        gRPC gives a call another status than the server's if the client is writing at that moment.
        """
        self._connection = _Connection(self._stubs)
        self._connection.send(next(self._outbox.again()))
        self._held = len(self._outbox) > 1
        return self._connection

    def _send_held(self) -> None:
        if self._held and self._connection is not None:
            self._held = False
            for frame in self._outbox.again():
                self._connection.send(frame)


class _Connection:
    """One call, with a task that sends and one that takes the answers, so that neither waits for the other."""

    def __init__(self, stubs: calls.Stubs) -> None:
        self._outgoing: asyncio.Queue[OutgoingFrame | None] = asyncio.Queue()
        self._incoming: asyncio.Queue[Any] = asyncio.Queue()
        self._call = stubs.forecast.StreamForecasts()
        self._reader = asyncio.create_task(self._read())
        self._tasks = [self._reader, asyncio.create_task(self._write())]

    def send(self, frame: OutgoingFrame) -> None:
        """Send a message; if the call has ended, `receive` says so."""
        self._outgoing.put_nowait(frame)

    async def receive(self) -> Any:
        """Return the next answer; raises grpc.RpcError if the call has ended."""
        found = await self._incoming.get()
        if isinstance(found, grpc.RpcError):
            raise found
        return found

    async def close(self, *, all_answered: bool) -> None:
        """End the call, as one that succeeded if all messages have answers."""
        if all_answered:
            self._outgoing.put_nowait(None)
            await asyncio.wait([self._reader], timeout=FAREWELL_SECONDS)
        self._call.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _read(self) -> None:
        try:
            while (answer := await self._call.read()) is not grpc.aio.EOF:
                self._incoming.put_nowait(answer)
        except grpc.RpcError as failure:
            hidden = failure.code() is grpc.StatusCode.INTERNAL and not failure.trailing_metadata()
            self._incoming.put_nowait(StreamEnded() if hidden else failure)
        else:
            self._incoming.put_nowait(StreamEnded())

    async def _write(self) -> None:
        with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):  # it ended, which `_read` finds out
            while (frame := await self._outgoing.get()) is not None:
                await self._call.write(frame.sent())
            await self._call.done_writing()
