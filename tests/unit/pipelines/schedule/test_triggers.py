"""Fixed times as crontab(5) means them, in time zones, and what was missed while nobody was there."""

import datetime as dt
import zoneinfo

import pytest
from apscheduler.triggers.base import BaseTrigger

from forecaster.config import ScheduleConfig
from forecaster.config.cron import cron_trigger
from forecaster.errors import ConfigError
from pipelines.schedule.triggers import fixed_triggers, next_time

NOW = dt.datetime(2024, 5, 1, 12, 0, tzinfo=dt.UTC)  # a Wednesday
HOURS = dt.timedelta(hours=1)


def times(trigger: BaseTrigger, count: int, start: dt.datetime = NOW) -> list[str]:
    found, at, before = [], start, None
    for _ in range(count):
        before = trigger.get_next_fire_time(before, at)
        assert before is not None
        found.append(before.astimezone(dt.UTC).strftime("%a %d %H:%M"))
        at = before
    return found


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("0 3 * * *", ["Thu 02 03:00", "Fri 03 03:00"]),
        ("*/30 * * * *", ["Wed 01 12:00", "Wed 01 12:30"]),
        ("0 3 * * 0", ["Sun 05 03:00", "Sun 12 03:00"]),  # APScheduler's own reading is Monday
        ("0 3 * * 7", ["Sun 05 03:00", "Sun 12 03:00"]),
        ("0 3 * * 1-5", ["Thu 02 03:00", "Fri 03 03:00", "Mon 06 03:00"]),
        ("0 3 * * 5-7", ["Fri 03 03:00", "Sat 04 03:00", "Sun 05 03:00", "Fri 10 03:00"]),
        ("0 3 * * */3", ["Sat 04 03:00", "Sun 05 03:00", "Wed 08 03:00"]),
        ("0 3 * * MON,thu", ["Thu 02 03:00", "Mon 06 03:00"]),
        ("0 3 4 * 1", ["Sat 04 03:00", "Mon 06 03:00", "Mon 13 03:00"]),  # either, not both
        ("0 3 */2 * 1", ["Mon 13 03:00", "Mon 27 03:00", "Mon 03 03:00"]),  # one begins with `*`: both
        ("0 3 4,5 * */3", ["Sat 04 03:00", "Sun 05 03:00", "Wed 05 03:00"]),
        ("0 3 *,4 * 1", ["Mon 06 03:00", "Mon 13 03:00"]),
        ("0 3 29 2 *", ["Tue 29 03:00", "Sun 29 03:00"]),
    ],
)
def test_cron_fields(fields: str, expected: list[str]) -> None:
    assert times(cron_trigger(fields, "UTC"), len(expected)) == expected


def test_the_fields_are_of_the_time_zone_also_when_clocks_change() -> None:
    trigger = cron_trigger("30 3 * * *", "Europe/Berlin")
    before = dt.datetime(2024, 3, 29, 12, tzinfo=dt.UTC)
    assert times(trigger, 3, before) == ["Sat 30 02:30", "Sun 31 01:30", "Mon 01 01:30"]
    zone = zoneinfo.ZoneInfo("Europe/Berlin")
    after = dt.datetime(2024, 10, 26, 12, tzinfo=zone)
    twice = times(cron_trigger("30 2 * * *", "Europe/Berlin"), 3, after)
    assert twice == ["Sun 27 00:30", "Sun 27 01:30", "Mon 28 01:30"]  # 2:30 comes twice; the second finds nothing new


NO_FIELDS = [
    "0 3 * *",
    "0 25 * * *",
    "x * * * *",
    "0 3 * * 8",
    "0 3 * * 5-2",
    "0 3 * * */0",
    "0 3 31 2 *",
    "9 99 * * *",
]


@pytest.mark.parametrize("fields", NO_FIELDS)
def test_what_are_no_cron_fields(fields: str) -> None:
    with pytest.raises(ConfigError, match=r"schedule\.cron"):
        cron_trigger(fields, "UTC")


def test_what_is_no_time_zone() -> None:
    with pytest.raises(ConfigError, match=r"schedule\.time_zone='Mars/Olympus'"):
        cron_trigger("0 3 * * *", "Mars/Olympus")


@pytest.mark.parametrize("every", ["soon", "0s", "1mo"])
def test_what_is_no_interval(every: str) -> None:
    with pytest.raises(ConfigError, match=r"schedule\.every"):
        ScheduleConfig(every=every)


def test_what_was_missed_is_due_now_and_once() -> None:
    found = fixed_triggers(ScheduleConfig(cron="0 3 * * *", every="6h"))
    assert sorted(found) == ["cron", "interval"]
    assert next_time(found["cron"], None, NOW) == NOW + 15 * HOURS
    assert next_time(found["cron"], NOW - 8 * HOURS, NOW) == NOW + 15 * HOURS  # 04:00: today's has been
    assert next_time(found["cron"], NOW - 10 * HOURS, NOW) == NOW  # 02:00, and it is noon
    assert next_time(found["cron"], NOW - 1000 * HOURS, NOW) == NOW
    assert next_time(found["interval"], NOW - 2 * HOURS, NOW) == NOW + 4 * HOURS
    assert next_time(found["interval"], NOW - 600 * HOURS, NOW) == NOW
    first = next_time(fixed_triggers(ScheduleConfig(every="6h"))["interval"], None, dt.datetime.now(dt.UTC))
    assert first is not None
    assert abs(first - dt.datetime.now(dt.UTC) - 6 * HOURS) < dt.timedelta(seconds=10)
