"""How a call ends: exceptions become statuses, defects get an id, and a stream ends with the server.

Knows gRPC's contexts and the project's errors; knows nothing of series or messages.
"""

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import grpc

from forecaster.errors import ForecasterError, InternalError, StorageError, UnavailableError
from forecaster.serving.backend import Phase
from forecaster.serving.status import DETAILS_KEY, status_code, to_status
from forecaster.serving.telemetry import LOGGER, log_internal_error

Context = grpc.aio.ServicerContext[Any, Any]
Request = TypeVar("Request")
Response = TypeVar("Response")


async def abort(context: Context, error: BaseException) -> None:
    """End a call with the error's status; a defect is logged and only its id told."""
    if not isinstance(error, ForecasterError) or (isinstance(error, InternalError) and not error.error_id):
        error_id = log_internal_error(error)
        error = InternalError(f"an internal error; the server's log has it as {error_id}", error_id)
    elif isinstance(error, StorageError):  # names files, which are the operator's matter
        LOGGER.error("%s", error)
        error = StorageError("the server cannot use its journal now; this request changed nothing")
    metadata = ((DETAILS_KEY, to_status(error).SerializeToString()),)
    await context.abort(status_code(error), str(error), metadata)


def unary(
    method: Callable[[Any, Request, Context], Awaitable[Response]],
) -> Callable[[Any, Request, Context], Awaitable[Response]]:
    """Turn a handler's exceptions into statuses."""

    @functools.wraps(method)
    async def handler(self: Any, request: Request, context: Context) -> Response:
        try:
            return await method(self, request, context)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            await abort(context, error)
            raise AssertionError("abort raises") from error

    return handler


async def until(end: asyncio.Event, requests: AsyncIterator[Request]) -> AsyncIterator[Request]:
    """Yield what comes; raises UnavailableError at the end, so that an idle stream does not hold a shutdown up."""
    ending = asyncio.ensure_future(end.wait())
    coming: asyncio.Future[Request] | None = None
    try:
        while True:
            coming = asyncio.ensure_future(anext(requests))
            await asyncio.wait({coming, ending}, return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                raise UnavailableError(f"the server is {Phase.DRAINING.value}: try again shortly")
            try:
                yield coming.result()
            except StopAsyncIteration:
                return
    finally:
        ending.cancel()
        if coming is not None:
            coming.cancel()
