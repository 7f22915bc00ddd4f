"""What a client makes of an answer that was lost on its way."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from forecaster.client import AsyncForecastClient, ForecastClient
from forecaster.errors import SeriesNotFoundError
from tests.integration.conftest import Server, wander


@dataclass
class Relay:
    """A TCP relay before a server, which can keep answers to itself and break its connections."""

    server: str
    silent: bool = False
    ends: list[asyncio.StreamWriter] = field(default_factory=list)

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Relay one connection until one side ends it."""
        host, port = self.server.rsplit(":", 1)
        answers, questions = await asyncio.open_connection(host, int(port))
        self.ends += [writer, questions]
        await asyncio.gather(self._pass_on(reader, questions), self._pass_on(answers, writer, is_answer=True))

    async def _pass_on(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, is_answer: bool = False
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(65_536):
                if not (is_answer and self.silent):
                    sink.write(data)
                    await sink.drain()
        sink.close()

    def cut(self) -> None:
        """Break all connections; later ones are relayed whole."""
        self.silent = False
        for end in self.ends:
            end.transport.abort()
        self.ends.clear()


@contextlib.asynccontextmanager
async def relay_to(server: str) -> AsyncIterator[tuple[Relay, str]]:
    relay = Relay(server)
    listener = await asyncio.start_server(relay.connect, "127.0.0.1", 0)
    host, port = listener.sockets[0].getsockname()
    try:
        yield relay, f"{host}:{port}"
    finally:
        listener.close()
        relay.cut()
        await asyncio.sleep(0.05)  # the relay's tasks see that and end


@contextlib.asynccontextmanager
async def deleter(kind: str, address: str) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Return what deletes s0 by the blocking or by the asyncio client; its channel is open already."""
    if kind == "blocking":
        with ForecastClient(address) as blocking:
            await asyncio.to_thread(blocking.get_model)
            yield lambda: asyncio.to_thread(blocking.delete_series, "s0")
    else:
        async with AsyncForecastClient(address) as client:
            await client.get_model()
            yield lambda: client.delete_series("s0")


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
def test_a_delete_whose_answer_was_lost_is_done(server: Server, client: ForecastClient, kind: str) -> None:
    """The retry is told NOT_FOUND, which then means that the first try did it; told so at once, it is an error."""
    client.observe(wander(2, 5))

    def listed() -> list[str]:
        return [info.unique_id for info in client.list_series()]

    async def talk() -> None:
        async with relay_to(server.address) as (relay, address), deleter(kind, address) as delete:
            relay.silent = True
            deleting = asyncio.ensure_future(delete())
            while await asyncio.to_thread(listed) != ["s1"]:
                await asyncio.sleep(0.02)
            assert not deleting.done()
            relay.cut()
            await asyncio.wait_for(deleting, 20)
            with pytest.raises(SeriesNotFoundError, match="'s0'"):
                await delete()

    asyncio.run(talk())
    assert listed() == ["s1"]
