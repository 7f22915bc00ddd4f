"""What waits for the engine: in the order of its arrival, but for requests that take many turns and let others between.

Of such a request nothing is overtaken: who touches one of its series, or follows it in its chain, waits until it has
ended. Knows nothing of threads or of what the engine does.
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

from forecaster.serving.storage.records import IntArray
from forecaster.serving.work.forecasting import Forecasts
from forecaster.serving.work.observing import Observed, ObserveWork
from forecaster.serving.work.work import Work


@dataclass(slots=True, eq=False)
class Job:
    """One request, or a function to call.

    Args:
        work: what is to be done; of a request that is cut, what is left.
        weight: rows.
        future: of the answer.
        parts: the answers to what was observed in turns before.
        forecasts: what was forecast in turns before, with the places of the series in the request.
        in_line: whether others wait for it to end.
        ahead: how many have to end before it.
        behind: who waits for it.
        sought: whether it waits for rows to be looked up, and no more for the engine.
    """

    work: Work
    weight: int
    future: "asyncio.Future[Any]"
    parts: list[Observed] = field(default_factory=list)
    forecasts: list[tuple[IntArray, Forecasts]] = field(default_factory=list)
    in_line: bool = False
    ahead: int = 0
    behind: "list[Job]" = field(default_factory=list)
    sought: bool = False


class Line:
    """All that waits."""

    def __init__(self) -> None:
        self._arrived: deque[Job] = deque()
        self._cut: deque[Job] = deque()  # requests whose next part may begin
        self._calls: deque[Job] = deque()
        self._last: dict[str | int, Job] = {}  # by series and chain: the last of those in line

    def __bool__(self) -> bool:
        return bool(self._arrived or self._cut or self._calls)

    def add(self, jobs: Iterable[Job]) -> None:
        """Take in what has arrived."""
        for job in jobs:
            (self._calls if callable(job.work) else self._arrived).append(job)

    def take(self, most_rows: int) -> tuple[list[Job], list[Job]]:
        """Return the next turn's requests, and those whose callers went away.

        One that is cut comes first, if there is any, then as many new ones as have so many rows; a larger one alone.
        """
        batch: list[Job] = []
        dropped: list[Job] = []
        rows = 0
        while self._cut and not batch:
            self._pick(self._cut.popleft(), batch, dropped)
        while self._arrived and (not rows or rows + self._arrived[0].weight <= most_rows):
            job = self._arrived.popleft()
            if self._pick(job, batch, dropped):
                rows += job.weight
        return batch, dropped

    def next_call(self) -> Job | None:
        """Return the next function to call, None if there is none."""
        return self._calls.popleft() if self._calls else None

    def go_on(self, job: Job) -> None:
        """Let a request of which something is left wait for its next part."""
        if isinstance(job.work, ObserveWork) and not job.in_line:
            if not job.work.start and self._wait(job):  # one that has begun overtakes nobody
                return
            self._line_up(job, ())
        self._cut.append(job)

    def end(self, job: Job) -> None:
        """Note that a request has ended: those that waited for it alone are the next ones."""
        if not job.in_line:
            return
        assert isinstance(job.work, ObserveWork)
        mine: Iterable[str | int] = job.work.keys()
        if job.behind:  # they may be the last ones of some
            mine = [key for key in mine if self._last.get(key) is job]
        deque(map(self._last.pop, mine, repeat(None)), maxlen=0)  # tens of thousands
        job.in_line = False
        for other in job.behind:
            other.ahead -= 1
        self._arrived.extendleft(other for other in reversed(job.behind) if not other.ahead)

    def _pick(self, job: Job, batch: list[Job], dropped: list[Job]) -> bool:
        """Put a request where it belongs; return whether that is the batch."""
        if job.future.cancelled():
            dropped.append(job)
            self.end(job)
        elif job.in_line or not self._wait(job):
            batch.append(job)
            return True
        return False

    def _wait(self, job: Job) -> bool:
        """Let a request wait behind those in line that it must not overtake; return whether there are any."""
        if not self._last or not isinstance(job.work, ObserveWork):
            return False
        if self._last.keys().isdisjoint(job.work.keys()):
            return False
        last = (self._last.get(key) for key in job.work.keys())  # noqa: SIM118 -- it is no mapping
        ahead = list(dict.fromkeys(other for other in last if other is not None))
        if ahead:
            self._line_up(job, ahead)
        return bool(ahead)

    def _line_up(self, job: Job, ahead: Sequence[Job]) -> None:
        assert isinstance(job.work, ObserveWork)
        job.in_line, job.ahead = True, len(ahead)
        for other in ahead:
            other.behind.append(job)
        self._last.update(zip(job.work.keys(), repeat(job)))
