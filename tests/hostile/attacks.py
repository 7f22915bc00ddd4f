"""What hostile, broken or only large clients send. Each attack gets the server's address and returns what it was told.

Messages are bytes, made once: some of them no client library would make.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import grpc

from forecaster.v1 import forecast_service_pb2 as api
from tests.hostile.closed_window import ask
from tests.hostile.requests import (
    HOUR_US,
    LARGEST_BYTES,
    ROWS,
    START_US,
    attribute,
    columns,
    covariate_columns,
    futures,
    levels,
    row_messages,
    rows_of,
)

_SERVICE = "/forecaster.v1.ForecastService/"
OBSERVE, FORECAST, STREAM = _SERVICE + "Observe", _SERVICE + "Forecast", _SERVICE + "StreamForecasts"
DELETE, GET = _SERVICE + "DeleteSeries", _SERVICE + "GetSeries"
WATCH = "/grpc.health.v1.Health/Watch"
_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
]
_TIMEOUT_SECONDS = 60.0
Attack = Callable[[str, contextlib.ExitStack], str]


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table.

    Args:
        name: of what is done.
        attack: does it; what it leaves open is closed after the server's end.
        num_bytes: of the message, 0 for many of them.

    """

    name: str
    attack: Attack
    num_bytes: int = 0


def rows() -> list[Row]:
    """Return all rows; the first one does nothing."""
    return [Row("nothing", _wait), *_messages(), *_floods()]


def send(path: str, raw: bytes, *, at_once: int = 1, compression: grpc.Compression | None = None) -> Attack:
    """Return the attack that sends a message, `at_once` of it."""

    def attack(address: str, _: contextlib.ExitStack) -> str:
        with grpc.insecure_channel(address, _OPTIONS) as channel:
            call = channel.unary_unary(path)
            answers = [call.future(raw, timeout=_TIMEOUT_SECONDS, compression=compression) for _ in range(at_once)]
            return _said([_code(answer) for answer in answers])

    return attack


def _messages() -> list[Row]:
    found = []

    def add(name: str, path: str, raw: bytes, **how: object) -> None:
        found.append(Row(name, send(path, raw, **how), len(raw)))  # type: ignore[arg-type]

    ids, hours = [f"m{k}" for k in range(4096)], range(16)
    series = [k for k in range(len(ids)) for _ in hours]
    times = [START_US + hour * HOUR_US for _ in ids for hour in hours]
    ones = [1.0] * ROWS
    add("65,536 rows as columns", OBSERVE, columns(ids, series, times, ones))
    add("65,536 rows as messages", OBSERVE, row_messages(ROWS, covariates=0))
    add("65,536 rows of a wrong time", OBSERVE, columns(ids, series, [time + k for k, time in enumerate(times)], ones))
    add("65,536 rows with 4 covariates", OBSERVE, row_messages(ROWS, covariates=4))
    long_ids = [f"{k:x<256}" for k in range(ROWS)]
    add("65,536 series of 256 characters", OBSERVE, columns(long_ids, range(ROWS), [START_US] * ROWS, ones))
    add("1,000 covariate columns", OBSERVE, covariate_columns(1000))
    add("65,537 empty futures", FORECAST, futures(ROWS + 1))
    add("1,000 quantile levels", FORECAST, levels(1000))
    add("the largest message", OBSERVE, rows_of(LARGEST_BYTES))
    add("four of it at once", OBSERVE, rows_of(LARGEST_BYTES), at_once=4)
    add(
        "the same, compressed",
        OBSERVE,
        bytes([2 << 3 | 2, 0]) * (LARGEST_BYTES // 2),
        compression=grpc.Compression.Gzip,
    )
    add("30,000 covariate columns", OBSERVE, covariate_columns(30_000))
    add("80,000 covariate columns", OBSERVE, covariate_columns(80_000))
    add("1,000,000 empty futures", FORECAST, futures(1_000_000))
    add("18,000,000 empty observations", OBSERVE, bytes([2 << 3 | 2, 0]) * 18_000_000)
    add("33,000,000 empty observations", OBSERVE, bytes([2 << 3 | 2, 0]) * 33_000_000)
    add("an attribute of 1,000,000 numbers", OBSERVE, attribute(1_000_000))
    add("4,000,000 quantile levels", FORECAST, levels(4_000_000))
    add("a model's name of 30 MB", GET, api.GetSeriesRequest(model="x" * 30_000_000).SerializeToString())
    return found


def _floods() -> list[Row]:
    gap = 990 * HOUR_US
    one = columns(["g"], [0] * 1066, [START_US - (1065 - k) * gap for k in range(1066)], [1.0] * 1066)
    year = columns(["y"], [0] * ROWS, [START_US + k * HOUR_US for k in range(ROWS)], [1.0] * ROWS)
    ids = [f"g{k}" for k in range(8192)]
    begin = columns(ids, range(8192), [START_US] * 8192, [1.0] * 8192)
    jump = columns(ids, range(8192), [START_US + 1000 * HOUR_US] * 8192, [2.0] * 8192)
    return [
        Row("malformed bytes, 4 clients, 3 s", _malformed),
        Row("answers unread: 16 forecasts of 18 MB", _unread_forecasts),
        Row("answers unread: 64 streams", _unread_streams),
        Row("answers unread: Health/Watch", _unread_watch),
        Row("65,536 hours of one series", send(OBSERVE, year), len(year)),
        Row("1,066 rows that skip 990 steps each", send(OBSERVE, one), len(one)),
        Row("8,192 rows, 1,000 steps on each", _one_after_another(OBSERVE, begin, jump), len(jump)),
        Row("60,000 known rows, 8 clients", _known_rows),
        Row("a storm of deletions, 10 s", _deletions),
    ]


def _wait(_: str, __: contextlib.ExitStack) -> str:
    time.sleep(3)
    return "–"


def _malformed(address: str, _: contextlib.ExitStack) -> str:
    """Send bytes that are no message, to calls and to streams, as fast as they are refused."""
    until = time.monotonic() + 3
    said: list[str] = []

    def flood() -> None:
        with grpc.insecure_channel(address, _OPTIONS) as channel:
            while time.monotonic() < until:
                said.append(_code(channel.unary_unary(OBSERVE).future(b"\xff" * 50)))
                said.append(_code(channel.unary_unary("/grpc.health.v1.Health/Check").future(b"\xff" * 50)))
                with contextlib.suppress(grpc.RpcError):
                    stream = channel.stream_stream(STREAM)(iter([b"\xff" * 50]))
                    next(stream)
                said.append(stream.code().name)

    _in_threads(flood, 4)
    return _said(said)


def _unread_forecasts(address: str, left: contextlib.ExitStack) -> str:
    _begin_series(address, 1000)
    request = api.ForecastRequest(series_ids=[f"u{k}" for k in range(1000)])
    request.options.quantile_levels.extend([0.1 + 0.8 * k / 90 for k in range(90)])
    request.options.packed = True
    return _unread(address, FORECAST, request.SerializeToString(), 16, left)


def _unread_streams(address: str, left: contextlib.ExitStack) -> str:
    _begin_series(address, 1000)
    request = api.StreamForecastsRequest()
    request.columns.CopyFrom(api.ObserveRequest.FromString(_history(1000, range(48, 49))).columns)
    request.options.packed = True
    return _unread(address, STREAM, request.SerializeToString(), 64, left)


def _unread_watch(address: str, left: contextlib.ExitStack) -> str:
    return _unread(address, WATCH, b"", 8, left)


def _unread(address: str, path: str, raw: bytes, count: int, left: contextlib.ExitStack) -> str:
    """Ask on connections whose windows stay closed, and wait for what comes of it."""
    for _ in range(count):
        connection: socket.socket = ask(address, path, raw, ends=path != STREAM)
        left.callback(connection.close)
    time.sleep(3)
    return "not read"


def _begin_series(address: str, count: int) -> None:
    raw = _history(count, range(48))
    with grpc.insecure_channel(address, _OPTIONS) as channel:
        channel.unary_unary(OBSERVE)(raw, timeout=_TIMEOUT_SECONDS)


def _history(count: int, hours: range) -> bytes:
    ids = [f"u{k}" for k in range(count)]
    indices = [k for k in range(count) for _ in hours]
    times = [START_US + hour * HOUR_US for _ in ids for hour in hours]
    return columns(ids, indices, times, [float(k % 7) for k in range(len(times))])


def _one_after_another(path: str, *parts: bytes) -> Attack:
    def attack(address: str, left: contextlib.ExitStack) -> str:
        return [send(path, raw)(address, left) for raw in parts][-1]

    return attack


def _known_rows(address: str, _: contextlib.ExitStack) -> str:
    """Send rows, then the oldest of them, which the states have forgotten, again and again."""
    hours = 1200
    ids = [f"k{k}" for k in range(50)]
    with grpc.insecure_channel(address, _OPTIONS) as channel:
        observe = channel.unary_unary(OBSERVE)
        for hour in range(0, hours, 100):
            times = [START_US + (hour + k) * HOUR_US for _ in ids for k in range(100)]
            observe(
                columns(ids, [k for k in range(50) for _ in range(100)], times, [1.0] * 5000), timeout=_TIMEOUT_SECONDS
            )
    known = columns(
        ids,
        [k for k in range(50) for _ in range(150)],
        [START_US + k * HOUR_US for _ in ids for k in range(150)],
        [1.0] * 7500,
    )
    said: list[str] = []

    def flood() -> None:
        with grpc.insecure_channel(address, _OPTIONS) as channel:
            said.append(_code(channel.unary_unary(OBSERVE).future(known, timeout=_TIMEOUT_SECONDS)))

    _in_threads(flood, 8)
    return _said(said)


def _deletions(address: str, _: contextlib.ExitStack) -> str:
    """Delete series one by one for ten seconds, from four clients."""
    count = 40_000
    ids = [f"d{k}" for k in range(count)]
    send(OBSERVE, columns(ids, range(count), [START_US] * count, [1.0] * count))(address, _)
    until = time.monotonic() + 10
    said: list[str] = []

    def storm(which: int) -> None:
        with grpc.insecure_channel(address, _OPTIONS) as channel:
            delete = channel.unary_unary(DELETE)
            for name in ids[which::4]:
                if time.monotonic() > until:
                    return
                said.append(_code(delete.future(api.DeleteSeriesRequest(series_id=name).SerializeToString())))

    threads = [threading.Thread(target=storm, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return _said(said)


def _in_threads(work: Callable[[], None], count: int) -> None:
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _code(answer: grpc.Future) -> str:
    error = answer.exception()
    if error is None:
        return "OK"
    return error.code().name if isinstance(error, grpc.RpcError) else type(error).__name__


def _said(codes: Sequence[str]) -> str:
    counts = {code: codes.count(code) for code in dict.fromkeys(codes)}
    return ", ".join(code if count == 1 else f"{count:,} × {code}" for code, count in counts.items())
