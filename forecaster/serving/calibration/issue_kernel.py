"""How `Calibration` remembers forecasts that were given, pair by pair of series and horizon, as machine code.

Knows nothing of records, stores or torch.

Shapes: C slots, N series, K horizons that are scored, A tracked coverages, B bounds, D steps ahead, Q trained levels,
R rows of the record, S series of it, W sums of the normaliser.
"""

import math

import numpy as np

from forecaster.model.conformal_kernel import quantiles_of, two_sided
from forecaster.model.inputs.normalizer_kernel import statistics
from forecaster.model.kernels.compiling import entry, part
from forecaster.serving.calibration.scoring_kernel import in_units, is_open, next_target, wait

_LEAST_UNIT = 1e-300  # which is none that a value can be told in


@part
def _ahead(ended, asked):
    """Return how many steps of a forecast are shown: those before the one at which the series has probably ended."""
    steps = 1
    while steps < asked and not ended[steps] > 0.5:
        steps += 1
    return steps


@part
def _open(waiting, slots, forecasts, origins, steps, ends):
    """Return which pairs take a forecast and were given what can be waited for, bool [N, K], and how many."""
    quantiles, ended = forecasts
    position, _, asked = origins
    count, found = 0, np.zeros((slots.size, steps.size), np.bool_)
    for i in range(slots.size):
        ahead = min(asked[i], quantiles.shape[1])
        if ends:
            ahead = _ahead(ended[i], ahead)
        for k in range(steps.size):
            if is_open(waiting[slots[i], k], position[i]) and steps[k] <= ahead:
                known = True
                for q in range(quantiles.shape[2]):
                    known &= math.isfinite(quantiles[i, steps[k] - 1, q])
                found[i, k] = known
                count += known
    return found, count


@part
def _bound(row, learnt, which, frame, law, distribution, work, out):
    """Write the bounds [B] of a pair whose trained quantiles are a row [Q], in units around the median.

    Args:
        row: float64 [Q].
        learnt: of all horizons of the series [K, B + A + 5].
        which: the horizon among the K.
        frame: the median, and the unit [2].
        law: see `scoring_kernel.score_step`.
        distribution: see `issue`.
        work: which bounds lie above the median bool [B], their levels float64 [B], those of the shown one's filled in,
            and their values float64 [B]; is written over.
        out: lower bounds of the corrected intervals, upper ones, both of the raw shown one [B].
    """
    above, shares, found = work
    tracked, end = law.shape[1], out.size + law.shape[1]
    if tracked == 0:
        return
    two_sided(learnt[which, out.size : end], learnt[0, out.size : end], which > 0, law[0], law[2], shares[:tracked])
    for a in range(tracked):
        shares[a] = shares[tracked + a] = shares[a] / 2.0
    quantiles_of(row, shares, above, distribution[2:], distribution[:2], found)
    for b in range(out.size):
        out[b] = in_units(found[b], frame[0], frame[1])


@part
def _work(law, shown):
    """Return what `_bound` works with."""
    tracked = law.shape[1]
    size = 2 * tracked + 2 if tracked > 0 else 0
    above, shares = np.empty(size, np.bool_), np.empty(size)
    for b in range(size):
        above[b] = tracked <= b < 2 * tracked or b == size - 1
        shares[b] = law[0, shown] / 2.0
    return above, shares, np.empty(size)


@entry
def issue(states, sums, slots, forecasts, origins, plan, law, distribution):
    """Let every horizon that is open wait for a forecast that was given.

    Args:
        states: see `scoring_kernel.score_step`.
        sums: of the normaliser, float64 [C, W].
        slots: int64 [N], all different.
        forecasts: quantiles float64 [N, D, Q], and the probability that a series has ended before a step [N, D].
        origins: steps that the series have seen, the time of the last one, and the steps that were asked for, int64 [N]
            each.
        plan: which of the tracked coverages is shown, the index of the median, how many changes the normaliser knows
            and that among them which is the unit, whether series may end, and the horizons, int64 [5 + K].
        law: see `scoring_kernel.score_step`.
        distribution: lengths of the tails and trained levels, float64 [2 + Q].

    Returns:
        Those of the series of which something is issued, int64 [S]; for each row of it the position among them int32,
        the horizon uint8, the origin's time int64 [R], the frame float64 [R, 2] and the bounds float32 [R, B].
    """
    waiting, learnt, targets = states
    position, clock_us, _ = origins
    shown, median, lags, lag, ends, steps = plan[0], plan[1], plan[2], plan[3], plan[4], plan[5:]
    opened, count = _open(waiting, slots, forecasts, origins, steps, ends)
    series, horizons, origin_us = np.empty(count, np.int32), np.empty(count, np.uint8), np.empty(count, np.int64)
    used, changes, work = (
        np.empty(min(count, slots.size), np.int64),
        np.empty(lags),
        _work(law, shown),
    )
    frame, bounds = np.empty((count, 2)), np.empty((count, work[0].size), np.float32)
    row = many = 0
    for i in range(slots.size):
        s, first = slots[i], row
        for k in range(steps.size):
            if not opened[i, k]:
                continue
            if row == first:
                statistics(sums[s], changes)
            given = forecasts[0][i, steps[k] - 1]
            frame[row, 0], frame[row, 1] = given[median], max(changes[lag], _LEAST_UNIT)
            _bound(given, learnt[s], k, frame[row], law, distribution, work, bounds[row])
            wait(waiting[s, k], learnt[s, k], position[i] + steps[k], frame[row], bounds[row])
            series[row], horizons[row], origin_us[row] = many, k, clock_us[i]
            row += 1
        if row > first:
            used[many] = i
            many += 1
            targets[s] = next_target(waiting[s])
    return used[:many], series, horizons, origin_us, frame, bounds
