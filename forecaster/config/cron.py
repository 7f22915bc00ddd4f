"""Five cron fields, as crontab(5) reads them.

Knows APScheduler, which is imported only where there are such fields; knows nothing of what happens at their times.
"""

import datetime as dt
import zoneinfo
from typing import TYPE_CHECKING

from forecaster.errors import ConfigError, FieldViolation

if TYPE_CHECKING:
    from apscheduler.triggers.base import BaseTrigger

_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_ANY_YEAR = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)  # a leap year: what does not come from here on never comes


def time_zone(name: str) -> zoneinfo.ZoneInfo:
    """Return a time zone; raises ConfigError if there is none of that name."""
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        text = f"schedule.time_zone={name!r} is not known: use one such as Europe/Berlin"
        raise ConfigError(text, [FieldViolation("schedule.time_zone", text)]) from error


def cron_trigger(fields: str, zone_name: str) -> "BaseTrigger":
    """Return the trigger of five cron fields.

    APScheduler reads two things in another way: it counts the days of the week from Monday, and where days of the month
    and of the week are both given it wants both. crontab(5) takes either, unless one of the two begins with `*`.

    Raises ConfigError if they cannot be read, name a time that never comes, or there is no such time zone.
    """
    zone = time_zone(zone_name)
    try:
        trigger = _trigger(fields.lower().split(), zone)
        if trigger.get_next_fire_time(None, _ANY_YEAR) is None:
            raise ValueError("no month has such a day")
    except (ValueError, IndexError) as error:
        text = f"schedule.cron={fields!r} is not five cron fields such as '0 3 * * 1-5': {error}"
        raise ConfigError(text, [FieldViolation("schedule.cron", text)]) from error
    return trigger


def _trigger(fields: list[str], zone: zoneinfo.ZoneInfo) -> "BaseTrigger":
    from apscheduler.triggers.combining import OrTrigger
    from apscheduler.triggers.cron import CronTrigger

    if len(fields) != 5:
        raise ValueError(f"there are {len(fields)}")
    minute, hour, day, month, weekday = fields
    clock = {"minute": minute, "hour": hour, "month": month, "timezone": zone}
    if weekday == "*":
        return CronTrigger(day=day, **clock)
    weekdays = _weekdays(weekday)
    if day.startswith("*") or weekday.startswith("*"):
        return CronTrigger(day=day, day_of_week=weekdays, **clock)  # both
    return OrTrigger([CronTrigger(day=day, **clock), CronTrigger(day_of_week=weekdays, **clock)])


def _weekdays(text: str) -> str:
    """Return days of the week, counted from Sunday, 0 or 7, as APScheduler's names."""
    chosen: set[int] = set()
    for part in text.split(","):
        span, _, step = part.partition("/")
        first, dash, last = ("0", "-", "6") if span == "*" else span.partition("-")
        low = _weekday(first)
        high = _weekday(last) if dash else (6 if step else low)
        if high < low:
            raise ValueError(f"{part!r} ends before it begins")
        chosen |= {day % 7 for day in range(low, high + 1, int(step or 1))}
    return ",".join(_DAYS[day] for day in sorted(chosen))


def _weekday(text: str) -> int:
    number = _DAYS.index(text) if text in _DAYS else int(text)
    if not 0 <= number <= 7:
        raise ValueError(f"{text!r} is no day of the week")
    return number
