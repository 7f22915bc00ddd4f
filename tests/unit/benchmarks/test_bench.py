"""What `make bench` stands on: bars, percentiles, the JSON file, and load generators against a real server."""

import json
import pathlib
from collections.abc import Iterator
from concurrent import futures

import grpc
import pytest

from tests.benchmarks.figures import Bar, percentile, write_json
from tests.benchmarks.load import Plan, request_of, stream, unary


@pytest.mark.parametrize(
    ("rule", "holding"), [("<", [1.0]), ("≤", [1.0, 2.0]), (">", [3.0]), ("≥", [2.0, 3.0])], ids=str
)
def test_a_bar_holds_on_its_side(rule: str, holding: list[float]) -> None:
    bar = Bar("speed", "×", 2.0, rule)
    assert [value for value in (1.0, 2.0, 3.0) if bar.met_by(value).holds] == holding


def test_what_is_missing_or_does_not_count_never_holds() -> None:
    bar = Bar("pause", "ms", 200.0, "<")
    assert not bar.missing("no such thing").holds
    assert bar.missing("no such thing").value is None
    assert not bar.met_by(1.0, unless="half of it was not done").holds


def test_percentiles_are_values_that_occurred() -> None:
    values = [float(x) for x in range(100, 0, -1)]
    assert (percentile(values, 50), percentile(values, 99), percentile(values, 100)) == (50.0, 99.0, 100.0)
    assert percentile([7.0], 99) == 7.0


def test_figures_are_written_as_a_list(tmp_path: pathlib.Path) -> None:
    figures = [Bar("a", "×", 0.5, "≥").met_by(0.6, "so"), Bar("b", "s", 30.0, "<").missing("why")]
    write_json(figures, tmp_path / "build" / "bench.json", 1.0)
    first, second = json.loads((tmp_path / "build" / "bench.json").read_text())
    assert (first["name"], first["value"], first["unit"], first["bar"], first["holds"]) == (
        "a",
        0.6,
        "×",
        "≥ 0.5",
        True,
    )
    assert (second["value"], second["holds"]) == (None, False)
    assert first["cores"] >= 1


@pytest.fixture
def echo() -> Iterator[str]:
    """Return the address of a server that answers requests by themselves, but for those that say `fail`."""

    def one(request: bytes, context: grpc.ServicerContext) -> bytes:
        if request == b"fail":
            context.abort(grpc.StatusCode.INTERNAL, "as told")
        return request

    def many(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        yield from (one(request, context) for request in requests)

    handlers = {"One": grpc.unary_unary_rpc_method_handler(one), "Many": grpc.stream_stream_rpc_method_handler(many)}
    server = grpc.server(futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("echo.Echo", handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def test_every_request_is_timed_and_sampled(echo: str) -> None:
    requests = [f"#{k:08d}".encode() for k in range(20)]
    for run in (
        unary(echo, ["/echo.Echo/One"], requests, Plan(4, samples=20)),
        stream(echo, "/echo.Echo/Many", requests, Plan(4, samples=20)),
        stream(echo, "/echo.Echo/Many", requests, Plan(4, samples=20), b"#"),
    ):
        assert run.samples == dict(enumerate(requests))
        assert not run.errors
        assert all(0 < latency <= run.seconds for latency in run.latencies)
    assert request_of(b"#", requests[7]) == 7


def test_a_rate_is_kept_whatever_is_unanswered(echo: str) -> None:
    run = unary(echo, ["/echo.Echo/One"], [b"x"] * 40, Plan(rate=200.0))
    assert run.seconds >= 39 / 200
    assert run.answered_at[39] >= 39 / 200


def test_failures_are_counted_and_end_nothing_but_a_stream(echo: str) -> None:
    requests = [b"x", b"fail", b"x", b"x"]
    called = unary(echo, ["/echo.Echo/One"], requests, Plan(1))
    assert called.errors == ["INTERNAL: as told"]
    assert called.latencies[1] == float("inf")
    streamed = stream(echo, "/echo.Echo/Many", requests, Plan(1))
    assert streamed.errors == ["INTERNAL: as told"] * 3


def test_a_run_ends_when_it_is_told_to(echo: str, tmp_path: pathlib.Path) -> None:
    stop = tmp_path / "stop"
    stop.touch()
    assert unary(echo, ["/echo.Echo/One"], [b"x"] * 4, Plan(1, stop_file=str(stop))).latencies == []
