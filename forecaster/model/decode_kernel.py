"""The forecasts of N series as machine code; see `kernels`.

Shapes: C slots, N series, D horizon steps, S seasonal lags, K members, L layers, H hidden, A decoder's hidden,
P calendar periods, E static features, Z origin's inputs, F step's inputs, Q levels, V wanted ones.
"""

import math

import numpy as np

from forecaster.model.kernels import (
    ONE,
    TILE,
    add,
    calendar,
    entry,
    exp,
    f4,
    part,
    product,
    silu,
    soft_clip,
    softplus,
    statistics,
    units,
)

_FAR = f4(1e30)


@part
def _origin(sums, changes, static, frame, z):
    """Write level, scale, unit and newest value of a series, and what the decoder sees of it besides its summary."""
    level, scale = statistics(sums, changes)
    seen, count = sums[0] > 0, changes.size
    newest = (sums[4] - level) / scale if seen else 0.0
    frame[0], frame[1], frame[2], frame[3] = level, scale, changes[1:].min() if count > 1 else changes[0], newest
    for c in range(count):
        z[c] = math.log(changes[c] / scale)
    z[count : count + static.size] = static
    z[-2] = newest
    soft_clip(z[-2:-1])
    z[-1] = seen


@part
def _summarise(hidden, slots, member, layers, z):
    """Write what comes out of a member's encoder [N, H]: all its layers' hidden vectors together."""
    size = hidden.shape[2]
    for i in range(len(slots)):
        z[i, :size] = hidden[slots[i], member * layers]
        for layer in range(1, layers):
            add(z[i, :size], hidden[slots[i], member * layers + layer])


@units
def _open(x, steps, context):
    for j in range(x.size):
        x[j] = silu(x[j] + steps[j] + context[j])


@units
def _deepen(x, middle, bias):
    for j in range(x.size):
        x[j] += silu(middle[j] + bias[j])


@part
def _candidates(ring, ring_observed, position, lags, level, scale, candidates, seen):
    """Write the normalised values whole lags before the steps ahead [S, D], zero where missing, and which there are."""
    share, horizon = 1.0 / scale, candidates.shape[1]
    for k in range(len(lags)):
        first = (position - lags[k]) % ring.size
        for low in range(0, horizon, lags[k]):  # a season after the other, from the same one's values
            at = first
            for d in range(low, min(low + lags[k], horizon)):
                there = ring_observed[at]
                seen[k, d] = there
                candidates[k, d] = (ring[at] - level) * share if there else 0.0
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
def _mix(logits, top, candidates, total, centre):
    for d in range(top.size):
        logits[d] = exp(logits[d] - top[d])
    for d in range(top.size):
        total[d] += logits[d]
    for d in range(top.size):
        centre[d] += logits[d] * candidates[d]


@part
def _centre(gates, bias, values, seen, ratio):
    """Return the mixtures [D], in units, of the candidates [S + 2, D] by logits [S + 2, D], which are used up."""
    horizon = gates.shape[1]
    top, total, centre = np.full(horizon, -_FAR, f4), np.zeros(horizon, f4), np.zeros(horizon, f4)
    for c in range(len(gates)):
        _offset(gates[c], bias[c], seen[c], top)
    for c in range(len(gates)):
        _mix(gates[c], top, values[c], total, centre)
    for d in range(horizon):
        centre[d] *= ratio / total[d]
    return centre


@units
def _soften(x, bias):
    for d in range(x.size):
        x[d] = softplus(x[d] + bias)


@units
def _move(edge, width, sign, share, own):
    for d in range(edge.size):
        edge[d] += sign * width[d]
    for d in range(edge.size):
        own[d] += share * edge[d]


@part
def _spread(raw, bias, median, centre, share, own, index):
    """Add to quantiles [Q, D] a member's share: the median, and the widths around it added up; see `QuantileHead`."""
    lowest, highest = min(index.min(), median), max(min(index.max() + 1, len(own) - 1), median)  # that are asked for
    for q in range(lowest, highest + 1):
        if q != median:
            _soften(raw[q], bias[q])
    raw[median] += bias[median]
    _move(centre, raw[median], ONE, share, own[median])
    edge = centre.copy()
    for q in range(median + 1, highest + 1):
        _move(edge, raw[q], ONE, share, own[q])
    for q in range(median - 1, lowest - 1, -1):
        _move(centre, raw[q], -ONE, share, own[q])


@part
def _write(own, index, share, level, unit, out):
    """Write the wanted quantiles [D, V] in the series' units: `share` of the way from one learnt level to the next."""
    for v in range(index.size):
        low, high = own[index[v]], own[min(index[v] + 1, len(own) - 1)]
        for d in range(low.size):
            a, b = float(low[d]), float(high[d])
            out[d, v] = level + unit * min(a + share[v] * (b - a), b)


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
            the median, and of each wanted quantile the learnt level below and the share of the way to the next [V].
        weights: of the origin float32 [K, Z, A] and [K, A], of a step [K, F, A], of the horizon [K, ., A], of the
            readout's middle [K, A, A] and [K, A], of gates and head [K, S + 2 + Q, A] and [K, S + 2 + Q].
    """
    hidden, _, normalizer, ring, ring_observed, position, _, clock = slab
    lags, periods, turns, median, index, share = plan
    origin, origin_bias, ahead, steps, middle, middle_bias, last, last_bias = weights
    (members, inputs, width), count, horizon = origin.shape, len(lags), out.shape[1]
    size, known, candidates = hidden.shape[2], 2 * count + 2 * len(periods), count + 2
    tile = min(TILE, len(slots))
    z, frame, context = np.empty((tile, inputs), f4), np.empty((tile, 4)), np.empty((members, tile, width), f4)
    changes, now, features = np.empty(count + 1), np.empty(2 * len(periods), f4), np.empty((ahead.shape[1], horizon), f4)
    values, seen = np.zeros((candidates, horizon), f4), np.ones((candidates, horizon), f4)  # the last one is the level
    x, y, raw = np.empty((horizon, width), f4), np.empty((horizon, width), f4), np.empty((last.shape[1], horizon), f4)
    own, time = np.empty((last.shape[1] - candidates, horizon), f4), 0
    for low in range(0, len(slots), tile):
        some = slots[low : low + tile]
        n = len(some)
        for i in range(n):
            _origin(normalizer[some[i]], changes, static[low + i], frame[i], z[i, size:])
        for k in range(members):
            _summarise(hidden, some, k, hidden.shape[1] // members, z)
            product(z[:n], origin[k], context[k, :n])
            for i in range(n):
                add(context[k, i], origin_bias[k])
        for i in range(n):
            s = some[i]
            level, scale, unit, newest = frame[i]
            _candidates(ring[s], ring_observed[s], position[s], lags, level, scale, values, seen)
            values[count], seen[count] = newest, z[i, -1]
            for k in range(count):
                features[k], features[count + k] = values[k], seen[k]
                soft_clip(features[k])
            if low + i == 0 or clock[s] != time:
                time = clock[s]
                _turn(time, periods, turns, now, features[2 * count : known])
            features[known:] = future[low + i].T
            own[:] = 0
            for k in range(members):
                np.dot(features.T, ahead[k], x)
                for d in range(horizon):
                    _open(x[d], steps[k, d], context[k, i])
                product(x, middle[k], y)
                for d in range(horizon):
                    _deepen(x[d], y[d], middle_bias[k])
                np.dot(last[k], x.T, raw)
                centre = _centre(raw[:candidates], last_bias[k], values, seen, f4(scale / unit))
                _spread(raw[candidates:], last_bias[k, candidates:], median, centre, f4(1 / members), own, index)
            _write(own, index, share, level, unit, out[low + i])
