"""Real server processes without the seconds of their imports: forked from one that has imported everything.

`python -m tests.integration.nursery` reads lines of JSON, `{"arguments": [...], "log": path}`, and answers each with
the process id of a server; it ends them with itself when its input ends.
"""

import contextlib
import importlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import traceback
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from .conftest import ServerFactory

IMPORTED = (
    "forecaster.cli",
    "forecaster.serving.server",
    "forecaster.registry",
    "mlflow",
    "polars",
    "forecaster.client",
)


def serve(arguments: list[str], log: str) -> NoReturn:
    """Be a server."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    output = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv = ["forecaster", *arguments]
    code = 1
    try:
        code = importlib.import_module("forecaster.cli").main(arguments)
    except BaseException:  # noqa: BLE001 -- nobody else would say so
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    """Fork a server for each line."""
    for name in IMPORTED:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    started = []
    for line in sys.stdin:
        wanted = json.loads(line)
        child = os.fork()
        if child == 0:
            serve(wanted["arguments"], wanted["log"])
        started.append(child)
        print(child, flush=True)
    for child in started:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


class Nursery:
    """The other end: starts servers in a fraction of a second."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.integration.nursery"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)
        self._count = 0

    def fork(self, servers: "ServerFactory", *options: str) -> int:
        """Start a server of this factory's model and return its process id at once; its log is `forked-*.log`."""
        self._count += 1
        arguments, log = servers.command(*options)[3:], servers.folder / f"forked-{self._count:04d}.log"
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"arguments": arguments, "log": str(log)}) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def serve(self, servers: "ServerFactory", *options: str) -> tuple[int, str]:
        """Start a server; return its process id and its address when it serves."""
        address_file = pathlib.Path(servers.folder / f"forked-{self._count:04d}.address")
        process = self.fork(servers, *options, f"--serving.address_file={address_file}")
        deadline = time.monotonic() + 60
        while not address_file.exists():
            log = servers.folder / f"forked-{self._count:04d}.log"
            if time.monotonic() > deadline or not is_alive(process):
                raise AssertionError(f"the server did not start: {log.read_text()}")
            time.sleep(0.01)
        return process, address_file.read_text().strip()

    def close(self) -> None:
        """End it with all of its servers."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


def is_alive(process: int) -> bool:
    """Return whether a process has not ended yet."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def kill(process: int, how: signal.Signals = signal.SIGKILL) -> None:
    """End a server as a power switch would, or otherwise; its files are free when this returns."""
    os.kill(process, how)
    while is_alive(process):
        time.sleep(0.005)


if __name__ == "__main__":
    main()
