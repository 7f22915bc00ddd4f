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
    for k in range(len(lags)):
        for d in range(candidates.shape[1]):
            at = (position - lags[k] + d % lags[k]) % ring.size
            seen[k, d] = ring_observed[at]
            candidates[k, d] = (ring[at] - level) / scale if ring_observed[at] else 0.0


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
def _centre(gates, bias, candidates, seen, newest, there, ratio, centre):
    """Write the mixtures [D], in units, of the candidates by logits [S + 2, D], which are used up."""
    count, horizon = candidates.shape
    for c in range(count + 2):
        for d in range(horizon):
            gates[c, d] += bias[c]
    for c in range(count):  # a large negative logit for what is missing
        for d in range(horizon):
            gates[c, d] += (seen[c, d] - ONE) * _FAR
    top, total = gates[count + 1].copy(), np.zeros(horizon, f4)
    for d in range(horizon):
        gates[count, d] += (there - ONE) * _FAR
    for c in range(count + 1):
        for d in range(horizon):
            top[d] = max(top[d], gates[c, d])
    for c in range(count + 2):
        for d in range(horizon):
            gates[c, d] = exp(gates[c, d] - top[d])
            total[d] += gates[c, d]
    for d in range(horizon):
        centre[d] = gates[count, d] * newest
    for c in range(count):
        for d in range(horizon):
            centre[d] += gates[c, d] * candidates[c, d]
    for d in range(horizon):
        centre[d] *= ratio / total[d]


@units
def _spread(raw, bias, median, centre, share, own):
    """Add to quantiles [Q, D] a member's share: the median, and the widths around it added up; see `QuantileHead`."""
    for d in range(centre.size):
        centre[d] += raw[median, d] + bias[median]
        own[median, d] += share * centre[d]
    edge = centre.copy()
    for q in range(median + 1, len(own)):
        for d in range(centre.size):
            edge[d] += softplus(raw[q, d] + bias[q])
            own[q, d] += share * edge[d]
    for q in range(median - 1, -1, -1):
        for d in range(centre.size):
            centre[d] -= softplus(raw[q, d] + bias[q])
            own[q, d] += share * centre[d]


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
    (members, _, width), count, horizon = origin.shape, len(lags), out.shape[1]
    size, layers, known = hidden.shape[2], hidden.shape[1] // members, 2 * count + 2 * len(periods)
    tile = min(TILE, len(slots))
    z, frame = np.empty((tile, origin.shape[1]), f4), np.empty((tile, 4))
    context, changes, now = np.empty((members, tile, width), f4), np.empty(count + 1), np.empty(2 * len(periods), f4)
    features, candidates = np.zeros((ahead.shape[1], horizon), f4), np.empty((count, horizon), f4)
    x, y = np.empty((horizon, width), f4), np.empty((horizon, width), f4)
    time = 0
    raw, own, centre = (
        np.empty((last.shape[1], horizon), f4),
        np.empty((len(last[0]) - count - 2, horizon), f4),
        np.empty(horizon, f4),
    )
    for low in range(0, len(slots), tile):
        some = slots[low : low + tile]
        n = len(some)
        for i in range(n):
            _origin(normalizer[some[i]], changes, static[low + i], frame[i], z[i, size:])
        for k in range(members):
            for i in range(n):
                z[i, :size] = hidden[some[i], k * layers]
                for layer in range(1, layers):
                    add(z[i, :size], hidden[some[i], k * layers + layer])
            product(z[:n], origin[k], context[k, :n])
            for i in range(n):
                add(context[k, i], origin_bias[k])
        for i in range(n):
            s = some[i]
            level, scale, unit, newest = frame[i]
            seen = features[count : 2 * count]
            _candidates(ring[s], ring_observed[s], position[s], lags, level, scale, candidates, seen)
            features[:count] = candidates
            for k in range(count):
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
                _centre(
                    raw[: count + 2], last_bias[k], candidates, seen, f4(newest), z[i, -1], f4(scale / unit), centre
                )
                _spread(raw[count + 2 :], last_bias[k, count + 2 :], median, centre, f4(1 / members), own)
            _write(own, index, share, level, unit, out[low + i])
