"""The arithmetic of `conformal`, number by number, as machine code; what it means stands there.

Numbers are float64, so that the same Python gives the same where it is not compiled.

Shapes: P rows, Q trained levels, C tracked coverages, W wanted levels.
"""

import math

from forecaster.model.kernels.compiling import entry, part

FLOOR = 0.02
LEAST = -5.0  # of moves: an interval of 250 lengths of the tail


@part
def moved(move, gamma, alpha, missed, most):
    """Return a move after an interval that missed, or did not; Gibbs & Candès 2021, eq. 2."""
    return max(min(move + gamma * (alpha - (1.0 if missed else 0.0)), most), LEAST)


@part
def two_sided(own, first, follows, alpha, most, found):
    """Write the two-sided level of each tracked interval [C].

    Args:
        own: moves of the horizon [C].
        first: of the shortest one [C].
        follows: whether they are of two horizons.
        alpha: α [C].
        most: α + moves at most [C].
        found: in (0, 1), not ascending [C]: no interval lies within one of a smaller nominal coverage.
    """
    least = 1.0
    for c in range(alpha.size):
        move = float(own[c])
        if follows:
            move += float(first[c])
        level = min(alpha[c] + move, most[c])
        deep = min(level, FLOOR)
        # max(level, floor) · exp((min(level, floor) - floor) / floor)
        least = min(least, (level - deep + FLOOR) * math.exp(deep / FLOOR - 1.0))
        found[c] = least


@part
def quantiles_of(row, shares, above, levels, tails, found):
    """Write quantiles at the levels `shares`, in (0, 0.5], or at 1 - `shares` above the median.

    Args:
        row: trained quantiles [Q].
        shares: the levels [W].
        above: which of them are counted from above [W].
        levels: trained ones, ascending [Q].
        tails: lengths of the two, in differences of the two outermost quantiles [2].
        found: [W].
    """
    last = levels.size - 1
    for w in range(shares.size):
        if last == 0:  # nothing is known but the median
            found[w] = row[0]
            continue
        edge = 1.0 - levels[last] if above[w] else levels[0]
        inner = max(shares[w], edge)
        level = 1.0 - inner if above[w] else inner
        left = 0
        while left < last - 1 and levels[left + 1] < level:
            left += 1
        gap = row[left + 1] - row[left]
        found[w] = row[left] + gap * ((level - levels[left]) / (levels[left + 1] - levels[left]))
        if shares[w] < edge:
            length = tails[1] * (row[last - 1] - row[last]) if above[w] else tails[0] * (row[1] - row[0])
            found[w] += length * math.log(shares[w] / edge)


@entry
def two_sided_levels(moves, alpha, most, found):
    """Write the two-sided levels that moves [P, C] mean, [P, C]; see `two_sided`."""
    for p in range(len(moves)):
        two_sided(moves[p], moves[p], False, alpha, most, found[p])


@entry
def quantiles_at(rows, shares, above, levels, tails, found):
    """Write the quantiles [P, W] of rows [P, Q] at the levels [P, W], some above the median [W]; see `quantiles_of`."""
    for p in range(len(rows)):
        quantiles_of(rows[p], shares[p], above, levels, tails, found[p])
