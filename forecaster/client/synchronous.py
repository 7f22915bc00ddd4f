"""The blocking client."""

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import grpc
import polars as pl

from forecaster.client import calls
from forecaster.client.calls import Call
from forecaster.client.channel import OPTIONS
from forecaster.client.closing import Closing
from forecaster.client.results import ModelInfo, ObserveResult, SeriesInfo, StreamReply, empty_result
from forecaster.client.retry import Attempts, RetryPolicy, StreamEnded
from forecaster.errors import DeadlineError

T = TypeVar("T")


class ForecastClient(Closing):
    """Talks to one server; safe to share between threads.

    Args:
        address: `host:port`.
        model: the registered model's name; left out, the server's own.
        retry: how long and how often calls are tried.
    """

    def __init__(self, address: str = "127.0.0.1:50051", *, model: str = "", retry: RetryPolicy | None = None) -> None:
        self._address, self._name = calls.checked_address(address), model
        self._retry = retry or RetryPolicy()
        self._channel = grpc.insecure_channel(address, options=OPTIONS)
        self._stubs = calls.Stubs(self._channel)

    def observe(self, frame: pl.DataFrame) -> ObserveResult:
        """Send observations, columns `unique_id`, `ds`, `y` (null is missing); safe to repeat.

        Raises DataError for a wrong frame; rows that the server refuses are in the result.
        """
        result = empty_result()
        for call in calls.observe_calls(frame, self._name):
            result = result + self._run(call)
        return result

    def forecast(
        self, series_ids: Sequence[str], *, horizon: int | None = None, quantile_levels: Sequence[float] = ()
    ) -> pl.DataFrame:
        """Return forecasts in long format: unique_id, ds, y_hat (the median), q0.1 … for each level.

        Raises SeriesNotFoundError, TooLittleHistoryError, InvalidArgumentError.
        """
        return self._run(calls.forecast_call(series_ids, horizon, quantile_levels, self._name))

    def stream(self, *, horizon: int | None = None, quantile_levels: Sequence[float] = ()) -> "ForecastStream":
        """Open a stream: each frame sent is answered by its outcome and fresh forecasts of its series."""
        return ForecastStream(self._stubs, self._retry, self._address, (horizon, quantile_levels, self._name))

    def get_series(self, series_id: str) -> SeriesInfo:
        """Describe one series; raises SeriesNotFoundError."""
        return self._run(calls.get_series_call(series_id, self._name))

    def list_series(self) -> Iterator[SeriesInfo]:
        """Yield all series by ascending id."""
        token = ""
        while True:
            page, token = self._run(calls.list_series_call(token, self._name))
            yield from page
            if not token:
                return

    def delete_series(self, series_id: str) -> None:
        """Forget one series; raises SeriesNotFoundError."""
        self._run(calls.delete_series_call(series_id, self._name))

    def get_model(self) -> ModelInfo:
        """Describe the served model."""
        return self._run(calls.get_model_call(self._name))

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def _run(self, call: Call[T]) -> T:
        attempts = Attempts(self._retry, self._address, gone_is_done=call.gone_is_done)
        while True:
            try:
                answer = call.method(self._stubs)(call.request, timeout=attempts.remaining_seconds)
            except grpc.RpcError as failure:
                if attempts.was_done(failure):
                    return call.parse(None)
                time.sleep(attempts.delay(failure))
            else:
                return call.parse(answer)


class ForecastStream(Closing):
    """One bidirectional stream; reconnects and repeats an unanswered frame by itself."""

    def __init__(
        self,
        stubs: calls.Stubs,
        retry: RetryPolicy,
        address: str,
        options: tuple[int | None, Sequence[float], str],
    ) -> None:
        self._stubs, self._retry, self._address, self._options = stubs, retry, address, options
        self._sequence = 0
        self._outgoing: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._incoming: Any = None

    def send(self, frame: pl.DataFrame) -> StreamReply:
        """Send one frame and return its answer; rows that the server refuses are in it."""
        self._sequence += 1
        request, parse = calls.stream_request(frame, self._sequence, *self._options)
        attempts = Attempts(self._retry, self._address)
        while True:
            expired = threading.Event()
            watchdog = threading.Timer(attempts.remaining_seconds, self._expire, [expired])
            watchdog.start()
            try:
                return parse(self._exchange(request))
            except grpc.RpcError as failure:
                self.close()
                if expired.is_set():
                    raise DeadlineError(f"no answer from {self._address} in time") from failure
                time.sleep(attempts.delay(failure))
            except BaseException:  # whatever comes on this stream now answers a frame that nobody waits for
                self.close()
                raise
            finally:
                watchdog.cancel()

    def close(self) -> None:
        """End the stream."""
        self._outgoing.put(None)
        if self._incoming is not None:
            self._incoming.cancel()
        self._incoming = None

    def _expire(self, expired: threading.Event) -> None:
        """Give up waiting: a stream has no deadline for one answer, so the whole of it is cancelled."""
        expired.set()
        if self._incoming is not None:
            self._incoming.cancel()

    def _exchange(self, request: Any) -> Any:
        if self._incoming is None:
            self._outgoing = queue.SimpleQueue()
            self._incoming = self._stubs.forecast.StreamForecasts(iter(self._outgoing.get, None))
        self._outgoing.put(request)
        answer = next(self._incoming, None)
        if answer is None:
            raise StreamEnded
        return answer
