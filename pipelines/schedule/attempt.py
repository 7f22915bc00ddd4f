"""One step under way: a process of its own, whose lines are passed on, and whose failure to retrain leaves a trace.

Knows processes, and which run a failed attempt ought to have left; knows nothing of when or how often it is tried.
"""

import collections
import contextlib
import json
import os
import pathlib
import secrets
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from typing import TextIO

import yaml

from forecaster.config import Config, to_dict
from forecaster.errors import ForecasterError
from forecaster.registry import registry
from forecaster.steps import COMMAND

PROGRAM = COMMAND
_TAIL_LINES = 50
_PIPE_SECONDS = 2.0  # for what a process that has ended still has in its pipe


class Attempt:
    """A step under way.

    Args:
        config: written into a file that only this user can read, since URLs may hold passwords.
        step: its name.
        trigger: what asked for a retraining; None for another step.
        program: to run; the step, `--config FILE` and `--trigger TRIGGER` are added.
        stream: gets every line that the process writes.
        on_end: called, by another thread, when it has ended.
    """

    def __init__(
        self,
        config: Config,
        step: str,
        trigger: str | None,
        program: Sequence[str],
        stream: TextIO,
        on_end: Callable[[], None],
    ) -> None:
        self.step, self.trigger = step, trigger
        self._config, self._stream, self._on_end = config, stream, on_end
        self._id, self.began = secrets.token_hex(8), time.time()
        self._tail: collections.deque[str] = collections.deque(maxlen=_TAIL_LINES)
        self._folder = pathlib.Path(tempfile.mkdtemp(prefix="forecaster-retrain-"))
        file = self._folder / "config.yaml"
        with open(os.open(file, os.O_CREAT | os.O_WRONLY, 0o600), "w") as opened:
            yaml.safe_dump(to_dict(config), opened, sort_keys=False)
        # Signals are passed on by `stop`: a terminal's Ctrl-C, too, comes by way of this process only.
        self._process = subprocess.Popen(
            [*program, step, "--config", str(file), *(() if trigger is None else ("--trigger", trigger))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=os.environ | {"MLFLOW_RUN_CONTEXT": self._run_context()},
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._waiter = threading.Thread(target=self._wait, daemon=True)
        self._waiter.start()

    @property
    def exit_code(self) -> int | None:
        """The process's, None while it runs."""
        return self._process.poll()

    def stop(self, patience_seconds: float) -> None:
        """Ask the process to keep what it has and end, and kill it, with its own processes, if it does not.

        It is asked twice: an exception that a signal raises amid an import may be swallowed by whoever is importing.
        """
        for _ in range(2):
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(patience_seconds / 2)
                break
        else:
            self._stream.write(f"{self.step} does not end within {patience_seconds:g} s, and is killed\n")
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._waiter.join(_PIPE_SECONDS * 2)

    def log_failure(self, trigger: str, number: int) -> None:
        """Log the attempt as a failed run, if it has left none of its own.

        Args:
            trigger: what asked for it.
            number: of this attempt, from 1.
        """
        try:
            client = registry.connect(self._config.tracking)
            experiment = registry.experiment_id(client, self._config.tracking)
            with registry.store_errors(self._config.tracking):
                mine = (f"tags.attempt_id = '{self._id}'", f"attributes.end_time >= {int(self.began * 1000)}")
                asked = [f"tags.step = 'retrain' AND {one}" for one in mine]
                if any(client.search_runs([experiment], one, max_results=1) for one in asked):
                    return
                tail = list(self._tail)
                error = tail[-1] if tail else f"exit code {self.exit_code}"
                tags = {"step": "retrain", "trigger": trigger, "attempt_id": self._id, "attempt": str(number)}
                tags |= {"error": error[:500], "exit_code": str(self.exit_code)}
                began_ms = int(self.began * 1000)
                run = client.create_run(experiment, began_ms, tags, run_name=f"retrain ({trigger}) did not start")
                client.log_text(run.info.run_id, "".join(f"{line}\n" for line in tail), "output.txt")
                client.set_terminated(run.info.run_id, "FAILED")
        except ForecasterError as error:
            self._stream.write(f"the failed attempt could not be logged: {error}\n")

    def _run_context(self) -> str:
        """Return tags for MLflow's runs of the process, by which its runs are known."""
        before = os.environ.get("MLFLOW_RUN_CONTEXT")
        return json.dumps((json.loads(before) if before else {}) | {"attempt_id": self._id})

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._tail.append(line.rstrip("\n"))
                self._stream.write(line)
                self._stream.flush()

    def _wait(self) -> None:
        self._process.wait()
        self._reader.join(_PIPE_SECONDS)  # a process of its own may hold the pipe open
        shutil.rmtree(self._folder, ignore_errors=True)
        self._on_end()
