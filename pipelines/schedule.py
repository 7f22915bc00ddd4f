"""The step `schedule`: retrain at set times, at intervals, on drift and on new observations, until told to end.

APScheduler says when; a thread of its own looks at the server; the main thread runs one retraining at a time, each in a
process of its own. All three talk by one queue, which only the main thread reads: nothing else is shared but what is
remembered (`memory`).

Knows nothing of what a retraining is, nor of what drift is.
"""

import datetime as dt
import functools
import queue
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.interval import IntervalTrigger

from forecaster.config import Config, ScheduleConfig
from forecaster.errors import ConfigError, ForecasterError
from pipelines.attempt import PROGRAM, Attempt
from pipelines.memory import Memory
from pipelines.stop_requests import on_stop
from pipelines.triggers import fixed_triggers, next_time
from pipelines.watch import DRIFT, NEW_OBSERVATIONS, Watch, memory_path, seconds

_STOP, _ENDED, _INGEST = "\0stop", "\0ended", "\0ingest"  # no trigger's names
_WATCH_SECONDS = 5.0  # for a look under way, at the end


@dataclass(slots=True)
class _Plan:
    """What is to be done next.

    Args:
        pending: the trigger that came first since the last attempt began; those behind it ask for nothing more.
        retry: of the attempt that failed, or None.
        retry_at: when it is due, by the monotonic clock.
        failures: one after the other.
        ingest: whether what is new of the sources is wanted meanwhile.
    """

    pending: str | None = None
    retry: str | None = None
    retry_at: float = 0.0
    failures: int = 0
    ingest: bool = False

    def due(self) -> str | None:
        """Return the trigger of the attempt to begin now, None if there is none yet."""
        if self.retry is not None:
            return self.retry if time.monotonic() >= self.retry_at else None
        return self.pending

    def wait_seconds(self) -> float | None:
        """Return how long there is nothing to do unless something comes; None is for ever."""
        return max(self.retry_at - time.monotonic(), 0.0) if self.retry is not None else None

    def began(self) -> None:
        """Note that an attempt begins, which does what everything before it asked for."""
        self.pending = self.retry = None
        self.ingest = False

    def failed(self, trigger: str, config: ScheduleConfig) -> float | None:
        """Note a failure, and return the seconds until it is tried again, None if it is given up."""
        self.failures += 1
        if self.failures > config.retries:
            self.failures = 0
            return None
        wait = config.retry_seconds * 2.0 ** (self.failures - 1)
        self.retry, self.retry_at = trigger, time.monotonic() + wait
        return wait


def schedule(config: Config) -> int:
    """Retrain as configured until SIGTERM or SIGINT, and return 0.

    Raises:
        ConfigError: nothing is configured that could ask for a retraining, or something that cannot be read.
        StorageError: what was remembered cannot be read.
    """
    return run(config, PROGRAM, sys.stderr)


def run(config: Config, program: Sequence[str], stream: TextIO) -> int:
    """Do what `schedule` does, with another program for the steps."""
    asked, wanted = fixed_triggers(config.schedule), config.schedule
    watches = wanted.metrics_url is not None and (wanted.drift or wanted.new_observations is not None)
    if not asked and not watches:
        raise ConfigError("there is nothing to wait for: set schedule.cron, schedule.every or schedule.metrics_url")
    loop = _Loop(config, program, stream)
    with on_stop(lambda: loop.events.put(_STOP)):
        clock = BackgroundScheduler(timezone=dt.UTC)
        loop.add_jobs(clock)
        clock.start()
        try:
            return loop.run()
        finally:
            clock.shutdown(wait=False)
            loop.close()


class _Loop:
    """The main thread's work."""

    def __init__(self, config: Config, program: Sequence[str], stream: TextIO) -> None:
        self.events: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._config, self._program, self._stream = config, program, stream
        self._memory = Memory.load(memory_path(config))
        self._watch = Watch(config, self._memory, stream)
        self._look, self._closing = threading.Event(), False
        self._watcher = threading.Thread(target=self._keep_watch, name="watch", daemon=True)
        self._plan = _Plan()
        self._attempt: Attempt | None = None

    def add_jobs(self, clock: BackgroundScheduler) -> None:
        """Let a clock send the triggers, and ask for the looks. What it missed comes once, however late."""
        now = dt.datetime.now(dt.UTC)
        last = self._memory.began
        began = None if last is None else dt.datetime.fromtimestamp(last, dt.UTC)
        rules = {"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
        for name, trigger in fixed_triggers(self._config.schedule).items():
            due = next_time(trigger, began, now)
            clock.add_job(self.events.put, trigger, (name,), id=name, next_run_time=due, **rules)
        if self._config.schedule.ingest_every is not None:
            every = IntervalTrigger(seconds=seconds(self._config.schedule.ingest_every), timezone=dt.UTC)
            clock.add_job(self.events.put, every, (_INGEST,), id="ingest", next_run_time=now, **rules)
        if self._config.schedule.metrics_url is not None:
            every = IntervalTrigger(seconds=self._config.schedule.poll_seconds, timezone=dt.UTC)
            clock.add_job(self._look.set, every, id="watch", next_run_time=now, **rules)
            self._watcher.start()

    def run(self) -> int:
        """Run retrainings, one at a time, until told to end."""
        if self._memory.unfinished is not None:
            self._say(f"going on with the retraining ({self._memory.unfinished}) that was under way")
            self._plan.pending = self._memory.unfinished
        while True:
            if self._attempt is None:
                self._begin(self._plan.due())
            try:
                event = self.events.get(timeout=self._plan.wait_seconds() if self._attempt is None else None)
            except queue.Empty:
                continue
            if event == _STOP:
                return self._stop()
            if event == _ENDED:
                self._end()
            elif event == _INGEST:
                self._plan.ingest = True
            else:
                self._remember(event)

    def close(self) -> None:
        """End the watching; a look that hangs is not waited for."""
        self._closing = True
        self._look.set()
        if self._watcher.is_alive():
            self._watcher.join(_WATCH_SECONDS)

    def _remember(self, trigger: str) -> None:
        retrains = self._attempt is not None and self._attempt.trigger is not None
        if retrains and trigger in (DRIFT, NEW_OBSERVATIONS):
            return  # it was seen before this retraining began: the watch asks for nothing while one is under way
        if self._plan.pending is None:
            self._plan.pending = trigger
            if retrains:
                self._say(f"{trigger}: once more, when the retraining under way has ended")

    def _begin(self, trigger: str | None) -> None:
        """Begin the retraining that is due, or else an ingest that is wanted, if there is one."""
        if trigger is None and not self._plan.ingest:
            return
        step = "retrain" if trigger is not None else "ingest"
        self._plan.ingest = False
        if trigger is not None:
            self._plan.began()
            self._watch.began(trigger)
            self._say(f"{trigger}: a retraining begins")
        ended = functools.partial(self.events.put, _ENDED)
        try:
            self._attempt = Attempt(self._config, step, trigger, self._program, self._stream, ended)
        except OSError as error:
            self._say(f"{step}: its process cannot be started: {error}")
            if trigger is not None:
                self._failed(trigger)

    def _end(self) -> None:
        attempt, self._attempt = self._attempt, None
        assert attempt is not None
        trigger, code = attempt.trigger, attempt.exit_code
        if trigger is None:
            if code != 0:
                self._say(f"{attempt.step} failed, exit code {code}")
        elif code == 0:
            self._plan.failures = 0
            self._watch.ended()
            self._say(f"{trigger}: the retraining has ended")
        else:
            self._say(f"{trigger}: the retraining failed, exit code {code}")
            attempt.log_failure(trigger, self._plan.failures + 1)
            self._failed(trigger)

    def _failed(self, trigger: str) -> None:
        wait = self._plan.failed(trigger, self._config.schedule)
        if wait is None:
            self._watch.ended()
        self._say(f"{trigger}: given up" if wait is None else f"{trigger}: again in {wait:g} s")

    def _stop(self) -> int:
        """End what is under way; a retraining is gone on with at the next start of the scheduler."""
        if self._attempt is not None:
            self._say(f"ending: {self._attempt.step} is asked to keep what it has")
            self._attempt.stop(self._config.schedule.stop_seconds)
            if self._attempt.exit_code == 0 and self._attempt.trigger is not None:
                self._watch.ended()
        return 0

    def _keep_watch(self) -> None:
        """Look whenever it is time, until `close`."""
        while self._look.wait() and not self._closing:
            self._look.clear()
            trigger = self._watch.look()
            if trigger is not None:
                self.events.put(trigger)
        try:
            self._watch.close()
        except ForecasterError as error:
            self._say(str(error))

    def _say(self, line: str) -> None:
        self._stream.write(f"schedule: {line}\n")
        self._stream.flush()
