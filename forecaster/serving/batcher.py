"""Forms micro-batches: many requests wait, one engine thread works, each turn takes all that fits.

While the engine computes and the journal commits, the next requests gather; that is the whole schedule, so an
idle server adds no wait. The thread takes its next turn itself: it need not wait for an event loop that is busy.
Requests are taken in the order of their arrival; within a turn observations go before forecasts. Knows nothing of
tensors or gRPC.
"""

import asyncio
import functools
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from forecaster.errors import FencedError, LimitReachedError
from forecaster.serving.engine import Engine
from forecaster.serving.telemetry import told
from forecaster.serving.work import Forecasts, ForecastWork, Observed, ObserveWork

_POLL_SECONDS = 0.005  # at the end
T = TypeVar("T")
Work = ObserveWork | ForecastWork | Callable[[], Any]


@dataclass(slots=True)
class _Job:
    work: Work
    weight: int
    future: "asyncio.Future[Any]"


class Batcher:
    """The queue before one engine.

    Args:
        engine: called by one thread only, this batcher's.
        max_batch: most rows (observations or series to forecast) in one turn; a larger request goes alone.
        max_queued: refuse work past so many waiting rows.
        on_defect: called with an exception that no request is to blame for.
    """

    def __init__(
        self, engine: Engine, *, max_batch: int, max_queued: int, on_defect: Callable[[Exception], None]
    ) -> None:
        self._engine = engine
        self._max_batch, self.max_queued = max_batch, max_queued
        self.turns = 0  # that had observations or forecasts
        self._on_defect = on_defect
        self._queued = 0  # rows
        self._waiting = 0  # requests and calls
        self._gathered: list[_Job] = []  # in this pass of the loop
        self._jobs: queue.SimpleQueue[list[_Job] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def begin(self, work: ObserveWork) -> "asyncio.Future[Observed]":
        """Let one request's observations wait for their turn; the answer may say that it is refused whole.

        Cancelled before its turn, it is dropped whole, and its chain with it. The future raises what the engine raises.
        Raises LimitReachedError.
        """
        static = 0 if work.attributes is None else len(work.attributes)
        after = 0 if work.then is None else work.then.weight
        return self._submit(work, min(max(len(work.columns), static) + after, self.max_queued))

    async def observe(self, work: ObserveWork) -> Observed:
        """Apply one request's observations; raises what the engine raises, or LimitReachedError."""
        answer = await self.begin(work)
        if answer.refused is not None:
            raise answer.refused
        return answer

    async def forecast(self, work: ForecastWork) -> Forecasts:
        """Answer one request for forecasts; raises what the engine raises, or LimitReachedError."""
        answer: Forecasts = await self._submit(work, min(work.weight, self.max_queued))
        return answer

    async def call(self, function: Callable[[], T]) -> T:
        """Run a short function on the engine's thread, between two turns' work; raises LimitReachedError as well."""
        answer: T = await self._submit(function, 1)
        return answer

    async def upkeep(self, function: Callable[[], T]) -> T:
        """Run the server's own short function like `call`, however many requests wait."""
        answer: T = await self._submit(function, 0)
        return answer

    @property
    def queued(self) -> int:
        """The rows that wait or are being worked on."""
        return self._queued

    def start(self) -> None:
        """Begin to work; needs a running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def drain(self) -> None:
        """Finish everything that waits, then stop; cancelled, it leaves a thread that is still at work alone."""
        while self._waiting:
            await asyncio.sleep(_POLL_SECONDS)
        self._jobs.put(None)
        while self._thread.is_alive():
            await asyncio.sleep(_POLL_SECONDS)

    def _submit(self, work: Work, weight: int) -> "asyncio.Future[Any]":
        if self._queued + weight > self.max_queued:
            raise LimitReachedError(
                f"{self._queued} rows wait already and {self.max_queued} may: slow down and try again",
                retry_after_seconds=0.1,
            )
        job = _Job(work, weight, asyncio.get_running_loop().create_future())
        self._queued += weight
        self._waiting += 1
        if not self._gathered:  # what comes in the same pass of the loop goes together
            asyncio.get_running_loop().call_soon(self._hand_over)
        self._gathered.append(job)
        return job.future

    def _hand_over(self) -> None:
        gathered, self._gathered = self._gathered, []
        self._jobs.put(gathered)

    def _run(self) -> None:
        """Work until told to stop; the engine's thread."""
        waiting: deque[_Job] = deque()
        while True:
            if not waiting:
                if (found := self._jobs.get()) is None:
                    return
                waiting.extend(found)
            while not self._jobs.empty() and (found := self._jobs.get()) is not None:
                waiting.extend(found)
            batch, dropped = self._take(waiting)
            # Work whose caller went away before its turn was dropped whole; from here on it is done whole.
            answers = self._whole_turn([job.work for job in batch]) if batch else []
            try:
                self._loop.call_soon_threadsafe(self._deliver, batch, answers, dropped)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return

    def _take(self, waiting: deque[_Job]) -> tuple[list[_Job], list[_Job]]:
        """Return the next turn's jobs, and those whose callers went away."""
        batch: list[_Job] = []
        dropped: list[_Job] = []
        rows = 0
        while waiting and (not batch or rows + waiting[0].weight <= self._max_batch):
            job = waiting.popleft()
            if job.future.cancelled():
                _fail(job.work, asyncio.CancelledError())
                dropped.append(job)
                continue
            batch.append(job)
            rows += job.weight
        return batch, dropped

    def _deliver(self, batch: Sequence[_Job], answers: Sequence[Any], dropped: Sequence[_Job]) -> None:
        """Hand a turn's answers to those who still wait for them; on the event loop."""
        self._waiting -= len(batch) + len(dropped)
        self._queued -= sum(job.weight for job in dropped)
        for job, answer in zip(batch, answers, strict=True):
            self._queued -= job.weight
            if job.future.cancelled():
                continue
            if isinstance(answer, BaseException):
                job.future.set_exception(answer)
            else:
                job.future.set_result(answer)

    def _whole_turn(self, works: Sequence[Work]) -> list[Any]:
        """Do one turn; a defect of ours in it must leave nobody waiting, neither now nor in the turns behind it."""
        try:
            return self._turn(works)
        except BaseException as error:  # noqa: BLE001 -- handed to all who wait, and to on_defect
            shown = _for_future(error)
            for work in works:
                _fail(work, shown)
            self._on_defect(shown)
            return [shown] * len(works)

    def _turn(self, works: Sequence[Work]) -> list[Any]:
        """Do one turn on the engine's thread; an answer is a result or the exception to raise."""
        answers: list[Any] = [None] * len(works)
        observing = [(i, work) for i, work in enumerate(works) if isinstance(work, ObserveWork)]
        self._together(self._engine.observe, observing, answers)
        for i, work in observing:
            error = answers[i] if isinstance(answers[i], Exception) else answers[i].refused
            if error is not None:
                _fail(work, error)
        forecasting = [(i, work) for i, work in enumerate(works) if isinstance(work, ForecastWork)]
        self.turns += bool(observing or forecasting)
        then = {
            i: (answers[i], work.then)
            for i, work in observing
            if work.then is not None and isinstance(answers[i], Observed) and answers[i].refused is None
        }
        self._together(self._engine.forecast, [*forecasting, *((i, after) for i, (_, after) in then.items())], answers)
        for i, (observed, after) in then.items():  # what was applied is answered, whatever becomes of its forecasts
            found = answers[i] if isinstance(answers[i], Forecasts) else Forecasts.nothing(after, told(answers[i]))
            answers[i] = Observed(observed.outcomes, observed.errors, None, found)
        for i, other in enumerate(works):
            if callable(other):
                answers[i] = self._attempt(other)
        return answers

    def _together(self, function: Callable[[Any], Any], works: Sequence[tuple[int, Work]], answers: list[Any]) -> None:
        """Do one kind of work in one call, and put its results, or the exception, among the answers."""
        if works:
            results = self._attempt(functools.partial(function, [work for _, work in works]))
            for position, (i, _) in enumerate(works):
                answers[i] = results if isinstance(results, Exception) else results[position]

    def _attempt(self, function: Callable[[], Any]) -> Any:
        try:
            return function()
        except Exception as error:  # noqa: BLE001 -- handed to whoever waits, and to on_defect
            if self._engine.broken is error or isinstance(error, FencedError):
                self._on_defect(error)
            return _for_future(error)


def _for_future(error: BaseException) -> Exception:
    """Return what a future takes and what does not end the event loop, as a thread's SystemExit would."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    wrapped = RuntimeError(f"the engine's thread was ended by {error!r}")
    wrapped.__cause__ = error
    return wrapped


def _fail(work: Work, error: BaseException) -> None:
    """Note that a request failed: none behind it in its chain, if it has one, is applied."""
    if isinstance(work, ObserveWork) and work.chain is not None:
        work.chain.fail(error)
