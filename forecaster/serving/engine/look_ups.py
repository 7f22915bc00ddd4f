"""Looks rows up in the journal of which the states cannot tell, beside the engine, and has late ones written.

Whoever asks waits for his own answer only: a thread with a storage of its own answers all that have gathered in one
look through the journal, and gives way to requests. Knows nothing of the engine.
"""

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any

from forecaster.serving.counters import WorkDone
from forecaster.serving.engine.courtesy import Courtesy
from forecaster.serving.engine.late_values import Written, count, settle
from forecaster.serving.engine.waiting import Job
from forecaster.serving.storage.contract import Journal
from forecaster.serving.storage.records import Columns
from forecaster.serving.work.observing import Observed

_MOST_ROWS = 65_536  # of one look
Asked = tuple[Job, Observed]


class LookUps:
    """Answers what `Observed.sought` leaves open.

    Args:
        journal: of a storage that only this thread uses.
        is_busy: whether requests wait for the engine.
        deliver: called on the thread with the answers, or why there are none.
        write: see `LateValues.write`; called on the thread.
    """

    def __init__(
        self,
        journal: Journal,
        is_busy: Callable[[], bool],
        deliver: Callable[[Sequence[tuple[Job, Any]]], object],
        write: Callable[[Columns, int], Written],
    ) -> None:
        self._journal, self._is_busy, self._deliver, self._write = journal, is_busy, deliver, write
        self.done = WorkDone()  # this thread writes it
        self.looks = 0
        self._asked: queue.SimpleQueue[Asked | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="look-ups", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def ask(self, job: Job, answer: Observed) -> None:
        """Let a request wait for what the journal tells; for any thread."""
        self._asked.put((job, answer))

    def end(self) -> None:
        """Let the thread end when it has answered what it was asked; for any thread."""
        self._asked.put(None)

    @property
    def is_running(self) -> bool:
        """Whether the thread has something left to do."""
        return self._thread.is_alive()

    def _run(self) -> None:
        while (first := self._asked.get()) is not None:
            asked = self._gathered(first)
            try:
                answers = self._answered([answer for _, answer in asked])
            except Exception as error:  # noqa: BLE001 -- handed to whoever waits
                self._deliver([(job, error) for job, _ in asked])
                continue
            self._deliver([(job, answer) for (job, _), answer in zip(asked, answers, strict=True)])

    def _gathered(self, first: Asked) -> list[Asked]:
        """Return what may be answered by one look: what waits by now."""
        asked, rows = [first], 0
        while rows < _MOST_ROWS and not self._asked.empty():
            another = self._asked.get()
            if another is None:
                self._asked.put(None)
                break
            asked.append(another)
            assert another[1].sought is not None
            rows += len(another[1].sought.rows)
        return asked

    def _answered(self, asked: Sequence[Observed]) -> list[Observed]:
        sought = [answer.sought for answer in asked if answer.sought is not None]
        self.looks += 1
        settled = settle(sought, self._journal, self._write, Courtesy(self._is_busy).give_way)
        for of_one in settled:
            count(self.done, of_one)
        return [answer.settled(*one) for answer, one in zip(asked, settled, strict=True)]
