"""How much one turn of the engine takes on, and how requests are cut so that the rest goes on in later turns.

A request weighs its rows and the missing steps that they skip, which have to be walked, not its bytes. What a turn
takes on takes some milliseconds, which is found out as the server works, so that no request keeps others waiting long.
Each part of a request is judged, journaled and applied like a request of its own. Knows nothing of states or journals.

Shapes: R rows.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from forecaster.serving.storage.records import IntArray
from forecaster.serving.work.forecasting import ForecastWork
from forecaster.serving.work.observing import ObserveWork
from forecaster.serving.work.work import Work

HELD_BACK = -1  # rows of a request that must not begin before another one has ended
_LIMITLESS = 2**62
_TURN_SECONDS = 0.016
_ROWS, _LEAST_ROWS = 8192, 512
_STEPS, _LEAST_STEPS = 4096, 256
_FORECASTS = 512
_LITTLE = 1 / 8  # of a turn's rows
_ALONE_SECONDS, _LONGER = 1.0, 4  # who loads much alone pays fewer commits; the first to come then waits longer


class Turn:
    """What one turn may still take on, and what it has done.

    Args:
        rows: at most so many.
        steps: and so many missing steps, but for a single row that skips more.
        clock: seconds of the calling thread: what other processes take of the time does not make turns smaller.
        length: how many times as long as usual it may take.
    """

    def __init__(
        self,
        rows: int = _LIMITLESS,
        steps: int = _LIMITLESS,
        clock: Callable[[], float] = time.thread_time,
        length: int = 1,
    ) -> None:
        self.rows, self.steps, self.clock, self.length = rows, steps, clock, length
        self.rows_done = self.steps_done = 0
        self.cut_by_rows = self.cut_by_steps = False
        self.seconds = 0.0  # of judging and applying: what the journal takes does not grow with the rows
        self._busy = _Busy()

    def by_rows(self, requests: Sequence[ObserveWork], costs: Callable[[ObserveWork], IntArray | None]) -> list[int]:
        """Return how many of the rows that are left each request may begin; `costs` are in rows, None: one each."""
        left = [len(request.columns) - request.start for request in requests]
        given, most = [costs(request) for request in requests], max(self.rows - self.rows_done, 0)
        first = self._first_rows
        if sum(left) <= min(most, first) and not self._busy and all(cost is None for cost in given):  # as a rule
            return left
        known = [np.ones(n, np.int64) if cost is None else cost for n, cost in zip(left, given, strict=True)]
        shared = _shared(known, most, is_first=self.rows_done == 0)
        for i, request in enumerate(requests):
            if not request.start:  # nobody knows yet what its rows cost: each may have to be refused in words
                shared[i] = min(shared[i], first)
        counts = self._in_order(requests, shared, left, self._busy)
        self.cut_by_rows |= counts != left
        return counts

    def by_steps(self, requests: Sequence[ObserveWork], counts: Sequence[int], costs: Sequence[IntArray]) -> list[int]:
        """Return how many of the rows that they may begin each request goes on with.

        Args:
            requests: in order.
            counts: what `by_rows` said.
            costs: of those that are not held back, the missing steps before each of the rows, int64 [R].
        """
        most, given = max(self.steps - self.steps_done, 0), iter(costs)
        every = [np.zeros(0, np.int64) if count == HELD_BACK else next(given) for count in counts]
        fewer = _shared(every, most, is_first=self.rows_done == 0)
        fewer = self._in_order(requests, fewer, [len(cost) for cost in every], _Busy())
        self.cut_by_steps = True
        return [min(pair) for pair in zip(counts, fewer, strict=True)]

    @property
    def _first_rows(self) -> int:
        """How many rows of a request go first while others wait: a turn of them would tell too late what they cost."""
        return self.rows if self.length > 1 else max(math.ceil(self.rows * _LITTLE), _LEAST_ROWS)

    @contextlib.contextmanager
    def attempt(self) -> Iterator[None]:
        """Forget which requests were cut if what is done with them raises: they are tried again, in parts."""
        before = self._busy.copy(), self.cut_by_rows, self.cut_by_steps
        try:
            yield
        except BaseException:
            self._busy, self.cut_by_rows, self.cut_by_steps = before
            raise

    def spend(self, rows: int, steps: int) -> None:
        """Note what was done."""
        self.rows_done += rows
        self.steps_done += steps

    def _in_order(
        self, requests: Sequence[ObserveWork], counts: list[int], whole: Sequence[int], busy: "_Busy"
    ) -> list[int]:
        """Hold back whole what would overtake a request that is cut: what touches `busy` series and chains.

        One that was cut in a turn before stands in line: what must not overtake it waits there, and is not among these.
        """
        for i, request in enumerate(requests):
            if request.start:
                continue
            if busy and busy.concerns(request):
                counts[i] = HELD_BACK
            if counts[i] < whole[i] or counts[i] == HELD_BACK:
                busy.add(request)
        if busy is not self._busy:
            self._busy.add(*busy.requests)
        return counts


class _Busy:
    """Requests that are cut, or wait for one that is: their series and chains are gathered once somebody asks."""

    def __init__(self) -> None:
        self.requests: list[ObserveWork] = []
        self._keys: set[str | int] = set()
        self._gathered = 0

    def __bool__(self) -> bool:
        return bool(self.requests)

    def add(self, *requests: ObserveWork) -> None:
        """Take in some more."""
        self.requests += requests

    def copy(self) -> "_Busy":
        """Return one with the same requests."""
        other = _Busy()
        other.add(*self.requests)
        return other

    def concerns(self, request: ObserveWork) -> bool:
        """Return whether a request has to wait for one of them."""
        for one in self.requests[self._gathered :]:
            self._keys.update(one.keys())
        self._gathered = len(self.requests)
        return not self._keys.isdisjoint(request.keys())


class Pace:
    """How much a turn takes on so that it takes some milliseconds: found out from the turns before.

    Args:
        most_rows: of a turn.
        seconds: that a turn is to take.
        clock: seconds of the calling thread: what other processes take of the time does not make turns smaller.
    """

    def __init__(
        self, most_rows: int, seconds: float = _TURN_SECONDS, clock: Callable[[], float] = time.thread_time
    ) -> None:
        self._most_rows, self.seconds, self.clock = most_rows, seconds, clock
        self.wall_clock: Callable[[], float] = time.monotonic  # of calls, which wait for the disk, as a rule
        self.rows, self.steps, self.forecasts = min(_ROWS, most_rows), _STEPS, min(_FORECASTS, most_rows)
        self._met = self.wall_clock()

    @property
    def gathered_rows(self) -> int:
        """How many rows of different requests go together.

        As a rule all, so that who needs little gets it in the next turn; where that is nobody, as many as the turn
        does, so that hardly one is cut.
        """
        return self._most_rows if self.length() == 1 else min(_LONGER * self.rows, self._most_rows)

    def turn(self) -> Turn:
        """Return what the next turn may take on; more rows where for a while nobody was seen whom it keeps waiting."""
        length = self.length()
        return Turn(min(length * self.rows, self._most_rows), self.steps, self.clock, length)

    def length(self) -> int:
        """Return how many times as long as usual the next turn may take."""
        return 1 if self.wall_clock() - self._met < _ALONE_SECONDS else _LONGER

    def meet(self, works: Sequence[Work]) -> None:
        """Note whether there was somebody who needs little of a turn."""
        if any(self._is_little(work) for work in works):
            self._met = self.wall_clock()

    def _is_little(self, work: Work) -> bool:
        if isinstance(work, ObserveWork):
            return len(work.columns) <= self.rows * _LITTLE
        return not isinstance(work, ForecastWork) or work.weight <= self.forecasts

    def note(self, turn: Turn) -> None:
        """Take in how long a turn took."""
        done, whole = turn.rows_done / turn.rows, turn.seconds
        if not turn.steps_done and _LITTLE <= done < 1:  # what less takes tells nothing of more
            whole /= done
        length = max(turn.rows / self.rows, 1.0)  # less than `turn.length` where the most ends it
        if (share := self._share(whole / length)) < 1:
            fitting = int(turn.rows_done * self.seconds / turn.seconds)
            self.rows = min(self.rows, max(fitting, _LEAST_ROWS))
        elif turn.cut_by_rows:
            self.rows = min(int(self.rows * share), self._most_rows)
        if (share := self._share(turn.seconds)) < 1 and turn.steps_done:
            self.steps = min(self.steps, max(int(turn.steps_done * share), _LEAST_STEPS))
        elif turn.cut_by_steps:
            self.steps = int(self.steps * max(share, 1.0))

    def series(self, requests: Sequence[ForecastWork]) -> list[int]:
        """Return how many of the series that are left of each request a turn forecasts; the first one gets on."""
        left = [len(request.series_ids) - request.start for request in requests]
        if sum(n * request.each for n, request in zip(left, requests, strict=True)) <= self.forecasts:  # as a rule
            return left
        costs = [np.full(n, request.each) for n, request in zip(left, requests, strict=True)]
        return _shared(costs, self.forecasts, is_first=True)

    def note_forecasts(self, weight: int, seconds: float, *, was_cut: bool) -> None:
        """Take in how long forecasts took."""
        share = self._share(seconds)
        if share < 1:
            self.forecasts = min(self.forecasts, max(int(weight * share), 1))
        elif was_cut:
            self.forecasts = min(math.ceil(self.forecasts * share), self._most_rows)

    def _share(self, seconds: float) -> float:
        """Return what the next turn's work is in proportion to that of one that took so long.

        A slow one, as of new series, is made up for at once, so that it does not leave small turns behind; what takes
        up to twice its time stays as it is.
        """
        share = self.seconds / max(seconds, 1e-9)
        return share if share < 0.5 else min(max(share, 1.0), 2.0)


def _shared(costs: Sequence[IntArray], most: int, *, is_first: bool) -> list[int]:
    """Share what is left out: who needs little gets all of it, the others equally much; the first one gets on."""
    counts = [0] * len(costs)
    totals = [int(cost.sum()) for cost in costs]
    for rank, i in enumerate(sorted(range(len(costs)), key=totals.__getitem__)):
        fair = most // (len(costs) - rank)
        reached = len(costs[i]) if totals[i] <= fair else int(np.searchsorted(np.cumsum(costs[i]), fair, "right"))
        if i == 0 and is_first:
            reached = max(reached, min(len(costs[i]), 1))
        counts[i] = reached
        most = max(most - int(costs[i][:reached].sum()), 0)
    return counts
