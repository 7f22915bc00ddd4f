"""A thread that gives way rests while requests wait, and always gets on."""

from types import SimpleNamespace

import pytest

from forecaster.serving.engine import courtesy
from forecaster.serving.engine.courtesy import Courtesy


class Clock:
    """A clock that only sleeping and working move; requests are there until `calm`."""

    def __init__(self, calm: float) -> None:
        self.now, self.calm, self.slept = 0.0, calm, 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept += seconds

    def is_busy(self) -> bool:
        return self.now < self.calm


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Clock:
    found = Clock(request.param)
    monkeypatch.setattr(courtesy, "time", SimpleNamespace(perf_counter=lambda: found.now, sleep=found.sleep))
    return found


def work(clock: Clock, seconds: float, times: int) -> float:
    """Work in short pieces; return how long resting took."""
    one = Courtesy(clock.is_busy)
    for _ in range(times):
        clock.now += seconds
        one.give_way()
    return clock.slept


@pytest.mark.parametrize("clock", [0.0], indirect=True)
def test_nobody_is_given_way_to_where_nobody_waits(clock: Clock) -> None:
    assert work(clock, 0.01, 100) == 0


@pytest.mark.parametrize("clock", [float("inf")], indirect=True)
@pytest.mark.parametrize(("seconds", "most"), [(0.0001, 0.1), (0.003, 3.0), (0.2, 20.0)])
def test_it_rests_no_longer_than_it_has_worked_and_never_for_long(clock: Clock, seconds: float, most: float) -> None:
    rested = work(clock, seconds, 1000)
    naps = 1000 * min(seconds / 0.002, 1) * 0.0005  # each rest may be too long by the last of its naps
    assert most / 2 < rested <= most + naps


@pytest.mark.parametrize("clock", [0.0122], indirect=True)
def test_it_goes_on_as_soon_as_nobody_waits(clock: Clock) -> None:
    assert work(clock, 0.01, 1) == pytest.approx(0.0025)
