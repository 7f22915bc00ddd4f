"""The normaliser's sums of one series as machine code: what they mean, and how a value advances the robust ones.

See `normalizer` for the plain sums and `robust_normalizer` for the robust ones, whose layout and laws stand there. The
arithmetic is float64 in the order in which torch does it, so that both give the same bits.

Shapes: B series, T steps, M memory, W sums, S seasonal lags, C changes = S + 1.
"""

import math

import numpy as np

from forecaster.model.inputs.belief import DOUBT, EARLY, FAR, MOST_DOUBT, ROUNDING
from forecaster.model.inputs.normalizer import CHANGE_FLOOR, FADED, LEAST_SCALE, RELATIVE_FLOOR
from forecaster.model.kernels.compiling import entry, part


@part
def statistics(sums, changes):
    """Write the changes [C] that sums [W] mean, and return level, scale and reach; see `normalizer.statistics`."""
    robust = sums.size != 5 + 2 * changes.size
    if robust:
        level = sums[1]
        least = max(abs(level) * ROUNDING, LEAST_SCALE)
        scale, reach = max(sums[3], least), max(FAR * sums[5], least)
    else:
        level, reach = sums[1] / sums[0] if sums[0] > 0 else 0.0, np.inf
        scale = sums[3] / sums[2] if sums[2] > 0 else 0.0
        if not scale > abs(level) * RELATIVE_FLOOR:
            scale = abs(level) if level != 0 else 1.0
        scale = max(scale, LEAST_SCALE)
    first = 7 if robust else 5
    for c in range(changes.size):
        weight, change = sums[first + c], sums[first + changes.size + c]
        if weight == 0:
            change = scale
        elif not robust:
            change /= weight
        changes[c] = max(change, scale * CHANGE_FLOOR)
    return level, scale, reach


@part
def believed(sums, value):
    """Whether robust sums [W] believe a value."""
    if sums[0] == 0:
        return True
    distance, peak = abs(value - sums[1]), sums[5]
    if peak == 0:
        peak = abs(sums[1])
        if peak == 0:
            return True
    reach = FAR * peak
    if distance <= reach or sums[6] >= MOST_DOUBT:
        return True
    early = min(max(EARLY / sums[0], 1.0), EARLY)
    return distance <= reach * early * math.exp(sums[6])


@part
def _faded(weight, decay):
    return max(weight * decay, FADED) if weight > 0 else 0.0


@part
def advance(sums, past, value, decay):
    """Advance robust sums [W] by a value, NaN where missing; see `robust_normalizer.normalize`.

    Args:
        sums: in place.
        past: values one step before it, and each lag before it, NaN where missing [S + 1, …]; those that are not
            believed now become NaN.
        value: of the step.
        decay: ρ.

    Returns:
        The value, NaN if it is not believed.
    """
    changes = (sums.size - 7) // 2
    sums[0], sums[2] = _faded(sums[0], decay), _faded(sums[2], decay)
    for c in range(changes):
        sums[7 + c] = _faded(sums[7 + c], decay)
    if not math.isnan(value):
        slow = 1.0 - decay
        if believed(sums, value):
            distance, known = abs(value - sums[1]), sums[0] > 0
            sums[0] += 1.0
            sums[1] = sums[1] + (value - sums[1]) / sums[0] if known else value
            if known:
                sums[2] += 1.0
                sums[3] += (distance - sums[3]) / sums[2]
                sums[5] = max(sums[5] * (1.0 - 0.25 * slow), distance)
                sums[6] *= 1.0 - 0.5 * slow
            sums[4] = value
        else:
            sums[6] = 2.0 * sums[6] + DOUBT
            value = np.nan
    level, reach = sums[1], max(FAR * sums[5], abs(sums[1]) * ROUNDING, LEAST_SCALE)
    for c in range(past.size):
        if not abs(past[c] - level) <= reach:
            past[c] = np.nan
    if not math.isnan(value):
        for c in range(changes):
            change = abs(value - past[c])
            if not math.isnan(change):
                sums[7 + c] += 1.0
                sums[7 + changes + c] += (change - sums[7 + changes + c]) / sums[7 + c]
    return value


@entry
def scan(carry, values, observed, lags, decay, sums, seen):
    """Advance the robust sums of B series by T steps.

    Args:
        carry: the sums before the first step [B, W].
        values: of the memory and of the steps, in time order [B, M + T].
        observed: bool [B, M + T].
        lags: of the changes beside one step, int64 [S].
        decay: ρ.
        sums: written, after each step [B, T, W].
        seen: written, whether a step's value is observed and believed, bool [B, T].
    """
    memory, past, now = values.shape[1] - seen.shape[1], np.empty(len(lags) + 1), np.empty(carry.shape[1])
    for b in range(len(carry)):
        now[:] = carry[b]
        for t in range(seen.shape[1]):
            at = memory + t
            for c in range(past.size):
                back = at - (1 if c == 0 else lags[c - 1])
                past[c] = values[b, back] if observed[b, back] else np.nan
            value = advance(now, past, values[b, at] if observed[b, at] else np.nan, decay)
            sums[b, t], seen[b, t] = now, not math.isnan(value)
