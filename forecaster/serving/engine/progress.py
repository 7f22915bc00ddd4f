"""Requests that take many turns: what each turn did is put together, and what is left waits for the next one.

Knows nothing of how anything is done.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from forecaster.serving.engine.waiting import Job, Line
from forecaster.serving.lanes.joining import joined
from forecaster.serving.telemetry import told
from forecaster.serving.work.forecasting import Forecasts, ForecastWork
from forecaster.serving.work.observing import Observed, ObserveWork


@dataclasses.dataclass(frozen=True, slots=True)
class Some:
    """What a turn forecast of a request.

    Args:
        request: with what is left of it.
        count: of its next series.
        forecasts: of them, or why there are none; None if it had to wait.
        observed: the answer to the observations that it came with, the last of them in this turn.
    """

    request: ForecastWork
    count: int
    forecasts: Forecasts | Exception | None
    observed: Observed | None


class Progress:
    """How far the requests of one line are.

    Args:
        line: where those wait that go on.
        settle: takes the answer to all of a request's observations, and returns what is told, or why nothing is.
    """

    def __init__(self, line: Line, settle: Callable[[Observed], Any]) -> None:
        self._line, self._settle = line, settle

    def ended(self, jobs: Sequence[Job], answers: Sequence[Any]) -> list[tuple[Job, Any]]:
        """Return the requests of a turn that have ended with their answers; the others go on."""
        ended = []
        for job, answer in zip(jobs, answers, strict=True):
            whole = self._observed(job, answer) if isinstance(answer, Observed) else answer
            if isinstance(answer, Some):
                whole = self._forecast(job, answer)
            if whole is not None:
                self._line.end(job)
                ended.append((job, whole))
        return ended

    def _observed(self, job: Job, answer: Observed) -> Any:
        """Return the answer to a whole request of observations, None if it goes on."""
        assert isinstance(job.work, ObserveWork)
        job.parts.append(answer)
        if not answer.is_whole:
            job.work = dataclasses.replace(job.work, start=job.work.start + len(answer.outcomes))
            self._line.go_on(job)
            return None
        return self._settle(Observed.joined(job.parts))

    def _forecast(self, job: Job, some: Some) -> Any:
        """Return the answer to a whole request for forecasts of which some are made, None if it goes on."""
        request = some.request
        if some.observed is not None:
            job.parts.append(some.observed)
            self._line.end(job)
        if isinstance(some.forecasts, Exception):
            return self._with_forecasts(job, Forecasts.nothing(request, told(some.forecasts)), some.forecasts)
        behind = request.start + some.count
        if some.forecasts is not None:
            job.forecasts.append((np.arange(request.start, behind), some.forecasts))
        if behind < len(request.series_ids):
            job.work = dataclasses.replace(request, start=behind)
            self._line.go_on(job)
            return None
        return self._with_forecasts(job, joined(request, job.forecasts), None)

    def _with_forecasts(self, job: Job, forecasts: Forecasts, error: Exception | None) -> Any:
        """Return forecasts, or the answer to the observations before them: it is given whatever becomes of them."""
        if not job.parts:
            return forecasts if error is None else error
        return self._settle(dataclasses.replace(Observed.joined(job.parts), forecasts=forecasts))
