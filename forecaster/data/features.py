"""Calendar features of time stamps: where in the day, the week and the year each of them lies, in UTC.

Training and serving call the same function. This module knows nothing of holidays, of local time or of
series.

Shapes: ... any batch shape, P periods in use, C = 2 P features.
"""

import math

import torch

DAY_US = 86_400_000_000
_YEAR_DAYS = 365.2425  # the mean Gregorian year
_MONDAY_DAYS = 3.0  # the epoch is a Thursday, three days after a Monday


def calendar_size(step_us: int) -> int:
    """Return C, the number of features for a time step: 6 below a day, 4 below a week, otherwise 2."""
    return 2 * len(calendar_periods(step_us))


def calendar_features(time_us: torch.Tensor, step_us: int) -> torch.Tensor:
    """Return sine and cosine of the position in the day, the week (from Monday) and the year.

    Day and week are left out when the time step is not shorter than they are. Each position is continuous:
    06:30 lies between 06:00 and 07:00. Angles are float64, which holds microseconds exactly until the year
    2255 and any angle to 1e-8 until 9999, so the float32 result does not depend on the batch shape.
    Integer remainders would be as good and take twice the time, and this is in the serving hot path.

    Args:
        time_us: [...] int64, microseconds since the epoch.
        step_us: the time step of the model.

    Returns:
        [..., C] float32: sine of day, week, year, then cosine of day, week, year.
    """
    days = time_us.double() / DAY_US  # [...]
    cycles = torch.stack([(days + offset) / length for offset, length in calendar_periods(step_us)])  # [P, ...]
    angles = cycles.frac() * math.tau
    features = torch.cat((angles.sin(), angles.cos())).float()  # [C, ...]: small last axes are slow to fill
    return features.movedim(0, -1).contiguous()


def calendar_periods(step_us: int) -> list[tuple[float, float]]:
    """Return (offset, length) of the periods in use, in days: a position is (days + offset) / length."""
    day_and_week = [(0.0, 1.0), (_MONDAY_DAYS, 7.0)]
    return [*(period for period in day_and_week if step_us < period[1] * DAY_US), (0.0, _YEAR_DAYS)]
