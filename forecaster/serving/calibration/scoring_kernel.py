"""How `Calibration` scores what waits, pair by pair of series and horizon, as machine code.

A pair is settled and set by the same few lines whether that happens live, in a batch of any size or in a replay: that
is why the bits are the same. Numbers are float64 between one state and the next, so that they are the same too where
Python runs this. Knows nothing of records, stores or torch.

Shapes: C slots, N series, K horizons that are scored, A tracked coverages, B bounds, R rows of a record or of runs.
"""

import math

import numpy as np

from forecaster.model.conformal_kernel import moved
from forecaster.model.kernels.compiling import entry, part

NEVER = 2**62  # the position of a target that there is not
MEMORY = 100.0  # scored forecasts in which the weight of one falls to 1/e
MOST_UNITS = 20.0  # a larger error counts as this one, so that one mad value moves a mean by a fifth, not for ever
_LARGEST = 1e30  # of a bound in units; it is kept in float32
_WORD, _FACTOR = 2**32 - 1, 0x45D9F3B  # of `_mixed`: products of the two overflow no int64
EXACT = np.float32(2**24)  # up to which float32 has every whole number
_LAST = np.finfo(np.float32).max


@part
def in_units(value, median, unit):
    """Return a value around the median; one that equals a bound is rounded as it is, and so lies inside."""
    return np.float32(min(max((value - median) / unit, -_LARGEST), _LARGEST))


@part
def one_more(count):
    """Return the float32 behind a count: one more, or, where float32 has no such number, the next that there is.

    What these count is told by `live_scores.counted`.
    """
    return count + np.float32(1.0) if count < EXACT else np.nextafter(count, _LAST)


@part
def _add_score(sums, error, raw_missed, missed):
    """Take one more score into sums [5]: how many there are, see `one_more`; weighted sums, see `live_scores`."""
    size = min(abs(error), MOST_UNITS)
    sums[0] = one_more(sums[0])
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
def _mixed(word):
    """Return a hash of 32 bits of 32 bits, as integers of 64: multiplications, and shifts between them."""
    for _ in range(2):
        word = ((word >> 16) ^ word) * _FACTOR & _WORD
    return (word >> 16) ^ word


@part
def _rest(target, median, steps):
    """Return for how many steps behind its target a horizon takes no forecast, 0 to `steps` - 1.

    Forecasts that are given at every step would otherwise be scored at targets that are `steps` apart: with a season of
    so many, at one and the same phase of it. The number is drawn from what a replay knows as well: target and median.
    """
    drawn = int(abs(math.frexp(median)[0]) * 2.0**53)
    return _mixed(_mixed((drawn ^ drawn >> 32) & _WORD) ^ (target & _WORD)) * steps >> 32


@part
def is_open(waited, position):
    """Return whether a pair [3] takes a forecast that is given after so many steps."""
    return waited[0] <= 0 and position >= -waited[0]


@part
def _settle(waited, learnt, which, value, law, plan):
    """Score what a pair waits for, wait no longer, and rest; a missing value is not scored.

    Args:
        waited: its row of `calibration_waiting` [3].
        learnt: its row of `calibration_learnt` [B + A + 5].
        which: its horizon among the K.
        value: of the step, NaN where missing.
        law: see `score_step`.
        plan: see `score_step`.
    """
    shown = plan[0]
    alpha, most, gamma = law[0], law[1], law[3 + which]
    tracked = alpha.size
    bounds = 2 * tracked + 2 if tracked > 0 else 0
    if not math.isnan(value):
        error = in_units(value, waited[1], waited[2])
        raw_missed = shown_missed = True
        for a in range(tracked):
            missed = error < learnt[a] or error > learnt[tracked + a]
            before = float(learnt[bounds + a])
            learnt[bounds + a] = moved(before, gamma[a], alpha[a], missed, most[a])
            if a == shown:
                shown_missed = missed
        if tracked > 0:
            raw_missed = error < learnt[bounds - 2] or error > learnt[bounds - 1]
        _add_score(learnt[bounds + tracked :], float(error), raw_missed, shown_missed)
    for b in range(bounds):
        learnt[b] = 0.0
    target = int(waited[0])
    waited[0] = -float(target + _rest(target, waited[1], plan[1 + which]))
    waited[1] = waited[2] = 0.0


@part
def wait(waited, learnt, target, frame, bounds):
    """Let a pair wait for a step, [3] and [B + A + 5], with a frame [2] and bounds [B]."""
    waited[0], waited[1], waited[2] = target, frame[0], frame[1]
    for b in range(bounds.size):
        learnt[b] = bounds[b]


@part
def next_target(waiting):
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
def _score_run(waiting, learnt, run, position, runs, law, plan):
    """Score what a series [K, …] waits for up to the end of its run."""
    reached = position + runs[1][run]
    for k in range(len(waiting)):
        target = int(waiting[k, 0])
        if 0 < target <= reached:
            _settle(waiting[k], learnt[k], k, _value(runs, run, target - position - 1), law, plan)


@entry
def next_targets(waiting, slots, found):
    """Write the position of the next step that the series in `slots` wait for [N]."""
    for i in range(slots.size):
        found[i] = next_target(waiting[slots[i]])


@entry
def score_step(states, slots, position, values, law, plan):
    """Score what waits for the next step of each series.

    Args:
        states: `calibration_waiting` float64 [C, K, 3], `calibration_learnt` float32 [C, K, B + A + 5], and the step
            that each slot waits for next, `NEVER` if none, int64 [C].
        slots: int64 [N], all different.
        position: steps seen before it, int64 [N].
        values: float64 [N], NaN where missing.
        law: α, moves at most, α + moves at most, and then γ of each horizon, float64 [3 + K, A].
        plan: which of the tracked coverages is shown, and the horizons, int64 [1 + K].
    """
    waiting, learnt, targets = states
    for i in range(slots.size):
        s = slots[i]
        if targets[s] > position[i] + 1:
            continue
        for k in range(waiting.shape[1]):
            if 0 < waiting[s, k, 0] <= position[i] + 1:
                _settle(waiting[s, k], learnt[s, k], k, values[i], law, plan)
        targets[s] = next_target(waiting[s])


@entry
def score(states, slots, position, runs, law, plan):
    """Score what waits for a step of the runs, one of each series.

    Args:
        states: see `score_step`.
        slots: see `score_step`.
        position: see `score_step`.
        runs: start and length int64 [N], run and step of each row int64 [R], ascending, and its value float64 [R].
        law: see `score_step`.
        plan: see `score_step`.
    """
    waiting, learnt, targets = states
    for i in range(slots.size):
        s = slots[i]
        if targets[s] <= position[i] + runs[1][i]:
            _score_run(waiting[s], learnt[s], i, position[i], runs, law, plan)
            targets[s] = next_target(waiting[s])


@entry
def replay(states, slots, position, runs, issued, step_us, law, plan):
    """Do what `issue` and scores did while the runs were observed.

    Args:
        states: see `score_step`.
        slots: see `score_step`.
        position: see `score_step`.
        runs: see `score`; they may be of no steps.
        issued: for each row its run, -1 if it has none, its horizon among the K and its origin int64 [R], frame
            float64 [R, 2], bounds float32 [R, B]; in order.
        step_us: a step in microseconds.
        law: see `score_step`.
        plan: see `score_step`.
    """
    waiting, learnt, targets = states
    run_of, horizons, origin_us, frame, bounds = issued
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
            _settle(waiting[s, k], learnt[s, k], k, _value(runs, i, target - position[i] - 1), law, plan)
        wait(waiting[s, k], learnt[s, k], at + plan[1 + k], frame[r], bounds[r])
    for i in range(slots.size):
        s = slots[i]
        _score_run(waiting[s], learnt[s], i, position[i], runs, law, plan)
        targets[s] = next_target(waiting[s])
