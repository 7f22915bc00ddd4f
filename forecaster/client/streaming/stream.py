"""The blocking client's stream."""

import dataclasses
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from forecaster.client import calls
from forecaster.client.calls import Wanted
from forecaster.client.covariates import has_more_columns
from forecaster.client.inputs import Frame, OnConflict, as_frame, is_correcting
from forecaster.client.results import ModelInfo, StreamReply
from forecaster.client.streaming.outbox import FAREWELL_SECONDS, Outbox, OutgoingFrame
from forecaster.client.transport.closing import Closing
from forecaster.client.transport.retry import Attempts, RetryPolicy, StreamEnded
from forecaster.errors import DeadlineError, ForecasterError


class ForecastStream(Closing):
    """One bidirectional stream; reconnects and repeats unanswered frames by itself. It belongs to one thread.

    One frame at a time: `send`. Many, without waiting for each answer:

        for frame in frames:
            stream.send_nowait(frame)
            if stream.unanswered == 32:
                print(stream.receive())
        for reply in stream:  # those that are left
            print(reply)
    """

    def __init__(
        self,
        stubs: calls.Stubs,
        retry: RetryPolicy,
        address: str,
        describe: Callable[[bool], ModelInfo | None],
        wanted: Wanted,
        name: str,
    ) -> None:
        self._stubs, self._retry, self._address = stubs, retry, address
        self._describe, self._wanted, self._name = describe, wanted, name
        self._sequence = 0
        self._outbox = Outbox()
        self._connection: _Connection | None = None

    @property
    def unanswered(self) -> int:
        """Frames that were sent and whose answers were not received yet."""
        return len(self._outbox)

    def send(self, frame: Frame, *, future: Frame | None = None, on_conflict: OnConflict = "refuse") -> StreamReply:
        """Send one frame and return its answer; rows that the server refuses are in it.

        Args:
            frame: see `ForecastClient.observe`; but each of its rows is what came, so that one without a value is a
                missing observation, also the last.
            future: of the forecasts behind it; see `ForecastClient.forecast`.
            on_conflict: see `ForecastClient.observe`.
        """
        self._outbox.check_empty()
        self.send_nowait(frame, future=future, on_conflict=on_conflict)
        try:
            return self.receive()
        except BaseException:  # whatever comes on this stream now answers a frame that nobody waits for
            self.close()
            self._outbox.clear()
            raise

    def send_nowait(self, frame: Frame, *, future: Frame | None = None, on_conflict: OnConflict = "refuse") -> None:
        """Send one frame, whose answer `receive` returns after those of the frames before; see `send`.

        Raises LimitReachedError if more than a thousand frames have no answer yet.
        """
        self._outbox.check_room()
        given, corrects = as_frame(frame), is_correcting(on_conflict)
        model = self._describe(future is not None or has_more_columns(given))
        wanted = self._wanted if future is None else dataclasses.replace(self._wanted, future=as_frame(future))
        request, parse = calls.stream_request(given, self._sequence + 1, wanted, self._name, model, corrects=corrects)
        self._sequence += 1
        self._outbox.add(request, parse)
        if self._connection is None:
            self._connect()
        else:
            self._connection.send(self._outbox.newest)

    def receive(self) -> StreamReply:
        """Return the answer to the oldest frame without one.

        After a DeadlineError or UnavailableError it may be called again: all unanswered frames are then sent again,
        and what was applied already is answered as duplicate. Any other error is about the oldest frame, and is its
        answer.
        """
        self._outbox.check_any()
        attempts = Attempts(self._retry, self._address)
        while True:
            connection = self._connection or self._connect()
            try:
                return self._outbox.answered(connection.receive(attempts.remaining_seconds))
            except queue.Empty:
                self.close()
                raise DeadlineError(f"no answer from {self._address} in time") from None
            except grpc.RpcError as failure:
                self.close()
                try:
                    delay = attempts.delay(failure)
                except ForecasterError as error:
                    self._outbox.failed(error)
                    raise
                time.sleep(delay)

    def __iter__(self) -> Iterator[StreamReply]:
        """Yield the answers to all frames without one."""
        while self._outbox:
            yield self.receive()

    def close(self) -> None:
        """End the stream."""
        if self._connection is not None:
            self._connection.close(all_answered=not self._outbox)
        self._connection = None

    def _connect(self) -> "_Connection":
        self._connection = _Connection(self._stubs)
        for frame in self._outbox.again():
            self._connection.send(frame)
        return self._connection


class _Connection:
    """One call. A thread of its own takes the answers, since gRPC's iterator cannot wait for a limited time."""

    def __init__(self, stubs: calls.Stubs) -> None:
        self._outgoing: queue.SimpleQueue[OutgoingFrame | None] = queue.SimpleQueue()
        self._incoming: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._call = stubs.forecast.StreamForecasts(frame.sent() for frame in iter(self._outgoing.get, None))
        self._reader = threading.Thread(target=self._read, name="forecast-stream", daemon=True)
        self._reader.start()

    def send(self, frame: OutgoingFrame) -> None:
        """Send a message; if the call has ended, `receive` says so."""
        self._outgoing.put(frame)

    def receive(self, timeout_seconds: float) -> Any:
        """Return the next answer; raises queue.Empty without one in time, grpc.RpcError if the call has ended."""
        found = self._incoming.get(timeout=timeout_seconds)
        if isinstance(found, grpc.RpcError):
            raise found
        return found

    def close(self, *, all_answered: bool) -> None:
        """End the call, as one that succeeded if all messages have answers."""
        self._outgoing.put(None)
        if all_answered:
            self._reader.join(FAREWELL_SECONDS)
        self._call.cancel()

    def _read(self) -> None:
        try:
            for answer in self._call:
                self._incoming.put(answer)
        except grpc.RpcError as failure:
            self._incoming.put(failure)
        else:
            self._incoming.put(StreamEnded())
