"""How a call begins and ends: bytes become messages, exceptions statuses, defects get an id, and it is counted.

Handlers are registered for bytes, not for messages: what may not be parsed is refused before it is. Knows gRPC's
contexts and the project's errors; knows nothing of series or models.
"""

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor

from forecaster.errors import DeadlineError, ForecasterError
from forecaster.serving.api.status import DETAILS_KEY, shortened, status_code, to_status
from forecaster.serving.counters import Calls
from forecaster.serving.intake.decoding import Account, Decoder, Intake
from forecaster.serving.telemetry import REFUSALS, told

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class Call:
    """One call, beside what it asks.

    Args:
        context: gRPC's.
        account: of the memory that it takes.
        num_bytes: about what its message takes of that; 0 of a stream, whose messages come with theirs.
    """

    context: Context
    account: Account
    num_bytes: int = 0


class Servicer(Protocol):
    """Has a method of each RPC's name: `(message, Call) -> answer`; of streams, `(messages with sizes, Call)`."""

    calls: Calls
    intake: Intake


def add_service(server: grpc.aio.Server, service: Any, servicer: Servicer) -> None:
    """Let a servicer answer every method of a service, which is its descriptor."""
    handlers = {method.name: _handler(method, servicer) for method in service.methods}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, handlers),))


async def abort(context: Context, error: BaseException) -> None:
    """End a call with the error's status; a defect is logged and only its id told."""
    shown = told(error)
    metadata = ((DETAILS_KEY, to_status(shown).SerializeToString()),)
    await context.abort(status_code(shown), shortened(str(shown)), metadata)


def check_deadline(context: Context) -> None:
    """Raise DeadlineError if nobody waits any more: under load a call may begin after its deadline."""
    remaining = context.time_remaining()
    if remaining is not None and remaining <= 0:
        raise DeadlineError("the deadline passed before the call began; nothing was applied")


def _handler(method: MethodDescriptor, servicer: Servicer) -> "grpc.RpcMethodHandler[Any, Any]":
    decoder = servicer.intake.decoder(message_factory.GetMessageClass(method.input_type))
    make: Any = grpc.unary_unary_rpc_method_handler
    behavior: Any = unary
    if method.client_streaming:
        make, behavior = grpc.stream_stream_rpc_method_handler, streaming
    elif method.server_streaming:
        make, behavior = grpc.unary_stream_rpc_method_handler, functools.partial(unary, timed=False)
    handle = behavior(getattr(servicer, method.name), decoder, servicer.calls, servicer.intake.account)
    return make(handle, request_deserializer=None, response_serializer=_written)  # type: ignore[no-any-return]


def _written(answer: Any) -> bytes:
    """Return an answer's bytes; large ones are made by whoever answers, part by part."""
    return answer if isinstance(answer, bytes) else answer.SerializeToString()


def unary(
    method: Callable[[Any, Call], Any],
    decoder: Decoder[Any],
    calls: Calls,
    open_account: Callable[[], Account],
    *,
    timed: bool = True,
) -> Callable[[bytes, Context], Any]:
    """Return what answers a call's bytes by a method for its message; it is counted and timed.

    A method that answers by several messages writes them itself, and how long it takes says nothing.
    """

    async def answer(raw: bytes, context: Context, account: Account) -> Any:
        message, num_bytes = await decoder.decode(raw, account)
        return await method(message, Call(context, account, num_bytes))

    return _counted(answer, method.__name__, calls, open_account, timed=timed)


def streaming(
    method: Callable[[Any, Call], Any], decoder: Decoder[Any], calls: Calls, open_account: Callable[[], Account]
) -> Callable[[AsyncIterator[bytes], Context], Any]:
    """Return what answers a stream of bytes by a method for its messages; how long a stream lasts says nothing."""

    async def answer(parts: AsyncIterator[bytes], context: Context, account: Account) -> Any:
        return await method(_decoded(parts, decoder, account), Call(context, account))

    return _counted(answer, method.__name__, calls, open_account, timed=False)


async def _decoded(
    parts: AsyncIterator[bytes], decoder: Decoder[Any], account: Account
) -> AsyncIterator[tuple[Any, int]]:
    async for raw in parts:
        yield await decoder.decode(raw, account)


def _counted(
    answer: Callable[[Any, Context, Account], Any],
    name: str,
    calls: Calls,
    open_account: Callable[[], Account],
    *,
    timed: bool,
) -> Callable[[Any, Context], Any]:
    async def handler(given: Any, context: Context) -> Any:
        began, code = time.perf_counter(), "OK"
        account = open_account()
        try:
            check_deadline(context)
            return await answer(given, context, account)
        except asyncio.CancelledError:
            code = "CANCELLED"
            raise
        except Exception as error:
            code = status_code(error).name if isinstance(error, ForecasterError) else "INTERNAL"
            _note_refusal(error, name, calls)
            await abort(context, error)
            raise AssertionError("abort raises") from error
        finally:
            calls.ended(name, code)
            if timed:
                calls.took(name, time.perf_counter() - began)
            if account.charged_bytes:
                _close_at_the_end(account)

    return handler


def _note_refusal(error: Exception, name: str, calls: Calls) -> None:
    reason = error.reason if isinstance(error, ForecasterError) else "INTERNAL"
    calls.refused(name, reason)
    if isinstance(error, ForecasterError):
        REFUSALS.say((name, reason), lambda: f"{name} refused, {reason}: {shortened(str(error))}")


def _close_at_the_end(account: Account) -> None:
    """Close an account when the whole RPC has ended: an answer is in memory until the client has read it."""
    rpc = asyncio.current_task()
    assert rpc is not None
    rpc.add_done_callback(lambda _: account.close())
