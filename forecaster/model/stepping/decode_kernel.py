"""The forecasts of N series as machine code; see `kernels`.

Shapes: C slots, N series, D horizon steps, S seasonal lags, K members, L layers, H hidden, A decoder's hidden,
P calendar periods, E static features, Z origin's inputs, F step's inputs, Q levels, V wanted ones.
"""

import math

import numpy as np

from forecaster.model.decoders.decoder import MOST_SCALES
from forecaster.model.inputs.normalizer import LEAST_VALUE
from forecaster.model.inputs.normalizer_kernel import statistics
from forecaster.model.kernels.arithmetic import (
    ONE,
    TILE,
    ZERO,
    add,
    calendar,
    copy,
    exp,
    f4,
    fill,
    product,
    silu,
    soft_clip,
    softplus,
)
from forecaster.model.kernels.compiling import entry, part, units

_FAR = f4(1e30)


@part
def _origin(sums, changes, static, frame, z):
    """Write a series' level, scale, unit, newest value and reach, and what a decoder sees of it besides its summary."""
    level, scale, reach = statistics(sums, changes)
    seen, count = sums[0] > 0, changes.size
    newest = min(max((sums[4] - level) / scale, -MOST_SCALES), MOST_SCALES) if seen else 0.0
    unit = changes[0] if count == 1 else np.inf
    for c in range(1, count):
        unit = min(unit, changes[c])
    frame[0], frame[1], frame[2], frame[3], frame[4] = level, scale, unit, newest, reach
    for c in range(count):
        z[c] = math.log(changes[c] / scale)
    copy(static, z[count : count + static.size])
    z[z.size - 2], z[z.size - 1] = newest, seen
    soft_clip(z[z.size - 2 : z.size - 1])


@part
def _summarise(hidden, slots, member, layers, z):
    """Write what comes out of a member's encoder [N, H]: all its layers' hidden vectors together."""
    size = hidden.shape[2]
    for i in range(len(slots)):
        copy(hidden[slots[i], member * layers], z[i, :size])
        for layer in range(1, layers):
            add(z[i, :size], hidden[slots[i], member * layers + layer], ONE)


@units
def _open(x, steps, context):
    for j in range(x.size):
        x[j] = silu(x[j] + steps[j] + context[j])


@units
def _deepen(x, middle, bias):
    for j in range(x.size):
        x[j] += silu(middle[j] + bias[j])


@part
def _candidates(ring, ring_observed, position, lags, frame, candidates, seen):
    """Write the normalised values whole lags before the steps ahead [S, D], zero where missing, and which there are.

    A value that is not believed counts as missing.
    """
    level, scale, reach, horizon = frame[0], frame[1], frame[4], candidates.shape[1]
    for k in range(len(lags)):
        first = (position - lags[k]) % ring.size
        for low in range(0, horizon, lags[k]):  # a season after the other, from the same one's values
            at = first
            for d in range(low, min(low + lags[k], horizon)):
                distance = ring[at] - level
                there = ring_observed[at] and abs(distance) <= reach
                seen[k, d] = there
                candidates[k, d] = min(max(distance / scale, -MOST_SCALES), MOST_SCALES) if there else 0.0
                at += 1
                if at == ring.size:
                    at = 0


@part
def _turn(time_us, periods, turns, now, ahead):
    """Write the calendar features [2 P, D] of the steps ahead: those of a time, turned by cosines and sines."""
    calendar(time_us, periods, now)
    count = len(periods)
    for p in range(count):
        sine, cosine = now[p], now[count + p]
        for d in range(ahead.shape[1]):
            ahead[p, d] = sine * turns[0, p, d] + cosine * turns[1, p, d]
            ahead[count + p, d] = cosine * turns[0, p, d] - sine * turns[1, p, d]


@units
def _offset(logits, bias, seen, top):
    for d in range(top.size):
        logits[d] += bias + (seen[d] - ONE) * _FAR  # a large negative logit for what is missing
        top[d] = max(top[d], logits[d])


@units
def _shift(x, by):
    for d in range(x.size):
        x[d] += by


@units
def _mix(weights, values, total, centre):
    for d in range(total.size):
        total[d] += weights[d]
        centre[d] += weights[d] * values[d]


@units
def _exponentials(x):
    for j in range(x.size):
        x[j] = exp(x[j])


@units
def _softplus(x):
    for j in range(x.size):
        x[j] = softplus(x[j])


@part
def _centre(gates, bias, values, seen, ratio, centre):
    """Write the mixtures [D], in units, of the candidates [S + 2, D] by logits [S + 2, D], which are used up."""
    top, total = np.empty(centre.size, f4), np.empty(centre.size, f4)
    fill(top, -_FAR)
    fill(total, ZERO)
    fill(centre, ZERO)
    for c in range(len(gates)):
        _offset(gates[c], bias[c], seen[c], top)
    for c in range(len(gates)):
        add(gates[c], top, -ONE)
    _exponentials(gates.reshape(gates.size))  # in one go: the last few of a short row would be computed one by one
    for c in range(len(gates)):
        _mix(gates[c], values[c], total, centre)
    for d in range(centre.size):
        centre[d] *= ratio / total[d]


@part
def _spread(raw, bias, median, centre, share, own, asked):
    """Add to quantiles [Q, D] a member's share: the median, and the widths around it added up; see `QuantileHead`."""
    lowest, highest = asked
    for q in range(lowest, highest + 1):
        _shift(raw[q], bias[q])
    add(centre, raw[median], ONE)
    add(own[median], centre, share)
    widths = raw[lowest : highest + 1]
    _softplus(widths.reshape(widths.size))
    edge = np.empty(centre.size, f4)
    copy(centre, edge)
    for q in range(median + 1, highest + 1):
        add(edge, raw[q], ONE)
        add(own[q], edge, share)
    for q in range(median - 1, lowest - 1, -1):
        add(centre, raw[q], -ONE)
        add(own[q], centre, share)


@part
def _write(own, index, share, level, unit, out):
    """Write the wanted quantiles [D, V] in the series' units: `share` of the way from one learnt level to the next."""
    for v in range(index.size):
        low, high = own[index[v]], own[min(index[v] + 1, len(own) - 1)]
        for d in range(low.size):
            a, b = float(low[d]), float(high[d])
            value = level + unit * min(a + share[v] * (b - a), b)
            out[d, v] = 0.0 if abs(value) < LEAST_VALUE else value  # NaN stays what it is


@entry
def predict(slab, slots, out, future, static, plan, weights):
    """Write the quantiles of the series in `slots` into `out`; the slab stays as it is.

    Args:
        slab: see `step`.
        slots: int64 [N].
        out: float64 [N, D, V].
        future: features of the known future, float32 [N, D, .].
        static: features of the series, float32 [N, E].
        plan: lags int64 [S], calendar periods float64 [P, 2], cosines and sines of the steps ahead [2, P, .], index of
            the median, lowest and highest index of the learnt levels that matter, and of each wanted quantile the
            learnt level below and the share of the way to the next [V].
        weights: of the origin float32 [K, Z, A] and [K, A], of a step [K, F, A], of the horizon [K, ., A], of the
            readout's middle [K, A, A] and [K, A], of gates and head [K, S + 2 + Q, A] and [K, S + 2 + Q].
    """
    hidden, _, normalizer, ring, ring_observed, position, _, clock = slab
    lags, periods, turns, median, asked, index, share = plan
    origin, origin_bias, ahead, steps, middle, middle_bias, last, last_bias = weights
    (members, inputs, width), count, horizon = origin.shape, len(lags), out.shape[1]
    size, known, candidates = hidden.shape[2], 2 * count + 2 * len(periods), count + 2
    tile = min(TILE, len(slots))
    z, frame, context = np.empty((tile, inputs), f4), np.empty((tile, 5)), np.empty((members, tile, width), f4)
    changes, now, features = (
        np.empty(count + 1),
        np.empty(2 * len(periods), f4),
        np.empty((ahead.shape[1], horizon), f4),
    )
    values, seen = np.empty((candidates, horizon), f4), np.empty((candidates, horizon), f4)
    fill(values[count + 1], ZERO)  # the level itself is always there
    fill(seen[count + 1], ONE)
    x, y, raw = np.empty((horizon, width), f4), np.empty((horizon, width), f4), np.empty((last.shape[1], horizon), f4)
    own, centre, time = np.empty((last.shape[1] - candidates, horizon), f4), np.empty(horizon, f4), 0
    for low in range(0, len(slots), tile):
        some = slots[low : low + tile]
        n = len(some)
        for i in range(n):
            _origin(normalizer[some[i]], changes, static[low + i], frame[i], z[i, size:])
        for k in range(members):
            _summarise(hidden, some, k, hidden.shape[1] // members, z)
            product(z[:n], origin[k], context[k, :n])
            for i in range(n):
                add(context[k, i], origin_bias[k], ONE)
        for i in range(n):
            s = some[i]
            level, scale, unit, newest = frame[i, :4]
            _candidates(ring[s], ring_observed[s], position[s], lags, frame[i], values, seen)
            fill(values[count], newest)
            fill(seen[count], z[i, inputs - 1])
            for k in range(count):
                copy(values[k], features[k])
                copy(seen[k], features[count + k])
            soft_clip(features[:count].reshape(count * horizon))
            if low + i == 0 or clock[s] != time:
                time = clock[s]
                _turn(time, periods, turns, now, features[2 * count : known])
            for j in range(known, len(features)):
                copy(future[low + i, :, j - known], features[j])
            fill(own.reshape(own.size), ZERO)
            for k in range(members):
                np.dot(features.T, ahead[k], x)
                for d in range(horizon):
                    _open(x[d], steps[k, d], context[k, i])
                product(x, middle[k], y)
                for d in range(horizon):
                    _deepen(x[d], y[d], middle_bias[k])
                np.dot(last[k], x.T, raw)
                _centre(raw[:candidates], last_bias[k], values, seen, f4(scale / unit), centre)
                _spread(raw[candidates:], last_bias[k, candidates:], median, centre, f4(1 / members), own, asked)
            _write(own, index, share, level, unit, out[low + i])
