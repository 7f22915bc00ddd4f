"""Fixed times and intervals as APScheduler's triggers.

Knows how they are written; knows nothing of what happens then.
"""

import datetime as dt
import zoneinfo

from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.combining import OrTrigger
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger

from forecaster.config import ScheduleConfig, parse_frequency
from forecaster.errors import ConfigError

_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")


def cron_trigger(fields: str, time_zone: str) -> BaseTrigger:
    """Return the trigger of five cron fields, as crontab(5) and Kubernetes read them.

    APScheduler reads two things in another way: it counts the days of the week from Monday, and where days of the month
    and of the week are both given it wants both, where cron takes either.

    Raises ConfigError if they cannot be read, or there is no such time zone.
    """
    try:
        zone = zoneinfo.ZoneInfo(time_zone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ConfigError(f"schedule.time_zone={time_zone!r} is not known: use one such as Europe/Berlin") from error
    try:
        minute, hour, day, month, weekday = fields.lower().split()
        clock = {"minute": minute, "hour": hour, "month": month, "timezone": zone}
        if weekday == "*":
            return CronTrigger(day=day, **clock)
        by_weekday = CronTrigger(day_of_week=_weekdays(weekday), **clock)
        return by_weekday if day == "*" else OrTrigger([CronTrigger(day=day, **clock), by_weekday])
    except (ValueError, IndexError) as error:
        raise ConfigError(f"schedule.cron={fields!r} is not five cron fields such as '0 3 * * 1-5': {error}") from error


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


def fixed_triggers(config: ScheduleConfig) -> dict[str, BaseTrigger]:
    """Return the configured fixed triggers by name; raises ConfigError for one that cannot be read."""
    found: dict[str, BaseTrigger] = {}
    if config.cron is not None:
        found["cron"] = cron_trigger(config.cron, config.time_zone)
    if config.every is not None:
        length = parse_frequency(config.every, "schedule.every") / 1e6
        found["interval"] = IntervalTrigger(seconds=length, timezone=dt.UTC)
    return found


def next_time(trigger: BaseTrigger, last: dt.datetime | None, now: dt.datetime) -> dt.datetime | None:
    """Return when a trigger is due next; now, if that was missed since the last retraining.

    Args:
        trigger: one of `fixed_triggers`.
        last: when the last retraining began, None if none has.
        now: with a time zone, like `last`.
    """
    if last is None:
        due: dt.datetime | None = trigger.get_next_fire_time(None, now)
    elif isinstance(trigger, IntervalTrigger):
        due = last + trigger.interval
    else:
        due = trigger.get_next_fire_time(None, last)
    return None if due is None else max(due, now)
