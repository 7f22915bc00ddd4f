"""How a call ends: exceptions become statuses, defects get an id, and it is counted.

Knows gRPC's contexts and the project's errors; knows nothing of series or messages.
"""

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

import grpc

from forecaster.errors import DeadlineError, ForecasterError
from forecaster.serving.counters import Calls
from forecaster.serving.status import DETAILS_KEY, status_code, to_status
from forecaster.serving.telemetry import told

Context = grpc.aio.ServicerContext[Any, Any]
Request = TypeVar("Request")
Response = TypeVar("Response")
Handler = Callable[[Any, Request, Context], Awaitable[Response]]


class Servicer(Protocol):
    """Whose methods are wrapped here."""

    calls: Calls


async def abort(context: Context, error: BaseException) -> None:
    """End a call with the error's status; a defect is logged and only its id told."""
    shown = told(error)
    metadata = ((DETAILS_KEY, to_status(shown).SerializeToString()),)
    await context.abort(status_code(shown), str(shown), metadata)


def check_deadline(context: Context) -> None:
    """Raise DeadlineError if nobody waits any more: under load a call may begin after its deadline."""
    remaining = context.time_remaining()
    if remaining is not None and remaining <= 0:
        raise DeadlineError("the deadline passed before the call began; nothing was applied")


def unary(method: Handler[Request, Response]) -> Handler[Request, Response]:
    """Turn a handler's exceptions into statuses, count its calls and time them."""
    return _counted(method, timed=True)


def streaming(method: Handler[Request, Response]) -> Handler[Request, Response]:
    """Turn a handler's exceptions into statuses and count its calls; how long a stream lasts says nothing."""
    return _counted(method, timed=False)


def _counted(method: Handler[Request, Response], *, timed: bool) -> Handler[Request, Response]:
    name = method.__name__

    @functools.wraps(method)
    async def handler(self: Servicer, request: Request, context: Context) -> Response:
        began, code = time.perf_counter(), "OK"
        try:
            check_deadline(context)
            return await method(self, request, context)
        except asyncio.CancelledError:
            code = "CANCELLED"
            raise
        except Exception as error:
            code = status_code(error).name if isinstance(error, ForecasterError) else "INTERNAL"
            await abort(context, error)
            raise AssertionError("abort raises") from error
        finally:
            self.calls.ended(name, code)
            if timed:
                self.calls.took(name, time.perf_counter() - began)

    return handler
