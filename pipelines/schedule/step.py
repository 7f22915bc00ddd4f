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
from collections.abc import Callable, Sequence
from typing import NamedTuple, TextIO

from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.interval import IntervalTrigger

from forecaster.config import Config
from forecaster.errors import ConfigError, ForecasterError
from pipelines.memory import Memory
from pipelines.schedule.attempt import PROGRAM, Attempt
from pipelines.schedule.plan import Plan
from pipelines.schedule.triggers import fixed_triggers, next_time
from pipelines.stop_requests import on_stop
from pipelines.watching.watch import DRIFT, NEW_OBSERVATIONS, Watch, memory_path, seconds

_STOP, _ENDED, _INGEST = "\0stop", "\0ended", "\0ingest"  # no trigger's names
_WATCH_SECONDS = 5.0  # for a look under way, at the end


class Event(NamedTuple):
    """Something that came: a trigger, or one of the names above, and when, by the loop's clock."""

    name: str
    at: float


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
    watches = wanted.watches_drift or wanted.new_observations is not None
    if not asked and not watches:
        raise ConfigError("there is nothing to wait for: set schedule.cron, schedule.every or schedule.metrics_url")
    loop = Loop(config, program, stream)
    with on_stop(lambda: loop.send(_STOP)):
        clock = BackgroundScheduler(timezone=dt.UTC)
        loop.add_jobs(clock)
        clock.start()
        try:
            return loop.run()
        finally:
            clock.shutdown(wait=False)
            loop.close()


class Loop:
    """The main thread's work: `begin_due` and `handle`, in turn.

    Args:
        config: all of it.
        program: for the steps.
        stream: for lines for people.
        clock: seconds that never go back; a test moves its own.
    """

    def __init__(
        self, config: Config, program: Sequence[str], stream: TextIO, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._config, self._program, self._stream, self._clock = config, program, stream, clock
        self._memory = Memory.load(memory_path(config))
        self._watch = Watch(config, self._memory, stream)
        self._look, self._closing = threading.Event(), False
        self._watcher = threading.Thread(target=self._keep_watch, name="watch", daemon=True)
        self._plan = Plan(config.schedule)
        self._attempt: Attempt | None = None

    def add_jobs(self, clock: BackgroundScheduler) -> None:
        """Let a clock send the triggers, and ask for the looks. What it missed comes once, however late."""
        now = dt.datetime.now(dt.UTC)
        last = self._memory.began
        began = None if last is None else dt.datetime.fromtimestamp(last, dt.UTC)
        rules = {"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
        for name, trigger in fixed_triggers(self._config.schedule).items():
            due = next_time(trigger, began, now)
            clock.add_job(self.send, trigger, (name,), id=name, next_run_time=due, **rules)
        if self._config.schedule.ingest_every is not None:
            every = IntervalTrigger(seconds=seconds(self._config.schedule.ingest_every), timezone=dt.UTC)
            clock.add_job(self.send, every, (_INGEST,), id="ingest", next_run_time=now, **rules)
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
            self.begin_due()
            waiting = self._plan.wait_seconds(self._clock()) if self._attempt is None else None
            try:
                event = self.events.get(timeout=waiting)
            except queue.Empty:
                continue
            if event.name == _STOP:
                return self.stop()
            self.handle(event)

    def send(self, name: str) -> None:
        """Let the main thread know of something; any thread may call it, and a signal handler."""
        self.events.put(Event(name, self._clock()))

    def begin_due(self) -> None:
        """Begin the retraining that is due, or else an ingest that is wanted, unless a step is under way."""
        if self._attempt is not None:
            return
        trigger = self._plan.due(self._clock())
        if trigger is not None or self._plan.ingest:
            self._begin(trigger)

    def handle(self, event: Event) -> None:
        """Take note of something that came, but for the wish to end."""
        if event.name == _ENDED:
            self._end()
        elif event.name == _INGEST:
            self._plan.ingest = True
        else:
            self._note(event)

    def stop(self) -> int:
        """End what is under way; a retraining is gone on with at the next start of the scheduler."""
        if self._attempt is not None:
            self._say(f"ending: {self._attempt.step} is asked to keep what it has")
            self._attempt.stop(self._config.schedule.stop_seconds)
            if self._attempt.exit_code == 0 and self._attempt.trigger is not None:
                self._watch.ended()
        return 0

    def close(self) -> None:
        """End the watching; a look that hangs is not waited for."""
        self._closing = True
        self._look.set()
        if self._watcher.is_alive():
            self._watcher.join(_WATCH_SECONDS)

    def _note(self, event: Event) -> None:
        retrains = self._attempt is not None and self._attempt.trigger is not None
        if retrains and event.name in (DRIFT, NEW_OBSERVATIONS):
            return  # it was seen before this retraining began: the watch asks for nothing while one is under way
        if self._plan.asked(event.name, event.at) and retrains and self._plan.failures == 0:
            self._say(f"{event.name}: once more, when the retraining under way has ended")

    def _begin(self, trigger: str | None) -> None:
        step = "retrain" if trigger is not None else "ingest"
        self._plan.ingest = False
        if trigger is not None:
            self._plan.began()
            self._watch.began(trigger)
            self._say(f"{trigger}: a retraining begins")
        ended = functools.partial(self.send, _ENDED)
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
            self._plan.succeeded(self._clock())
            self._watch.ended()
            self._say(f"{trigger}: the retraining has ended")
        else:
            self._say(f"{trigger}: the retraining failed, exit code {code}")
            attempt.log_failure(trigger, self._plan.failures + 1)
            self._failed(trigger)

    def _failed(self, trigger: str) -> None:
        wait = self._plan.failed(trigger, self._clock())
        if wait is None:
            self._watch.ended()
        self._say(f"{trigger}: given up" if wait is None else f"{trigger}: again in {wait:g} s")

    def _keep_watch(self) -> None:
        """Look whenever it is time, until `close`."""
        while self._look.wait() and not self._closing:
            self._look.clear()
            trigger = self._watch.look()
            if trigger is not None:
                self.send(trigger)
        try:
            self._watch.close()
        except ForecasterError as error:
            self._say(str(error))

    def _say(self, line: str) -> None:
        self._stream.write(f"schedule: {line}\n")
        self._stream.flush()
