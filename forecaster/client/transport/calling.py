# Generated from async_calling.py by `make clients`, never edited.
"""How a client calls its server: over one channel, tried again while that is of use, page by page.

Knows nothing of what is asked.
"""

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import grpc

from forecaster.client import calls
from forecaster.client.calls import Call, Work
from forecaster.client.results import ModelInfo
from forecaster.client.transport.channel import described, open_channel
from forecaster.client.transport.closing import Closing
from forecaster.client.transport.known_model import KnownModel
from forecaster.client.transport.retry import Attempts, RetryPolicy
from forecaster.errors import ForecasterError, InvalidArgumentError, LimitReachedError

T = TypeVar("T")


class Calling(Closing):
    """One server's.

    Args:
        address: `host:port`.
        model: the registered model's name; left out, the server's own.
        retry: how long and how often calls are tried.
    """

    def __init__(self, address: str = "127.0.0.1:50051", *, model: str = "", retry: RetryPolicy | None = None) -> None:
        self._address, self._name = described(calls.checked_address(address)), model
        self._retry, self._known = retry or RetryPolicy(), KnownModel()
        self._channel = open_channel(address)
        self._stubs = calls.Stubs(self._channel)

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def _describe(self, needed: bool) -> ModelInfo | None:
        """Return what the model knows, None if it is not needed; asked now and then, and after a refused request."""
        if needed and self._known.is_due():
            try:
                self._known.model = self._run(calls.get_model_call(self._name))
            except ForecasterError:
                if self._known.model is None:
                    raise
        return self._known.model if needed else None

    def _send(self, work: Work) -> None:
        while (call := work.next()) is not None:
            try:
                work.answered(self._run(call))
            except (InvalidArgumentError, LimitReachedError) as error:
                work.refused(error)

    def _pages(self, call: Callable[[str], Call[tuple[list[T], str]]]) -> Iterator[T]:
        token = ""
        while True:
            page, token = self._run(call(token))
            for info in page:
                yield info
            if not token:
                return

    def _watch(self, call: Call[T]) -> Iterator[T]:
        """Yield each answer of a call that has many, and begin it anew whenever the server is back."""
        attempts = Attempts(self._retry, self._address)
        while True:
            answers = call.method(self._stubs)(call.request)
            try:
                for answer in answers:
                    yield call.parse(answer)
                    attempts = Attempts(self._retry, self._address)  # it is there: patience begins anew
                return
            except grpc.RpcError as failure:
                time.sleep(attempts.delay(failure))
            finally:
                answers.cancel()

    def _run(self, call: Call[T]) -> T:
        attempts = Attempts(self._retry, self._address, gone_is_done=call.gone_is_done)
        while True:
            attempts.begin(call.request)
            try:
                answer = call.method(self._stubs)(call.request, timeout=attempts.remaining_seconds)
            except grpc.RpcError as failure:
                if attempts.was_done(failure):
                    return call.parse(None)
                if failure.code() is grpc.StatusCode.INVALID_ARGUMENT:
                    self._known.forget()  # another one may have taken its place: the next call asks again
                time.sleep(attempts.delay(failure))
            else:
                return call.parse(answer)
