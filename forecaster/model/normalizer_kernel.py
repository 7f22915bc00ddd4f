"""What the normaliser's sums of one series mean, as machine code; see `normalizer`.

Shapes: W sums, S seasonal lags.
"""

from forecaster.model.compiling import part
from forecaster.model.normalizer import CHANGE_FLOOR, RELATIVE_FLOOR


@part
def statistics(sums, changes):
    """Return level and scale that sums [W] mean, and write the changes [S + 1]; see `normalizer.statistics`."""
    level = sums[1] / sums[0] if sums[0] > 0 else 0.0
    scale = sums[3] / sums[2] if sums[2] > 0 else 0.0
    if not scale > abs(level) * RELATIVE_FLOOR:
        scale = abs(level) if level != 0 else 1.0
    for c in range(changes.size):
        weight = sums[5 + c]
        change = sums[5 + changes.size + c] / weight if weight > 0 else scale
        changes[c] = max(change, scale * CHANGE_FLOOR)
    return level, scale
