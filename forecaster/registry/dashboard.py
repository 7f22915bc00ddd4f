"""`forecaster dashboard`: MLflow's pages on the configured store, until they are no longer wanted.

What runs is MLflow's own server in a session of its own, so that one signal ends all of it. It reads pictures and
reports where the store says that they lie; the browser asks nobody else.

Knows how MLflow's server is called; knows nothing of what it shows.
"""

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import webbrowser
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import IO

from jsonargparse import ArgumentParser, Namespace

from forecaster.arguments import read_config
from forecaster.config import TrackingConfig, require
from forecaster.errors import ConfigError, ModelNotFoundError, UnavailableError
from forecaster.registry.store_errors import unavailable
from forecaster.registry.store_uri import artifact_location, local_path, sqlite_path, without_password, without_secrets

_START_SECONDS, _END_SECONDS, _POLL_SECONDS = 90.0, 10.0, 0.1
_PAGE = "/#/experiments?workflowType=machine_learning"  # models' pages, rather than those of chats
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # and how this machine reaches itself there
_STORES = (
    "MLFLOW_BACKEND_STORE_URI",
    "MLFLOW_REGISTRY_STORE_URI",
)  # a password in options would be there for all to see
_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # more processes, which judge chats
}


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("--host", type=str, default="127.0.0.1", help="the address to listen on")
    parser.add_argument("--port", type=int, default=5000, help="the port to listen on; 0 takes a free one")
    shown = "names under which browsers may reach it, beside localhost and --host, such as that of a proxy"
    parser.add_argument("--allowed-hosts", type=str, nargs="+", default=[], metavar="NAME", help=shown)
    shown = "open the page in a browser; left out, where there is a desktop"
    parser.add_argument("--open", action=argparse.BooleanOptionalAction, help=shown)


def run(arguments: Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM; of a store that is a server itself, only say where it is.

    Raises:
        ModelNotFoundError: there is no such store; nothing is made then.
        ConfigError: the port is taken, or the host is not this machine's.
        UnavailableError: the store does not answer, or MLflow's server does not start.
    """
    config, host, port = read_config(arguments).tracking, arguments.host, arguments.port
    require(0 <= port <= 65_535, "port", port, "0 to 65535")
    if config.uri.startswith(("http://", "https://")):
        _tell(f"the store is a server: its dashboard is {without_password(config.uri)}")
        _browse(config.uri, arguments.open)
        return 0
    _require_store(config)
    port = _free_port(host, port)
    url = f"http://{_EVERY_ADDRESS.get(host, _bracketed(host))}:{port}"
    with tempfile.TemporaryFile() as log, _signals_interrupt():
        server = _start(config, host, port, arguments.allowed_hosts, log)
        try:
            _wait_until_it_answers(server, url, log)
            _tell(f"MLflow's dashboard: {url}{_PAGE} (Ctrl-C ends it)")
            if _bracketed(host) not in _LOOPBACK:
                _tell("it asks nobody for a password: whoever reaches it can change and delete everything")
            _browse(f"{url}{_PAGE}", arguments.open)
            server.wait()
            raise UnavailableError(f"MLflow's server ended by itself: {_last_line(log)}")
        except KeyboardInterrupt:
            return 0
        finally:
            _end(server)


def _require_store(config: TrackingConfig) -> None:
    """Raise ModelNotFoundError unless MLflow's tables, or its folder, are there: the server would make them."""
    shown = without_password(config.uri)
    hint = "run `forecaster train` first, or name another store with --tracking.uri"
    path = sqlite_path(config.uri)
    if "://" not in config.uri or config.uri.startswith("file:"):
        path = local_path(config.uri)
    if path is not None and not path.exists():
        raise ModelNotFoundError(f"there is no store {shown}: {hint}", [shown])
    if path is not None and path.is_dir():
        return
    from sqlalchemy import create_engine, inspect
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    try:
        engine = create_engine(config.uri)
        has_tables = inspect(engine).has_table("experiments")
        engine.dispose()
    except (ArgumentError, ImportError) as error:
        said = without_secrets(_first_line(error), config.uri)
        raise ConfigError(f"tracking.uri={shown} cannot be opened: {said}") from error
    except (SQLAlchemyError, OSError) as error:
        raise unavailable(config, error) from error
    if not has_tables:
        raise ModelNotFoundError(f"{shown} is no store of MLflow: {hint}", [shown])


def _free_port(host: str, port: int) -> int:
    """Return the port, or a free one for 0; raises ConfigError if it cannot be listened on."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
            probe.bind(address)
            return int(probe.getsockname()[1])
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another --port, 0 for a free one, or --host"
        ) from error


def _start(
    config: TrackingConfig, host: str, port: int, allowed: Sequence[str], log: IO[bytes]
) -> "subprocess.Popen[bytes]":
    """Start MLflow's server on a store: one worker, and only for the names that it is reached by."""
    names = [*_LOOPBACK, *([socket.gethostname()] if host in _EVERY_ADDRESS else [_bracketed(host)]), *allowed]
    names = list(dict.fromkeys(names))
    hosts = [pattern for name in names for pattern in (name, f"{name.replace('[', '[[]')}:*")]
    origins = [f"{scheme}://{name}" for name in hosts for scheme in ("http", "https")]
    options = {
        "host": host,
        "port": str(port),
        "workers": "1",
        "allowed-hosts": ",".join(hosts),
        "cors-allowed-origins": ",".join(origins),
        "uvicorn-opts": "--log-level=warning",
    }
    if (location := artifact_location(config)) is not None:
        options |= {"default-artifact-root": location, "artifacts-destination": location}
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "mlflow", "server", *(f"--{name}={value}" for name, value in options.items())],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env={**os.environ, **_SETTINGS, **dict.fromkeys(_STORES, config.uri)},
        start_new_session=True,
    )


def _wait_until_it_answers(server: "subprocess.Popen[bytes]", url: str, log: IO[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:
        if server.poll() is not None or time.monotonic() > deadline:
            raise UnavailableError(f"MLflow's server does not start: {_last_line(log)}")
        try:
            with direct.open(f"{url}/health", timeout=_END_SECONDS):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(_POLL_SECONDS)


def _end(server: "subprocess.Popen[bytes]") -> None:
    """End the server and all that it has started, even if it does not end by itself."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        server.wait(_END_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


@contextlib.contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Let the first Ctrl-C or SIGTERM be a KeyboardInterrupt, and the next ones nothing: the server is being ended."""
    known = (signal.SIGINT, signal.SIGTERM)

    def interrupt(number: int, frame: FrameType | None) -> None:
        for one in known:
            signal.signal(one, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {one: signal.signal(one, interrupt) for one in known}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _browse(url: str, asked: bool | None) -> None:
    desktop = sys.platform in ("darwin", "win32") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )
    if (desktop and sys.stdout.isatty()) if asked is None else asked:
        webbrowser.open(url)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _last_line(log: IO[bytes]) -> str:
    log.seek(0)
    lines = [line for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it said nothing"
