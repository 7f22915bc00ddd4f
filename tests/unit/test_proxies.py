"""Which calls go by a proxy: a table of variables, and real calls with a dead proxy in the environment."""

import http.server
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from forecaster.client.transport.channel import described, open_channel
from forecaster.proxies import grpc_proxy, is_loopback, spare_loopback

PROXY = "http://me:secret@proxy.example:3128"


@pytest.mark.parametrize(
    ("address", "environment", "by_proxy"),
    [
        ("forecasts.example:50051", {}, False),
        ("forecasts.example:50051", {"http_proxy": PROXY}, True),
        ("forecasts.example:50051", {"https_proxy": PROXY}, True),
        ("forecasts.example:50051", {"grpc_proxy": PROXY}, True),
        ("forecasts.example:50051", {"HTTP_PROXY": PROXY}, False),  # gRPC does not read it
        ("forecasts.example:50051", {"http_proxy": PROXY, "no_proxy": "example"}, False),
        ("forecasts.example:50051", {"http_proxy": PROXY, "NO_PROXY": "other, .example"}, False),
        ("forecasts.example:50051", {"http_proxy": PROXY, "NO_PROXY": "*"}, False),
        ("forecasts.example:50051", {"http_proxy": PROXY, "no_proxy": "casts.example"}, True),
        ("10.1.2.3:50051", {"http_proxy": PROXY, "NO_PROXY": "10.0.0.0/8"}, False),
        ("10.1.2.3:50051", {"http_proxy": PROXY, "NO_PROXY": "10.2.0.0/16"}, True),
        ("localhost:50051", {"http_proxy": PROXY}, False),
        ("127.0.0.1:50051", {"http_proxy": PROXY}, False),
        ("127.9.9.9:50051", {"http_proxy": PROXY}, False),
        ("[::1]:50051", {"http_proxy": PROXY}, False),
        ("ipv4:127.0.0.1:50051", {"http_proxy": PROXY}, False),
        ("unix:/tmp/socket", {"http_proxy": PROXY}, False),
    ],
)
def test_who_is_reached_by_a_proxy(address: str, environment: Mapping[str, str], by_proxy: bool) -> None:
    found = grpc_proxy(address, environment)
    assert (found is not None) == by_proxy
    assert "secret" not in (found or "")


def test_a_client_says_that_it_uses_a_proxy(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("http_proxy", PROXY)
    monkeypatch.setattr(logging.getLogger("forecaster.client"), "propagate", True)
    open_channel("forecasts.invalid:50051").close()
    open_channel("127.0.0.1:50051").close()
    (record,) = caplog.records
    assert "forecasts.invalid:50051 is reached by the proxy http_proxy=http://…@proxy.example:3128" in record.message
    assert described("localhost:1") == "localhost:1"
    assert described("forecasts.invalid:1").startswith("forecasts.invalid:1 by the proxy http_proxy=")


def test_a_call_on_loopback_passes_a_dead_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "no_grpc_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = grpc.server(ThreadPoolExecutor(1))
    health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    for host in ("127.0.0.1", "localhost"):
        with open_channel(f"{host}:{port}") as channel:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=180)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    server.stop(None).wait()


def test_exceptions_are_merged_in_both_spellings() -> None:
    environment = {"HTTPS_PROXY": PROXY, "NO_PROXY": "corp.example, 10.0.0.0/8"}
    spare_loopback(environment)
    assert environment["no_proxy"] == environment["NO_PROXY"]
    entries = environment["no_proxy"].split(",")
    assert entries[:4] == ["corp.example", "10.0.0.0/8", "localhost", "127.0.0.1"]
    again = dict(environment)
    spare_loopback(again)
    assert again == environment
    every = {"http_proxy": PROXY, "no_proxy": "*"}
    spare_loopback(every)
    assert every["NO_PROXY"] == "*"
    nothing = {"PATH": "/bin"}
    spare_loopback(nothing)
    assert nothing == {"PATH": "/bin"}


def test_what_is_on_this_machine() -> None:
    assert [is_loopback(host) for host in ("localhost", "LOCALHOST.", "127.0.0.1", "::1", "[::1]")] == [True] * 5
    assert [is_loopback(host) for host in ("", "local", "128.0.0.1", "localhost.example")] == [False] * 4


class _Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"[]")

    def log_message(self, *_: object) -> None:
        pass


def test_mlflow_and_metrics_on_loopback_pass_a_dead_proxy() -> None:
    """A process as our commands are, with a proxy that nobody runs: its HTTP to this machine arrives."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    code = f"""
import requests
from forecaster.errors import UnavailableError
from pipelines.watching import metrics_page
url = "http://127.0.0.1:{server.server_port}/metrics"
try:
    metrics_page.fetch(url, "m")
except UnavailableError as error:
    assert "refused" not in str(error), error  # it is no metrics page, but it was read
from forecaster.proxies import spare_loopback
spare_loopback()
assert requests.get(url, timeout=10).text == "[]"
"""
    dead = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    clean = {name: value for name, value in os.environ.items() if name.lower() != "no_proxy"}
    done = subprocess.run([sys.executable, "-c", code], env=clean | dead, capture_output=True, text=True, check=False)
    server.shutdown()
    server.server_close()
    assert done.returncode == 0, done.stderr
