"""A model's running statistics: plain or robust ones behind one interface.

Shapes: B series, T steps, M memory, W sums.
"""

from typing import NamedTuple

from torch import Tensor

from forecaster.model.inputs import normalizer, robust_normalizer
from forecaster.model.inputs.inputs import absolute_changes
from forecaster.model.inputs.memory import Extended
from forecaster.model.inputs.normalizer import Statistics


class Advanced(NamedTuple):
    """What statistics are after each step of a scan.

    Args:
        sums: float64 [B, T, W].
        statistics: what they mean.
        believed: whether a step's value was observed and counted, bool [B, T].
    """

    sums: Tensor
    statistics: Statistics
    believed: Tensor


class RunningStatistics:
    """The statistics of one model.

    Args:
        timescale: over how many steps they forget.
        lags: of the changes beside one step.
        memory: M.
        robust: whether a value has to be believed to count, see `robust_normalizer`.
    """

    def __init__(self, timescale: int, lags: tuple[int, ...], memory: int, *, robust: bool) -> None:
        self._timescale, self._lags, self._memory, self._robust = timescale, lags, memory, robust
        changes = 1 + len(lags)
        self.width = robust_normalizer.width(changes) if robust else normalizer.width(changes)

    def advance(self, carry: Tensor, extended: Extended) -> Advanced:
        """Return the statistics after each of the T steps behind the memory.

        Args:
            carry: the sums before the first one, float64 [B, W]; zeros for a fresh series.
            extended: [B, M + T].
        """
        if self._robust:
            found = robust_normalizer.normalize(carry, extended, self._lags, self._memory, self._timescale)
            return Advanced(*found)
        values, observed = extended.values[:, self._memory :], extended.observed[:, self._memory :]
        changes = absolute_changes(extended, self._lags, self._memory)
        return Advanced(*normalizer.normalize(carry, values, observed, changes, self._timescale), observed)

    def fade(self, sums: Tensor, steps: Tensor) -> Tensor:
        """Return the sums [B, W] after so many missing steps in a row, int64 [B]: `advance` over them, in closed form.

        What they mean is what it was: only the weights fade, against which later values count.
        """
        fade = robust_normalizer.fade if self._robust else normalizer.fade
        return fade(sums, steps, self._timescale)

    def of(self, sums: Tensor) -> Statistics:
        """Return what sums [..., W] mean."""
        return robust_normalizer.statistics(sums) if self._robust else normalizer.statistics(sums)
