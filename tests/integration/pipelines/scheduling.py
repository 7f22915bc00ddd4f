"""A scheduler that runs in the test's own process, and a stand-in for the retraining that says what it got."""

import io
import json
import os
import pathlib
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from forecaster.config import Config, IngestConfig, ScheduleConfig, TrackingConfig
from pipelines.schedule.step import run

STAND_IN = """
import json, os, signal, sys, time
log, seconds, code, manner = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
step, config, trigger = sys.argv[5], sys.argv[7], sys.argv[9] if sys.argv[5] == "retrain" else None
def say(what, **more):
    with open(log, "a") as file:
        file.write(json.dumps({"what": what, "at": time.time(), "pid": os.getpid(), **more}) + "\\n")
def leave(number, frame):
    say("asked to end")
    sys.exit(143)
signal.signal(signal.SIGTERM, leave if manner == "polite" else signal.SIG_IGN)
signal.signal(signal.SIGINT, leave)
mode = oct(os.stat(config).st_mode & 0o777)
say("begin", trigger=trigger, step=step, options=sys.argv[6::2], config=config, mode=mode, text=open(config).read())
print("at work", flush=True)
time.sleep(seconds)
print("the last words", file=sys.stderr, flush=True)
say("end")
sys.exit(code)
"""


@dataclass
class Played:
    """A scheduler that was run to its end in this process, with its retrainings.

    Args:
        folder: of the stand-in and its log.
        config: of the scheduler.
        seconds: that a retraining takes.
        code: that it ends with.
        manner: what it does when it is asked to end: polite, or deaf.
    """

    folder: pathlib.Path
    config: Config
    seconds: float = 0.0
    code: int = 0
    manner: str = "polite"
    stream: io.StringIO = field(default_factory=io.StringIO)
    status: int | None = None

    @property
    def log(self) -> pathlib.Path:
        return self.folder / "log"

    @property
    def said(self) -> list[dict[str, Any]]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [json.loads(line) for line in lines]

    def triggers(self) -> list[str]:
        return [line["trigger"] for line in self.said if line["what"] == "begin" and line["step"] == "retrain"]

    def count(self, what: str) -> int:
        return sum(line["what"] == what for line in self.said)

    def command(self) -> list[str]:
        script = self.folder / "stand_in.py"
        script.write_text(STAND_IN)
        return [sys.executable, "-S", str(script), str(self.log), str(self.seconds), str(self.code), self.manner]

    def until(self, condition: Callable[[], bool], seconds: float = 240.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, (self.said, self.stream.getvalue())
            time.sleep(0.02)

    def play(self, script: Callable[[], None], number: signal.Signals = signal.SIGTERM) -> "Played":
        """Run the scheduler while a thread does something; then the thread sends the signal."""
        self.status = until_signalled(lambda: run(self.config, self.command(), self.stream), script, number)
        return self


def until_signalled(
    step: Callable[[], int], script: Callable[[], None], number: signal.Signals = signal.SIGTERM
) -> int:
    """Run a step that ends by signals in this thread, the main one, while another does something and then sends one."""
    failures: list[BaseException] = []

    def act() -> None:
        try:
            deadline = time.monotonic() + 240.0
            while signal.getsignal(signal.SIGTERM) is before:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            script()
        except BaseException as error:  # noqa: BLE001 -- raised below
            failures.append(error)
        os.kill(os.getpid(), number)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=act)
    thread.start()
    try:
        status = step()
    finally:
        thread.join()
    assert signal.getsignal(signal.SIGTERM) is before
    if failures:
        raise failures[0]
    return status


def scheduled(tmp_path: pathlib.Path, tracking: TrackingConfig, **options: Any) -> Config:
    return Config(
        tracking=tracking, ingest=IngestConfig(output=str(tmp_path / "dataset")), schedule=ScheduleConfig(**options)
    )
