"""What `Calibration` does to states, pair by pair of series and horizon, as machine code.

A pair is settled, set and bounded by the same few lines whether it happens live, in a batch of any size or in a replay:
that is why the bits are the same. Numbers are float64 between one state and the next, so that they are the same too
where Python runs this. Knows nothing of records, stores or torch.

Shapes: C slots, N series, K horizons that are scored, A tracked coverages, B bounds, D steps ahead, Q trained levels,
R rows of a record or of runs, W sums of the normaliser.
"""

import math

import numpy as np

from forecaster.model.compiling import entry, part
from forecaster.model.conformal_kernel import moved, quantiles, two_sided
from forecaster.model.normalizer_kernel import statistics

NEVER = 2**62  # the position of a target that there is not
MEMORY = 100.0  # scored forecasts in which the weight of one falls to 1/e
_MOST_UNITS = 1e6  # a larger error counts as this one: one mad value must not blind a mean for ever
_LEAST_UNIT = 1e-300  # which is none that a value can be told in
_LARGEST = 1e30  # of a bound in units; it is kept in float32


@part
def _in_units(value, median, unit):
    """Return a value around the median; one that equals a bound is rounded as it is, and so lies inside."""
    return np.float32(min(max((value - median) / unit, -_LARGEST), _LARGEST))


@part
def _add_score(sums, error, raw_missed, missed):
    """Take one more score into sums [5]: how many there are; weighted sums, see `live_scores`."""
    size = min(abs(error), _MOST_UNITS)
    sums[0] = float(sums[0]) + 1.0
    for j in range(1, 5):
        if j == 1:
            score = size
        elif j == 2:  # forecast minus value
            score = -size if error > 0 else size
        else:
            score = 0.0 if (raw_missed if j == 3 else missed) else 1.0
        before = float(sums[j])
        sums[j] = before + (score - before) / MEMORY


@part
def _settle(waited, learnt, which, value, levels):
    """Score what a pair waits for, and wait no longer; a missing value is not scored.

    Args:
        waited: its row of `calibration_waiting` [3].
        learnt: its row of `calibration_learnt` [B + A + 5].
        which: its horizon among the K.
        value: of the step, NaN where missing.
        levels: see `score_step`.
    """
    alpha, gamma, most, _, shown = levels
    tracked = alpha.size
    bounds = 2 * tracked + 2 if tracked > 0 else 0
    if not math.isnan(value):
        error = _in_units(value, waited[1], waited[2])
        raw_missed = shown_missed = True
        for a in range(tracked):
            missed = error < learnt[a] or error > learnt[tracked + a]
            before = float(learnt[bounds + a])
            learnt[bounds + a] = moved(before, gamma[which, a], alpha[a], missed, most[a])
            if a == shown:
                shown_missed = missed
        if tracked > 0:
            raw_missed = error < learnt[bounds - 2] or error > learnt[bounds - 1]
        _add_score(learnt[bounds + tracked :], float(error), raw_missed, shown_missed)
    for b in range(bounds):
        learnt[b] = 0.0
    waited[0] = waited[1] = waited[2] = 0.0


@part
def _wait(waited, learnt, target, frame, bounds):
    """Let a pair wait for a step, [3] and [B + A + 5], with a frame [2] and bounds [B]."""
    waited[0], waited[1], waited[2] = target, frame[0], frame[1]
    for b in range(bounds.size):
        learnt[b] = bounds[b]


@part
def _next(waiting):
    """Return the position of the next step that some horizon of [K, 3] waits for, `NEVER` if none does."""
    found = NEVER
    for k in range(len(waiting)):
        if waiting[k, 0] > 0:
            found = min(found, int(waiting[k, 0]))
    return found


@part
def _value(runs, run, step):
    """Return the value at a step of a run, NaN if there is none."""
    _, _, row_run, row_step, values = runs
    low, high = 0, len(row_run)
    while low < high:
        middle = (low + high) // 2
        if row_run[middle] < run or (row_run[middle] == run and row_step[middle] < step):
            low = middle + 1
        else:
            high = middle
    if low < len(row_run) and row_run[low] == run and row_step[low] == step:
        return values[low]
    return np.nan


@part
def _score_run(waiting, learnt, run, position, runs, levels):
    """Score what a series [K, …] waits for up to the end of its run."""
    reached = position + runs[1][run]
    for k in range(len(waiting)):
        target = int(waiting[k, 0])
        if 0 < target <= reached:
            _settle(waiting[k], learnt[k], k, _value(runs, run, target - position - 1), levels)


@entry
def next_targets(waiting, slots, found):
    """Write the position of the next step that the series in `slots` wait for [N]."""
    for i in range(slots.size):
        found[i] = _next(waiting[slots[i]])


@entry
def score_step(states, slots, position, values, levels):
    """Score what waits for the next step of each series.

    Args:
        states: `calibration_waiting` float64 [C, K, 3], `calibration_learnt` float32 [C, K, B + A + 5], and the step
            that each slot waits for next, `NEVER` if none, int64 [C].
        slots: int64 [N], all different.
        position: steps seen before it, int64 [N].
        values: float64 [N], NaN where missing.
        levels: α [A], γ [K, A], moves at most [A], α + moves at most [A], index of the shown coverage.
    """
    waiting, learnt, targets = states
    for i in range(slots.size):
        s = slots[i]
        if targets[s] > position[i] + 1:
            continue
        for k in range(waiting.shape[1]):
            if 0 < waiting[s, k, 0] <= position[i] + 1:
                _settle(waiting[s, k], learnt[s, k], k, values[i], levels)
        targets[s] = _next(waiting[s])


@entry
def score(states, slots, position, runs, levels):
    """Score what waits for a step of the runs, one of each series.

    Args:
        states: see `score_step`.
        slots: see `score_step`.
        position: see `score_step`.
        runs: start and length int64 [N], run and step of each row int64 [R], ascending, and its value float64 [R].
        levels: see `score_step`.
    """
    waiting, learnt, targets = states
    for i in range(slots.size):
        s = slots[i]
        if targets[s] <= position[i] + runs[1][i]:
            _score_run(waiting[s], learnt[s], i, position[i], runs, levels)
            targets[s] = _next(waiting[s])


@entry
def replay(states, slots, position, runs, issued, plan, levels):
    """Do what `issue` and scores did while the runs were observed.

    Args:
        states: see `score_step`.
        slots: see `score_step`.
        position: see `score_step`.
        runs: see `score`; they may be of no steps.
        issued: for each row its run, -1 if it has none, its horizon among the K and its origin int64 [R], frame
            float64 [R, 2], bounds float32 [R, B]; in order.
        plan: the horizons int64 [K], and a step in microseconds.
        levels: see `score_step`.
    """
    waiting, learnt, targets = states
    run_of, horizons, origin_us, frame, bounds = issued
    steps, step_us = plan
    for r in range(run_of.size):
        i, k = run_of[r], horizons[r]
        if i < 0:
            continue
        done = (origin_us[r] - runs[0][i]) // step_us + 1  # steps of the run before it
        if done < 0 or done > runs[1][i] or position[i] + done <= 0:
            continue
        s, at = slots[i], position[i] + done
        target = int(waiting[s, k, 0])
        if 0 < target <= at:
            _settle(waiting[s, k], learnt[s, k], k, _value(runs, i, target - position[i] - 1), levels)
        _wait(waiting[s, k], learnt[s, k], at + steps[k], frame[r], bounds[r])
    for i in range(slots.size):
        s = slots[i]
        _score_run(waiting[s], learnt[s], i, position[i], runs, levels)
        targets[s] = _next(waiting[s])


@part
def _open(waiting, slots, forecasts, horizons, steps):
    """Return which pairs wait for nothing and were given what can be waited for, bool [N, K], and how many."""
    quantiles, ended = forecasts
    count, found = 0, np.zeros((slots.size, steps.size), np.bool_)
    for i in range(slots.size):
        ahead = 0
        while ahead < min(horizons[i], ended.shape[1]) and (ahead == 0 or not ended[i, ahead] > 0.5):
            ahead += 1
        for k in range(steps.size):
            if waiting[slots[i], k, 0] == 0 and steps[k] <= ahead:
                known = True
                for q in range(quantiles.shape[2]):
                    known &= math.isfinite(quantiles[i, steps[k] - 1, q])
                found[i, k] = known
                count += known
    return found, count


@part
def _bound(row, learnt, which, frame, levels, distribution, work, out):
    """Write the bounds [B] of a pair whose trained quantiles are a row [Q], in units around the median.

    Args:
        row: float64 [Q].
        learnt: of all horizons of the series [K, B + A + 5].
        which: the horizon among the K.
        frame: the median, and the unit [2].
        levels: see `score_step`.
        distribution: see `issue`.
        work: is written over, two of float64 [B].
        out: lower bounds of the corrected intervals, upper ones, both of the raw shown one [B].
    """
    alpha, _, _, most_alpha, shown = levels
    trained, tails, _, above = distribution
    tracked, end = alpha.size, out.size + alpha.size
    if tracked == 0:
        return
    shares, found = work
    two_sided(learnt[which, out.size : end], learnt[0, out.size : end], which > 0, alpha, most_alpha, shares[:tracked])
    for a in range(tracked):
        shares[a] = shares[tracked + a] = shares[a] / 2.0
    shares[2 * tracked] = shares[2 * tracked + 1] = alpha[shown] / 2.0
    quantiles(row, shares, above, trained, tails, found)
    for b in range(out.size):
        out[b] = _in_units(found[b], frame[0], frame[1])


@entry
def issue(states, sums, slots, forecasts, origins, plan, levels, distribution):
    """Let every horizon that waits for none wait for a forecast that was given.

    Args:
        states: see `score_step`.
        sums: of the normaliser, float64 [C, W].
        slots: int64 [N], all different.
        forecasts: quantiles float64 [N, D, Q], and the probability that a series has ended before a step [N, D].
        origins: steps that the series have seen, the time of the last one, and the steps that were asked for, int64 [N]
            each.
        plan: the horizons int64 [K], and the lag among the normaliser's whose change is the unit.
        levels: see `score_step`.
        distribution: trained levels [Q], lengths of the tails [2], index of the median, and which bounds lie above it
            [B].

    Returns:
        Those of the series of which something is issued, int64 [S]; for each row of it the position among them int32,
        the horizon uint8, the origin's time int64 [R], the frame float64 [R, 2] and the bounds float32 [R, B].
    """
    waiting, learnt, targets = states
    steps, lag = plan
    position, clock_us, asked = origins
    opened, count = _open(waiting, slots, forecasts, asked, steps)
    series, horizons, origin_us = np.empty(count, np.int32), np.empty(count, np.uint8), np.empty(count, np.int64)
    frame, bounds = np.empty((count, 2)), np.empty((count, distribution[3].size), np.float32)
    used, changes = np.empty(min(count, slots.size), np.int64), np.empty((sums.shape[1] - 5) // 2)
    work = np.empty(bounds.shape[1]), np.empty(bounds.shape[1])
    row = many = 0
    for i in range(slots.size):
        s, first = slots[i], row
        for k in range(steps.size):
            if not opened[i, k]:
                continue
            if row == first:
                statistics(sums[s], changes)
            given = forecasts[0][i, steps[k] - 1]
            frame[row, 0], frame[row, 1] = given[distribution[2]], max(changes[lag], _LEAST_UNIT)
            _bound(given, learnt[s], k, frame[row], levels, distribution, work, bounds[row])
            _wait(waiting[s, k], learnt[s, k], position[i] + steps[k], frame[row], bounds[row])
            series[row], horizons[row], origin_us[row] = many, k, clock_us[i]
            row += 1
        if row > first:
            used[many] = i
            many += 1
            targets[s] = _next(waiting[s])
    return used[:many], series, horizons, origin_us, frame, bounds
