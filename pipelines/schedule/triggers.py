"""Fixed times and intervals as APScheduler's triggers.

Knows when they are due; knows nothing of what happens then.
"""

import datetime as dt

from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.interval import IntervalTrigger

from forecaster.config import ScheduleConfig, parse_frequency
from forecaster.config.cron import cron_trigger


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
