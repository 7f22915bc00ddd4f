"""Real processes without the seconds of their imports: forked from one that has imported everything.

`python -m tests.integration.nursery PROGRAM`, the program being `forecaster` or `pipelines`, reads lines of JSON,
`{"arguments": [...], "log": path, "kill_at": [module, name]}`, and answers each with the process id of a child that
runs the program, and whose exit status it writes beside the log; it ends them with itself when its input ends. A
child kills itself, as `kill -9` does, where it would call the function named by `kill_at`.
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
from typing import Any, NoReturn

_MAIN = {"forecaster": "forecaster.cli", "pipelines": "pipelines.__main__"}
_SERVING = (
    "forecaster.serving.server",
    "forecaster.registry.registry",
    "forecaster.model.stepping.packed_step",
    "forecaster.model.stepping.packed_decode",
    "mlflow.artifacts",
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_store",
    "polars",
)
_STEPS = (
    "forecaster.registry.registry",
    "forecaster.training.fit",
    "forecaster.training.run.tracking",
    "lightning.pytorch.callbacks",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "mlflow.artifacts",
    "mlflow.pyfunc",
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_store",
    "pipelines.backtest.step",
    "pipelines.promotion.step",
    "pipelines.retrain",
    "pipelines.training.step",
    "polars",
)
_IMPORTED = {"forecaster": _SERVING, "pipelines": _STEPS}
_POLL_SECONDS = 0.005


def be(program: str, arguments: list[str], log: str, kill_at: list[str] | None) -> NoReturn:
    """Be the program."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    output = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv = [program, *arguments]
    code = 1
    try:
        if kill_at is not None:
            _die_at(*kill_at)
        code = importlib.import_module(_MAIN[program]).main(arguments)
    except BaseException:  # noqa: BLE001 -- nobody else would say so
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _die_at(module: str, path: str) -> None:
    """Let the process be killed where it would call a function, or a method, of a module."""
    *owners, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for one in owners:
        owner = getattr(owner, one)
    assert callable(getattr(owner, name))
    setattr(owner, name, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))


def reap(running: dict[int, str]) -> None:
    """Write the exit statuses of children that have ended, as `subprocess` counts them."""
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


def main(program: str) -> None:
    """Fork a child for each line."""
    for name in _IMPORTED[program]:
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
                    be(program, **wanted)
                running[child] = wanted["log"]
                print(child, flush=True)
    for child in running:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


class Forked:
    """A child that the nursery started; what there is of it is as in `subprocess.Popen`."""

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
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            time.sleep(_POLL_SECONDS)
        return status

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal if it runs."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


class Nursery:
    """The other end: starts processes of a program in a fraction of a second."""

    def __init__(self, program: str = "forecaster") -> None:
        command = [sys.executable, "-m", "tests.integration.nursery", program]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)

    def start(self, arguments: list[str], log: pathlib.Path, *, kill_at: tuple[str, str] | None = None) -> Forked:
        """Start a process by the command's arguments and return it at once; it ends itself at a function."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"arguments": arguments, "log": str(log), "kill_at": kill_at}) + "\n")
        self._process.stdin.flush()
        return Forked(int(self._process.stdout.readline()), log)

    def close(self) -> None:
        """End it with all of its children."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(180)
        self._process.stdout.close()


if __name__ == "__main__":
    main(sys.argv[1])
