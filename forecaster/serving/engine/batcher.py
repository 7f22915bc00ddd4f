"""Forms micro-batches: many requests wait, one engine thread works, each turn takes all that fits.

While the engine computes and the journal commits, the next requests gather; that is the whole schedule, so an
idle server adds no wait. The thread takes its next turn itself: it need not wait for an event loop that is busy.
Requests are taken in the order of their arrival; within a turn observations go before forecasts. A turn takes some
milliseconds: of a request that is more work than that it does a part, and goes on with it between others' turns. Knows
nothing of tensors or gRPC.
"""

import asyncio
import functools
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from forecaster.errors import FencedError, LimitReachedError
from forecaster.serving.counters import WorkDone
from forecaster.serving.engine.engine import Engine
from forecaster.serving.engine.failures import fail, for_future
from forecaster.serving.engine.late_values import Written
from forecaster.serving.engine.look_ups import LookUps
from forecaster.serving.engine.progress import Progress, Some
from forecaster.serving.engine.turns import Pace
from forecaster.serving.engine.waiting import Job, Line
from forecaster.serving.storage.contract import Journal
from forecaster.serving.storage.records import Columns
from forecaster.serving.work.forecasting import Forecasts, ForecastWork
from forecaster.serving.work.observing import Observed, ObserveWork
from forecaster.serving.work.work import Work

_POLL_SECONDS = 0.005  # at the end
T = TypeVar("T")


class Batcher:
    """The queue before one engine.

    Args:
        engine: called by one thread only, this batcher's.
        max_batch: most rows (observations or series to forecast) in one turn.
        max_queued: refuse work past so many waiting rows.
        on_defect: called with an exception that no request is to blame for.
        beside: the journal, for a thread that looks up what states do not remember; None: the engine's thread does.
        pace: how much a turn takes on; left out, what takes some milliseconds.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        max_batch: int,
        max_queued: int,
        on_defect: Callable[[Exception], None],
        beside: Journal | None = None,
        pace: Pace | None = None,
    ) -> None:
        self._engine = engine
        self._pace = pace or Pace(max_batch)
        self.look_ups = None if beside is None else LookUps(beside, lambda: self.is_busy, self._answer, self._write)
        self.max_queued = max_queued
        self.turns = 0  # that had observations or forecasts
        self._on_defect = on_defect
        self._queued = self._sought = self._waiting = 0  # rows, those of them to be looked up; requests and calls
        self._line = Line()  # the thread's
        self._progress = Progress(self._line, self._settled)
        self._gathered: list[Job] = []  # in this pass of the loop
        self._jobs: queue.SimpleQueue[list[Job] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def begin(self, work: ObserveWork) -> "asyncio.Future[Observed]":
        """Let one request's observations wait for their turn; the answer may say that it is refused whole.

        Cancelled before its turn, it is dropped whole, and its chain with it; of one that takes many turns what is left
        is dropped. The future raises what the engine raises, and StorageError if old rows cannot be looked up.
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

    @property
    def is_busy(self) -> bool:
        """Whether anybody waits for the engine; any thread may ask."""
        return self._queued > self._sought

    @property
    def done(self) -> list[WorkDone]:
        """What became of observations, as the threads count it that judge them."""
        return [self._engine.done] if self.look_ups is None else [self._engine.done, self.look_ups.done]

    def start(self) -> None:
        """Begin to work; needs a running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()
        if self.look_ups is not None:
            self.look_ups.start()

    async def drain(self) -> None:
        """Finish everything that waits, then stop; cancelled, it leaves a thread that is still at work alone."""
        while self._waiting:
            await asyncio.sleep(_POLL_SECONDS)
        self._jobs.put(None)
        while self._thread.is_alive():
            await asyncio.sleep(_POLL_SECONDS)
        if self.look_ups is not None:
            self.look_ups.end()
            while self.look_ups.is_running:
                await asyncio.sleep(_POLL_SECONDS)

    def _submit(self, work: Work, weight: int) -> "asyncio.Future[Any]":
        if self._queued + weight > self.max_queued:
            raise LimitReachedError(
                f"{self._queued} rows wait already and {self.max_queued} may: slow down and try again",
                retry_after_seconds=0.1,
            )
        job = Job(work, weight, asyncio.get_running_loop().create_future())
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
        line = self._line
        while True:
            if not line:
                if (found := self._jobs.get()) is None:
                    return
                self._add(found)
            while not self._jobs.empty() and (found := self._jobs.get()) is not None:
                self._add(found)
            batch, dropped = line.take(self._pace.gathered_rows)
            for job in dropped:
                fail(job.work, asyncio.CancelledError())
            # Work whose caller went away before its turn was dropped whole; from here on its turn is done whole.
            ended = self._progress.ended(batch, self._whole_turn([job.work for job in batch])) if batch else []
            ended += self._called()
            if not self._answer(ended, dropped):
                return

    def _add(self, jobs: Sequence[Job]) -> None:
        """Let what has arrived wait in line; turns are short from here on if any of it needs little."""
        self._line.add(jobs)
        self._pace.meet([job.work for job in jobs if job.weight])  # what has none is the server's own

    def _answer(self, ended: Sequence[tuple[Job, Any]], dropped: Sequence[Job] = ()) -> bool:
        """Hand answers to the event loop; return whether it is still there."""
        if not ended and not dropped:  # a turn that only went on
            return True
        try:
            self._loop.call_soon_threadsafe(self._deliver, ended, dropped)
        except RuntimeError:  # it is closed: nobody waits any more
            return False
        return True

    def _deliver(self, ended: Sequence[tuple[Job, Any]], dropped: Sequence[Job]) -> None:
        """Hand a turn's answers to those who still wait for them; on the event loop."""
        for job in dropped:
            self._waiting -= 1
            self._queued -= job.weight
        for job, answer in ended:
            if isinstance(answer, Observed) and answer.sought is not None and self.look_ups is not None:
                job.sought = True
                self._sought += job.weight
                self.look_ups.ask(job, answer)
                continue
            self._waiting -= 1
            self._queued -= job.weight
            self._sought -= job.weight if job.sought else 0
            if job.future.cancelled():
                continue
            if isinstance(answer, BaseException):
                job.future.set_exception(answer)
            else:
                job.future.set_result(answer)

    def _write(self, columns: Columns, as_of: int) -> Written:
        """Have late and corrected values written between two turns; not for the loop's thread, nor the engine's."""
        write = functools.partial(self._engine.late_values.write, columns, as_of)
        return asyncio.run_coroutine_threadsafe(self.upkeep(write), self._loop).result()

    def _called(self) -> list[tuple[Job, Any]]:
        """Call what is to be called between two turns' work, for as long as a turn may take; one at least."""
        ended: list[tuple[Job, Any]] = []
        until = self._pace.wall_clock() + self._pace.seconds
        while (not ended or self._pace.wall_clock() < until) and (job := self._line.next_call()) is not None:
            if job.future.cancelled():
                ended.append((job, None))
                continue
            try:
                answer = self._attempt(job.work)  # type: ignore[arg-type]
            except BaseException as error:  # noqa: BLE001 -- as in `_whole_turn`
                answer = for_future(error)
                self._on_defect(answer)
            ended.append((job, answer))
        return ended

    def _whole_turn(self, works: Sequence[Work]) -> list[Any]:
        """Do one turn; a defect of ours in it must leave nobody waiting, neither now nor in the turns behind it."""
        try:
            return self._turn(works)
        except BaseException as error:  # noqa: BLE001 -- handed to all who wait, and to on_defect
            shown = for_future(error)
            for work in works:
                fail(work, shown)
            self._on_defect(shown)
            return [shown] * len(works)

    def _turn(self, works: Sequence[Work]) -> list[Any]:
        """Do one turn on the engine's thread; an answer is a result or the exception to raise."""
        answers: list[Any] = [None] * len(works)
        observing = [(i, work) for i, work in enumerate(works) if isinstance(work, ObserveWork)]
        turn = self._pace.turn()
        self._together(functools.partial(self._engine.advance, turn=turn), observing, answers)
        self._pace.note(turn)
        for i, work in observing:
            error = answers[i] if isinstance(answers[i], Exception) else answers[i].refused
            if error is not None:
                fail(work, error)
        asked: list[tuple[int, ForecastWork]] = [(i, w) for i, w in enumerate(works) if isinstance(w, ForecastWork)]
        self.turns += bool(observing or asked)
        observed = {
            i: answers[i]
            for i, work in observing
            if work.then is not None and isinstance(answers[i], Observed) and answers[i].is_done
        }
        asked += [(i, work.then) for i, work in observing if i in observed and work.then is not None]
        if asked:
            self._forecast_some(asked, observed, answers)
        return answers

    def _forecast_some(
        self, asked: Sequence[tuple[int, ForecastWork]], observed: dict[int, Observed], answers: list[Any]
    ) -> None:
        """Forecast as many series as a turn may take on, and put them among the answers."""
        counts = self._pace.series([request for _, request in asked])
        began, parts = self._pace.clock(), [request.part(n) for (_, request), n in zip(asked, counts, strict=True)]
        begun = [(i, part) for (i, _), part, n in zip(asked, parts, counts, strict=True) if n]
        found: list[Any] = [None] * len(answers)
        self._together(self._engine.forecast, begun, found)
        seconds, weight = self._pace.clock() - began, sum(part.weight for _, part in begun)
        left = sum(len(request.series_ids) - request.start for _, request in asked)
        self._pace.note_forecasts(weight, seconds, was_cut=sum(counts) < left)
        for (i, request), count in zip(asked, counts, strict=True):
            answers[i] = Some(request, count, found[i], observed.get(i))

    def _settled(self, answer: Observed) -> Any:
        """Return an answer with what the journal tells, unless another thread asks it."""
        if answer.sought is None or self.look_ups is not None:
            return answer
        return self._attempt(functools.partial(self._engine.late_values.looked_up, answer))

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
            return for_future(error)
