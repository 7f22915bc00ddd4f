"""A client that asks and never lets an answer come: its HTTP/2 window is closed from the beginning.

Just enough of HTTP/2 for one call on a connection; real clients open their windows by themselves.
"""

import socket
import struct

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS = 0, 1, 4
_INITIAL_WINDOW_SIZE = 4
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _header(name: str, value: str) -> bytes:
    """Return a literal header that is not indexed (RFC 7541, 6.2.2)."""
    return b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


def ask(address: str, path: str, message: bytes, *, ends: bool = True) -> socket.socket:
    """Send one message to a method, and return the connection, which nobody reads.

    Args:
        address: `host:port`.
        path: of the method, `/package.Service/Method`.
        message: protobuf's bytes.
        ends: whether it is the call's last.
    """
    host, _, port = address.rpartition(":")
    connection = socket.create_connection((host, int(port)))
    headers = b"".join(
        _header(name, value)
        for name, value in (
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", address),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
        )
    )
    connection.sendall(
        _PREFACE
        + _frame(_SETTINGS, 0, 0, struct.pack(">HI", _INITIAL_WINDOW_SIZE, 0))
        + _frame(_SETTINGS, _ACK, 0, b"")
        + _frame(_HEADERS, _END_HEADERS, 1, headers)
    )
    body = b"\0" + struct.pack(">I", len(message)) + message
    for start in range(0, len(body), 16_384):
        last = ends and start + 16_384 >= len(body)
        connection.sendall(_frame(_DATA, _END_STREAM if last else 0, 1, body[start : start + 16_384]))
    return connection
