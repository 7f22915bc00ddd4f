"""Other programs' servers: started on a free port of loopback, waited for, ended with everything they started."""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

BUILD = pathlib.Path(__file__).resolve().parents[2] / "build"
_READY_SECONDS = 120.0


class NotInstalledError(Exception):
    """A peer's environment is not there."""


def python_of(environment: str) -> pathlib.Path:
    """Return the interpreter of `build/ENVIRONMENT`; raises NotInstalledError if `make bench` could not make it."""
    folder = BUILD / environment
    if not (folder / ".installed").exists():
        raise NotInstalledError(f"{folder.relative_to(BUILD.parent)} is not installed (make bench-peers)")
    return folder / "bin" / "python"


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def running(
    command: Sequence[object], log: pathlib.Path, ready: Callable[[], bool], environment: Mapping[str, str]
) -> Iterator[None]:
    """Run a server, and wait until `ready` says so; the end of the block kills it and its children."""
    with log.open("w") as stream:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + _READY_SECONDS
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} did not start: {log.read_text()[-20000:]}")
            time.sleep(0.1)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)
