"""How many RPCs may run at once: those past the limit are refused before anything of their messages is read.

Knows methods by name only.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc
from grpc_health.v1 import health

from forecaster.errors import LimitReachedError
from forecaster.serving.api.handlers import Context, abort
from forecaster.serving.counters import Calls

_RETRY_SECONDS = 0.1
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"


class RpcLimit(grpc.aio.ServerInterceptor):
    """Counts the RPCs that run, streams among them, and refuses further ones.

    Health checks have as many of their own: a server that is busy is not to be taken for one that is dead.

    Args:
        most: RPCs at once.
        served: the services whose refused RPCs are counted, `package.Service`; anything can be called any name.
        calls: where they are counted.
    """

    def __init__(self, most: int, served: tuple[str, ...], calls: Calls) -> None:
        self._most, self._served, self._calls = most, served, calls
        self._running: Counter[bool] = Counter()  # by whether they are health checks

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """Return what handles an RPC."""
        service, _, method = handler_call_details.method.removeprefix("/").rpartition("/")
        is_check = service == health.SERVICE_NAME
        if self._running[is_check] >= self._most:
            if service in self._served:
                self._calls.ended(method, grpc.StatusCode.RESOURCE_EXHAUSTED.name)
            # As that of a stream it is called before a message comes, which could take for ever.
            return grpc.stream_stream_rpc_method_handler(self._refuse)
        rpc = asyncio.current_task()
        assert rpc is not None
        self._running[is_check] += 1
        rpc.add_done_callback(lambda _: self._running.subtract([is_check]))
        return await continuation(handler_call_details)

    async def _refuse(self, _: object, context: Context) -> None:
        message = f"{self._most} RPCs are running and no more may: end some streams, or try again shortly"
        await abort(context, LimitReachedError(message, retry_after_seconds=_RETRY_SECONDS))
