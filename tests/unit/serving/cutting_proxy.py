"""A TCP proxy that cuts the connection at a chosen byte, so that a test decides what each side has got."""

import contextlib
import socket
import threading
from dataclasses import dataclass
from typing import Literal

Direction = Literal["request", "answer"]


@dataclass(frozen=True, slots=True)
class Fault:
    """Cut the next connection that sends something, once.

    Args:
        direction: whose bytes are counted.
        after_bytes: these are still passed on, then both sides are closed.
        refused: that many new connections are closed at once afterwards.
        is_late: keep the server's side open, so that `deliver` can pass on what the client has sent.
    """

    direction: Direction
    after_bytes: int
    refused: int = 0
    is_late: bool = False


class Link:
    """One connection."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client, self.server = client, server
        self.fault: Fault | None = None
        self.left = 0
        self.held = b""
        self.answer = b""  # to what was delivered late
        self.is_over = threading.Event()

    def close(self) -> None:
        for end in (self.client, self.server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


class CuttingProxy:
    """Listens on `port` and passes everything on to a server on loopback until a fault is set."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._links: list[Link] = []
        self._fault: Fault | None = None
        self._refused = 0
        self.late: Link | None = None
        threading.Thread(target=self._accept, daemon=True).start()

    def set(self, fault: Fault) -> None:
        """Set what happens to the next bytes of a client."""
        self._fault = fault

    def refuse(self, connections: int) -> None:
        """Close so many new connections at once; 0 takes them again."""
        self._refused = connections

    def deliver(self) -> bytes:
        """Pass on what a late fault has held back, and return the server's answer."""
        assert self.late is not None
        with contextlib.suppress(OSError):  # the server may have closed it
            self.late.server.sendall(self.late.held)
        assert self.late.is_over.wait(180)
        return self.late.answer

    def close(self) -> None:
        """Close everything."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for link in self._links:
            link.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._refused > 0:
                self._refused -= 1
                client.close()
                continue
            link = Link(client, socket.create_connection(("127.0.0.1", self._server_port)))
            self._links.append(link)
            for direction in ("request", "answer"):
                threading.Thread(target=self._pump, args=(link, direction), daemon=True).start()

    def _hold(self, link: Link, data: bytes) -> None:
        """Take the rest of the request, up to its Sync, from the client, and leave that alone."""
        while b"S\x00\x00\x00\x04" not in data:  # a Flush may follow it
            data += link.client.recv(1 << 20)
        link.held, self.late = data, link
        link.client.shutdown(socket.SHUT_RDWR)

    def _pump(self, link: Link, direction: Direction) -> None:
        source, target = (link.client, link.server) if direction == "request" else (link.server, link.client)
        while True:
            try:
                data = source.recv(1 << 20)
                if not data:
                    break
                if direction == "request" and self._fault is not None:
                    link.fault, self._fault = self._fault, None
                    link.left = link.fault.after_bytes
                fault = link.fault
                if self.late is link:
                    link.answer += data
                    if b"Z\x00\x00\x00\x05" in link.answer:  # ReadyForQuery
                        break
                    continue
                if fault is None or fault.direction != direction:
                    target.sendall(data)
                    continue
                target.sendall(data[: link.left])
                link.left -= len(data[: link.left])
                if link.left == 0:
                    self._refused = fault.refused
                    if fault.is_late:
                        self._hold(link, data[fault.after_bytes :])
                        return
                    break
            except OSError:
                break
        link.is_over.set()
        if self.late is not link:
            link.close()
