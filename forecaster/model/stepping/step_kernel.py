"""One step of N series, or a run of steps of each, as machine code; see `kernels`.

Shapes: C slots, N series, M memory, S seasonal lags, W sums of the normaliser, I inputs, E other inputs, K members,
L layers, H hidden, G gates, P calendar periods, R rows.
"""

import math

import numpy as np

from forecaster.model.inputs.normalizer import FADED
from forecaster.model.inputs.normalizer_kernel import advance as count_believed
from forecaster.model.inputs.normalizer_kernel import statistics
from forecaster.model.kernels.arithmetic import (
    ONE,
    TILE,
    ZERO,
    add,
    calendar,
    copy,
    f4,
    product,
    sigmoid,
    soft_clip,
    tanh,
)
from forecaster.model.kernels.compiling import entry, part, units

KINDS = ("gru", "lstm", "rnn_tanh", "rnn_relu")


@part
def _look_back(ring, ring_observed, turn, value, lags, past):
    """Write the values one step, each lag, and each lag but one before the step of slot `turn`, NaN where missing."""
    count = len(lags)
    for c in range(2 * count + 1):
        back = 1 if c == 0 else lags[c - 1] if c <= count else lags[c - 1 - count] - 1
        at = turn - back if turn >= back else turn - back + ring.size
        past[c] = value if back == 0 else ring[at] if ring_observed[at] else np.nan


@part
def _fade(sums, weight, weighed, decay):
    if sums[weight] > 0:
        kept = max(decay, min(FADED / sums[weight], 1.0))
        sums[weight] *= kept
        sums[weighed] *= kept


@part
def _count(sums, past, value, decay):
    """Advance plain sums [W] by a value; past [S + 1, …]: those a step and each lag before. See `normalizer`."""
    before, changes = sums[1] / sums[0], (sums.size - 5) // 2  # NaN before the first value
    _fade(sums, 0, 1, decay)
    _fade(sums, 2, 3, decay)
    for c in range(changes):
        _fade(sums, 5 + c, 5 + changes + c, decay)
    if not math.isnan(value):
        if not math.isnan(before):
            sums[2] += 1.0
            sums[3] += abs(value - before)
        sums[0] += 1.0
        sums[1] += value
        sums[4] = value
    for c in range(changes):
        change = abs(value - past[c])
        if change < np.inf:
            sums[5 + c] += 1.0
            sums[5 + changes + c] += change


@part
def _see(value, past, sums, changes, x):
    """Write the inputs that come of a value and those before it; see `inputs.value_inputs`."""
    count = changes.size - 1
    level, scale, _ = statistics(sums, changes)
    for c in range(2 * count + 1):
        # The value, then for each lag what lies where the next step's season does and where this one's does.
        number = value if c == 0 else past[count + (c + 1) // 2] if c % 2 else past[c // 2]
        seen = not math.isnan(number)
        x[2 * c], x[2 * c + 1] = (number - level) / scale if seen else 0.0, seen
    x[2 + 4 * count] = math.log(scale / (scale + abs(level)))
    for c in range(count + 1):
        x[3 + 4 * count + c] = math.log(changes[c] / scale)
    soft_clip(x)


@units
def _gru(left, right, bias, hidden):
    """Put the next hidden vector in place; Cho et al. 2014 as in cuDNN, gates r, z, n, then what r is applied to."""
    size = hidden.size
    both, both_back, both_bias = left[: 2 * size], right[: 2 * size], bias[: 2 * size]
    for j in range(2 * size):
        both[j] = sigmoid(both[j] + both_back[j] + both_bias[j])
    new, back, bias_new, bias_back = left[2 * size :], right[2 * size :], bias[2 * size : 3 * size], bias[3 * size :]
    for j in range(size):
        new[j] = tanh(new[j] + bias_new[j] + both[j] * (back[j] + bias_back[j]))
    update = both[size:]
    for j in range(size):
        hidden[j] = new[j] + update[j] * (hidden[j] - new[j])


@units
def _lstm(left, right, bias, hidden, cell):
    """Put the next hidden vector and cell in place; gates i, f, g, o."""
    size = hidden.size
    for j in range(4 * size):
        left[j] += right[j] + bias[j]
    both, new = left[: 2 * size], left[2 * size : 3 * size]
    for j in range(2 * size):
        both[j] = sigmoid(both[j])
    for j in range(size):
        new[j] = tanh(new[j])
    enter, keep, leave = left[:size], left[size : 2 * size], left[3 * size :]
    for j in range(size):
        cell[j] = keep[j] * cell[j] + enter[j] * new[j]
    for j in range(size):
        hidden[j] = sigmoid(leave[j]) * tanh(cell[j])


@units
def _rnn(left, right, bias, hidden, rectified):
    """Put the next hidden vector in place."""
    if rectified:
        for j in range(hidden.size):
            hidden[j] = max(left[j] + right[j] + bias[j], ZERO)
    else:
        for j in range(hidden.size):
            hidden[j] = tanh(left[j] + right[j] + bias[j])


@part
def advance(kind, x, into, back, bias, hidden, cell, slots, at, lowest, buffers):
    """Advance layer `at` of the series in `slots` [N] from inputs x [N, .]; add what comes out to the output [N, H]."""
    gathered, left, right, output = buffers
    for i in range(len(slots)):
        copy(hidden[slots[i], at], gathered[i])
    product(x, into, left)
    product(gathered, back, right)
    for i in range(len(slots)):
        own = hidden[slots[i], at]
        if kind == 0:
            _gru(left[i], right[i], bias, own)
        elif kind == 1:
            _lstm(left[i], right[i], bias, own, cell[slots[i], at])
        else:
            _rnn(left[i], right[i], bias, own, kind == 3)
        if lowest:
            copy(own, output[i])
        else:
            add(output[i], own, ONE)


@part
def _buffers(count, inputs, size, gates):
    """Return what a tile of so many series is computed in: its inputs, and what `advance` works with."""
    x, output = np.zeros((count, inputs), f4), np.empty((count, size), f4)
    return x, (np.empty((count, size), f4), np.empty((count, gates), f4), np.empty((count, gates), f4), output)


@part
def _tile(slab, slots, time_us, values, others, plan, weights, room, work):
    """Advance a tile's series by one step; what each array is, `step` says.

    Args:
        room: see `_buffers`, of as many series or more.
        work: values before float64 [2 S + 1] and changes float64 [S + 1] of one series; written over.
    """
    hidden, cell, normalizer, ring, ring_observed, position, count, clock = slab
    kind, lags, decay, periods = plan
    first, upper, back, bias = weights
    members, layers = back.shape[:2]
    own = 4 + 5 * len(lags)
    behind = own + 2 * len(periods)
    past, changes = work
    robust = normalizer.shape[1] != 5 + 2 * changes.size
    n = len(slots)
    x, (gathered, left, right, output) = room
    for i in range(n):
        s, time, value = slots[i], time_us[i], values[i]
        turn, observed = position[s] % ring.shape[1], not math.isnan(value)
        _look_back(ring[s], ring_observed[s], turn, value, lags, past)
        seen = value
        if robust:
            seen = count_believed(normalizer[s], past, value, decay)
        else:
            _count(normalizer[s], past, value, decay)
        _see(seen, past, normalizer[s], changes, x[i, :own])
        ring[s, turn], ring_observed[s, turn] = value if observed else 0.0, observed
        count[s] += observed
        position[s] += 1
        clock[s] = time
        if i > 0 and time == time_us[i - 1]:
            copy(x[i - 1, own:behind], x[i, own:behind])
        else:
            calendar(time, periods, x[i, own:behind])
        copy(others[i], x[i, behind:])
    buffers = gathered[:n], left[:n], right[:n], output[:n]
    for k in range(members):
        for layer in range(layers):
            at = k * layers + layer
            if layer == 0:
                advance(kind, x[:n], first[k], back[k, 0], bias[k, 0], hidden, cell, slots, at, True, buffers)
            else:
                into = upper[k, layer - 1]
                advance(kind, output[:n], into, back[k, layer], bias[k, layer], hidden, cell, slots, at, False, buffers)


@entry
def step(slab, slots, time_us, values, others, plan, weights):
    """Advance the series in `slots` by one step.

    Args:
        slab: hidden and cell float32 [C, K · L, H] (hidden twice without cells), normaliser float64 [C, W], ring
            float64 and its mask bool [C, M], position, observed count and time int64 [C].
        slots: int64 [N], all different.
        time_us: of the step, int64 [N].
        values: float64 [N], NaN where missing.
        others: inputs behind the calendar's, float32 [N, E].
        plan: index among `KINDS`, lags int64 [S], decay, calendar periods float64 [P, 2].
        weights: of the inputs float32 [K, I, G], of the upper layers [K, L - 1, H, G], of the hidden vectors
            [K, L, H, G], biases [K, L, G or 4 H].
    """
    tile = min(TILE, len(slots))
    room = _buffers(tile, weights[0].shape[1], weights[2].shape[2], weights[2].shape[3])
    work = np.empty(2 * len(plan[1]) + 1), np.empty(len(plan[1]) + 1)
    for low in range(0, len(slots), tile):
        high = min(low + tile, len(slots))
        some = slots[low:high]
        _tile(slab, some, time_us[low:high], values[low:high], others[low:high], plan, weights, room, work)


@entry
def run(slab, slots, start_us, lengths, step_us, rows, others, plan, weights):
    """Advance each of the series in `slots` by a run of steps, of which those without a row are missing.

    Args:
        slab: see `step`.
        slots: int64 [N], all different, the longest run first: those of a tile that still run are then its first ones.
        start_us: time of each run's first step, int64 [N].
        lengths: steps of each run, int64 [N].
        step_us: the grid's time step.
        rows: where each run's rows begin int64 [N], and where they end int64 [N]; the step of each row within its run,
            ascending, int64 [R]; values float64 [R], NaN where missing.
        others: inputs behind the calendar's of each row float32 [R, E], and of each run's steps without one [N, E].
        plan: see `step`.
        weights: see `step`.
    """
    begins, ends, row_step, given = rows
    of_row, of_run = others
    tile = min(TILE, len(slots))
    room = _buffers(tile, weights[0].shape[1], weights[2].shape[2], weights[2].shape[3])
    work = np.empty(2 * len(plan[1]) + 1), np.empty(len(plan[1]) + 1)
    at, time_us, values = np.empty(tile, np.int64), np.empty(tile, np.int64), np.empty(tile)
    beside = np.empty((tile, of_run.shape[1]), f4)
    for low in range(0, len(slots), tile):
        n = min(tile, len(slots) - low)
        at[:n] = begins[low : low + n]
        for t in range(lengths[low]):
            while lengths[low + n - 1] <= t:
                n -= 1
            for i in range(n):
                time_us[i] = start_us[low + i] + t * step_us
                row = at[i]
                if row < ends[low + i] and row_step[row] == t:
                    values[i] = given[row]
                    copy(of_row[row], beside[i])
                    at[i] += 1
                else:
                    values[i] = np.nan
                    copy(of_run[low + i], beside[i])
            some = slots[low : low + n]
            _tile(slab, some, time_us[:n], values[:n], beside[:n], plan, weights, room, work)
