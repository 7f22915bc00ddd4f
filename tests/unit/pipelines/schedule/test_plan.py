"""Which retraining comes next, played against any order of what may come."""

import hypothesis
from hypothesis import strategies as st

from forecaster.config import ScheduleConfig
from pipelines.schedule.plan import Plan

PLAYS = st.lists(st.sampled_from(["ask", "end well", "fail", "wait"]), max_size=60)


@hypothesis.given(plays=PLAYS, retries=st.integers(0, 3))
@hypothesis.settings(deadline=None)
def test_every_trigger_is_answered_once(plays: list[str], retries: int) -> None:
    """By an attempt that begins after it, or by the repeats that were under way when it came; nothing else begins."""
    plan = Plan(ScheduleConfig(retries=retries, retry_seconds=10.0))
    now, running, failures = 0.0, False, 0
    waits_for_answer, retry_at = False, None  # an obviously right scheduler: a flag, and a time
    for play in plays:
        now += 1.0
        if play == "ask":
            plan.asked("interval", now)
            waits_for_answer = waits_for_answer or failures == 0
        elif play == "wait":
            now += 100.0
        elif running and play == "end well":
            plan.succeeded(now)
            running, failures = False, 0
        elif running:
            running, failures = False, failures + 1
            waits_for_answer = False  # the repeats, or the end of them, are its answer
            wait = plan.failed("interval", now)
            assert wait == (None if failures > retries else 10.0 * 2 ** (failures - 1))
            retry_at = None if wait is None else now + wait
            failures = 0 if wait is None else failures
        if running:
            continue
        due = waits_for_answer if retry_at is None else now >= retry_at
        assert (plan.due(now) is not None) == due, (play, now)
        assert plan.wait_seconds(now) == (None if retry_at is None else max(retry_at - now, 0.0))
        if due:
            plan.began()
            running, waits_for_answer, retry_at = True, False, None


def test_what_came_before_the_end_of_the_repeats_was_noticed_is_answered_too() -> None:
    plan = Plan(ScheduleConfig(retries=0))
    plan.asked("cron", 1.0)
    plan.began()
    assert plan.failed("cron", 5.0) is None
    assert not plan.asked("interval", 4.9)
    assert plan.due(6.0) is None
    assert plan.asked("interval", 5.1)
    assert plan.due(6.0) == "interval"


def test_what_comes_during_a_first_attempt_begins_when_it_has_ended_well() -> None:
    plan = Plan(ScheduleConfig())
    plan.asked("cron", 1.0)
    plan.began()
    assert plan.asked("interval", 2.0)
    assert not plan.asked("cron", 3.0)  # remembered once
    plan.succeeded(4.0)
    assert plan.due(4.0) == "interval"
