"""The standard services of health and reflection, answered as the project's own are.

Those that the libraries bring take whatever bytes come, and their health service waits for each watcher in turn, so
that one who does not read keeps the others, and the server's end, waiting for ever.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha import reflection_pb2 as reflection_api

from forecaster.errors import NotFoundError
from forecaster.serving.api.handlers import Call
from forecaster.serving.counters import Calls
from forecaster.serving.intake.decoding import Intake

HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"]
REFLECTION = reflection_api.DESCRIPTOR.services_by_name["ServerReflection"]
_STATUS: dict[bool, Any] = {
    True: health_pb2.HealthCheckResponse.SERVING,
    False: health_pb2.HealthCheckResponse.NOT_SERVING,
}
_LIST: Any = health_pb2  # the types are those of an older version
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class HealthServicer:
    """`grpc.health.v1.Health`: one status for all services.

    Args:
        names: of the services; the server as a whole is one, with an empty name.
        intake: what calls come in by.
    """

    def __init__(self, names: Sequence[str], intake: Intake) -> None:
        self.calls, self.intake = Calls(), intake
        self._names = frozenset(("", *names))
        self._status = _STATUS[False]
        self._changed, self._ended = asyncio.Event(), False

    def set(self, *, is_serving: bool) -> None:
        """Say whether the server serves; watchers are told when they read."""
        self._status = _STATUS[is_serving]
        self._changed.set()
        self._changed = asyncio.Event()

    def end(self) -> None:
        """Let watchers end, which know by now."""
        self._ended = True
        self._changed.set()

    async def Check(self, request: health_pb2.HealthCheckRequest, call: Call) -> health_pb2.HealthCheckResponse:
        """Say whether a service is served."""
        if request.service not in self._names:
            known = ", ".join(sorted(filter(None, self._names)))
            raise NotFoundError(f"no service {request.service!r} is here: ask for {known}, or for none", ["service"])
        return health_pb2.HealthCheckResponse(status=self._status)

    async def List(self, request: Any, call: Call) -> Any:
        """Say it of all services."""
        status = health_pb2.HealthCheckResponse(status=self._status)
        return _LIST.HealthListResponse(statuses=dict.fromkeys(self._names, status))

    async def Watch(self, request: health_pb2.HealthCheckRequest, call: Call) -> None:
        """Say it now and whenever it changes, until the server ends."""
        told = None
        while True:
            changed = self._changed
            status = self._status if request.service in self._names else _UNKNOWN
            if status != told:
                await call.context.write(health_pb2.HealthCheckResponse(status=status))
                told = status
                continue  # it may have changed while nobody read
            if self._ended:
                return
            await changed.wait()


class ReflectionServicer:
    """`grpc.reflection.v1alpha.ServerReflection`.

    Args:
        names: of the services.
        intake: what calls come in by.
    """

    def __init__(self, names: Sequence[str], intake: Intake) -> None:
        self.calls, self.intake = Calls(), intake
        self._servicer = reflection.aio.ReflectionServicer(names)

    async def ServerReflectionInfo(
        self, messages: AsyncIterator[tuple[reflection_api.ServerReflectionRequest, int]], call: Call
    ) -> None:
        """Describe services, messages and files."""

        async def requests() -> AsyncIterator[reflection_api.ServerReflectionRequest]:
            async for request, num_bytes in messages:
                yield request
                call.account.give_back(num_bytes)

        answers: Any = self._servicer.ServerReflectionInfo(requests(), call.context)
        async for answer in answers:
            await call.context.write(answer)
