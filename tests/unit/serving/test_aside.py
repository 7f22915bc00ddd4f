"""Calls to others that never answer keep nobody from ending, and who tells of refusals says one line of each kind."""

import asyncio
import logging
import threading

import pytest

from forecaster.serving.aside import Aside, within
from forecaster.serving.telemetry import Sampled


def test_a_loop_ends_while_a_call_is_under_way() -> None:
    go, went = threading.Event(), threading.Event()

    def answer_late() -> None:
        go.wait()
        went.set()

    async def play() -> Aside:
        aside = Aside(2, "slow")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(aside.call(answer_late), 0.01)
        return aside

    aside = asyncio.run(play())  # returns though nothing has answered
    assert not went.is_set()
    assert aside.running == 1
    go.set()
    assert went.wait(180)


def test_answers_errors_and_turns_come_through() -> None:
    running, most = 0, 0
    lock = threading.Lock()

    def work(number: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        if number == 13:
            raise ValueError("13")
        with lock:
            running -= 1
        return number * 2

    async def play() -> None:
        aside = Aside(3, "calls")
        assert await asyncio.gather(*(aside.call(work, k) for k in range(10))) == [2 * k for k in range(10)]
        with pytest.raises(ValueError, match="13"):
            await aside.call(work, 13)
        assert aside.running == 0

    asyncio.run(play())
    assert most <= 3


def test_work_within_some_time_is_done_or_left() -> None:
    go = threading.Event()
    assert within(10, lambda: None)
    assert not within(0.01, go.wait)
    go.set()
    with pytest.raises(OSError, match="no"):
        within(10, lambda: (_ for _ in ()).throw(OSError("no")))


def test_a_million_of_a_kind_are_a_line(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    sampled = Sampled(10.0, lambda: now)
    made = []

    def text() -> str:
        made.append(now)
        return f"refused at {now:g}"

    with caplog.at_level(logging.INFO, logger="forecaster.serving"):
        for _ in range(1000):
            sampled.say("a", text)
        sampled.say("b", text)
        now = 11.0
        sampled.say("a", text)
    assert caplog.messages == ["refused at 0", "refused at 0", "refused at 11 (and 999 more like it before)"]
    assert len(made) == 3
