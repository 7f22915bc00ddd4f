"""Real server processes without the seconds of their imports: forked from one that has imported everything.

`python -m tests.integration.nursery` reads lines of JSON, `{"arguments": [...], "log": path}`, and answers each with
the process id of a server, whose exit status it writes beside the log; it ends them with itself when its input ends.
"""

import contextlib
import gc
import importlib
import json
import os
import pathlib
import select
import signal
import subprocess
import sys
import time
import traceback
from typing import NoReturn

IMPORTED = (
    "forecaster.cli",
    "forecaster.serving.server",
    "forecaster.registry",
    "forecaster.model.packed_step",
    "forecaster.model.packed_decode",
    "mlflow.artifacts",
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_store",
    "polars",
)
_POLL_SECONDS = 0.005


def serve(arguments: list[str], log: str) -> NoReturn:
    """Be a server."""
    signal.set_wakeup_fd(-1)
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


def reap(running: dict[int, str]) -> None:
    """Write the exit statuses of servers that have ended, as `subprocess` counts them."""
    for process, log in list(running.items()):
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            del running[process]
            partial = pathlib.Path(f"{log}.partial")
            with contextlib.suppress(FileNotFoundError):  # the test is over, and its folder gone
                partial.write_text(str(os.waitstatus_to_exitcode(status)))
                partial.replace(status_file(log))


def status_file(log: str | pathlib.Path) -> pathlib.Path:
    """Return where a server's exit status is written."""
    return pathlib.Path(f"{log}.status")


def main() -> None:
    """Fork a server for each line."""
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()
    running: dict[int, str] = {}
    ended, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    asked = b""
    while True:
        ready, _, _ = select.select([0, ended], [], [])
        if ended in ready:
            os.read(ended, 4096)
            reap(running)
        if 0 in ready:
            part = os.read(0, 65536)
            if not part:
                break
            asked += part
            if asked.endswith(b"\n"):  # nobody asks again before the answer
                wanted, asked = json.loads(asked), b""
                child = os.fork()
                if child == 0:
                    serve(wanted["arguments"], wanted["log"])
                running[child] = wanted["log"]
                print(child, flush=True)
    for child in running:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


class Forked:
    """A server that the nursery started; what there is of it is as in `subprocess.Popen`."""

    def __init__(self, pid: int, log: pathlib.Path) -> None:
        self.pid, self._status = pid, status_file(log)

    def poll(self) -> int | None:
        """Return its exit status, None while it runs."""
        return int(self._status.read_text()) if self._status.exists() else None

    def wait(self, timeout: float) -> int:
        """Wait for its end and return its exit status; raises subprocess.TimeoutExpired."""
        deadline = time.monotonic() + timeout
        while (status := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(f"server {self.pid}", timeout)
            time.sleep(_POLL_SECONDS)
        return status

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal if it runs."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


class Nursery:
    """The other end: starts servers in a fraction of a second."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.integration.nursery"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)

    def start(self, arguments: list[str], log: pathlib.Path) -> Forked:
        """Start a server by the `forecaster` command's arguments and return it at once."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"arguments": arguments, "log": str(log)}) + "\n")
        self._process.stdin.flush()
        return Forked(int(self._process.stdout.readline()), log)

    def close(self) -> None:
        """End it with all of its servers."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


if __name__ == "__main__":
    main()
