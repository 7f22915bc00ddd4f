"""Real server processes without the seconds of their imports: forked from one that has imported everything.

`python -m tests.integration.nursery` reads lines of JSON, `{"arguments": [...], "log": path}`, and answers each with
the process id of a server; it ends them with itself when its input ends.
"""

import contextlib
import importlib
import json
import os
import signal
import sys
from typing import NoReturn

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


if __name__ == "__main__":
    main()
