"""Calibration that follows the data: past forecasts are scored as actual values arrive, and intervals corrected.

All of it is a part of a series' state: the forecast that each horizon waits to score (one at a time: O(1)), live
scores, and the moves of adaptive conformal inference. Its tensors stand beside the model's own, are all zeros for a
fresh series, are snapshotted, evicted and replayed with them, and belong to the model version: a new version starts
afresh, and a return to the old one finds its own again.

Nothing is hidden here: the functions take the tensors of all series and the slots at hand, and change those in place.
What is issued comes back as a record, `Issued`, that is journaled before the next observations; `replay` of the records
gives the same bits as what happened.

The arithmetic of a pair of series and horizon is `scoring_kernel`'s and `issue_kernel`'s, on the CPU. Knows nothing
of journals or requests.

Shapes: S slots, N series, K horizons that are scored, C tracked coverages, D steps ahead, Q trained levels, W wanted
ones, R rows of a record.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from forecaster.config import ModelConfig
from forecaster.model.conformal import AdaptiveLevels, Float64, QuantileFunction, tracked_coverages
from forecaster.model.inputs.inputs import seasonal_lags
from forecaster.model.state import State, StateSpec, TensorSpec, Views
from forecaster.model.stepping.ragged import Runs
from forecaster.serving.calibration import issue_kernel, scoring_kernel
from forecaster.serving.calibration.live_scores import LiveReport
from forecaster.serving.storage.issued import Issued
from forecaster.serving.storage.records import IntArray

NEVER = scoring_kernel.NEVER  # the position of a target that there is not
_RATES = (0.2, 0.1)  # of the shortest horizon, which all follow, and of the others
_SHOWN_COVERAGE = 0.8
_WAITING, _LEARNT = "calibration_waiting", "calibration_learnt"

Names = Callable[[IntArray], Sequence[str]]


def scored_horizons(horizon: int) -> tuple[int, ...]:
    """Return the horizons whose forecasts are scored: 1, a quarter, a half and the whole of the model's."""
    return tuple(sorted({1, -(-horizon // 4), -(-horizon // 2), horizon}))


class Calibration:
    """The calibration of one model version.

    Each of the K horizons has a row in two tensors. In `calibration_waiting` (float64): the position of the step that
    is waited for, the median and the unit of errors; if none is waited for, minus the position from which on the next
    forecast is taken, and zeros. In `calibration_learnt` (float32): the bounds that wait, in units around the median
    (lower and upper ones of the corrected intervals, both of the raw one), the moves of `AdaptiveLevels`, and the
    sums of `live_scores`.

    Args:
        config: the model's, resolved.
        step_us: its grid's time step, microseconds.
        fingerprint: of its weights and configuration.
        rates: of adaptive conformal inference, for the shortest horizon and for the others; γ = rate · α.
    """

    def __init__(
        self, config: ModelConfig, step_us: int, fingerprint: str, *, rates: tuple[float, float] = _RATES
    ) -> None:
        self.step_us, self._fingerprint = step_us, fingerprint
        self.horizons = scored_horizons(config.horizon)
        self.coverages = tracked_coverages(config.quantile_levels)
        k, c = len(self.horizons), len(self.coverages)
        changes = 1 + len(seasonal_lags(config.season_lengths or ()))
        lag = 1 if changes > 1 else 0  # of the change that is the unit: the shortest season, or a step
        self._distribution = QuantileFunction(config.quantile_levels)
        self._levels = AdaptiveLevels(self.coverages, [rates[0]] + [rates[1]] * (k - 1))
        # Of the interval whose raw bounds are scored too, its position among the tracked ones.
        self._shown = int(np.argmin(np.abs(np.array(self.coverages) - _SHOWN_COVERAGE))) if c else 0
        bounds = 2 * c + 2 if c else 0
        self._moves = slice(bounds, bounds + c)
        self._scores = slice(bounds + c, bounds + c + 5)
        # As the kernels take them: few arrays, since each costs a call a part of a microsecond.
        kept, trained = self._levels, self._distribution
        self._settling = (
            np.stack([kept.alpha, kept.most, kept.most_alpha, *kept.gamma]),
            np.array([self._shown, *self.horizons]),
        )
        issuing = [self._shown, trained.median_index, changes, lag, int(config.end_of_sequence), *self.horizons]
        self._issuing = np.array(issuing), self._settling[0], np.concatenate([trained.tails, trained.levels])
        self._states, self._normalizer = Views((_WAITING, _LEARNT)), Views(("normalizer",))
        self.spec = [
            TensorSpec(_WAITING, (k, 3), torch.float64),
            TensorSpec(_LEARNT, (k, self._scores.stop), torch.float32),
        ]

    def next_target(self, tensors: State, slots: IntArray) -> IntArray:
        """Return the position of the next step that some forecast waits for, `NEVER` if none does, int64 [N].

        Kept beside the states, it says at no cost whether there is anything to score: if position + steps reaches it.
        """
        found: IntArray = np.empty(len(slots), dtype=np.int64)
        scoring_kernel.next_targets(tensors[_WAITING].numpy(), slots, found)
        return found

    def score(self, tensors: State, targets: IntArray, slots: IntArray, position: IntArray, runs: Runs) -> None:
        """Score what waits for a step of the runs. A missing value is not scored, and no longer waited for.

        Args:
            tensors: the calibration's, [S, …].
            targets: the `next_target` of every slot, int64 [S], which follows.
            slots: of N different series, int64 [N]; of those that start afresh with their run, they hold zeros.
            position: steps that these had seen before it, int64 [N].
            runs: one of each series, their rows by ascending run and step.
        """
        scoring_kernel.score((*self._states.of(tensors), targets), slots, position, _arrays(runs), *self._settling)

    def score_step(
        self, tensors: State, targets: IntArray, slots: IntArray, position: IntArray, values: Float64
    ) -> None:
        """Score what waits for the one next step of each series, whose values are float64 [N]; see `score`."""
        scoring_kernel.score_step(
            (*self._states.of(tensors), targets), slots, position, _plain(values), *self._settling
        )

    def issue(
        self,
        tensors: State,
        targets: IntArray,
        slots: IntArray,
        forecasts: tuple[Float64, Float64],
        origins: tuple[IntArray, IntArray, IntArray],
        names: Names,
    ) -> Issued | None:
        """Remember forecasts that were given, at those horizons that wait for none and do not rest from the last one.

        Args:
            tensors: the calibration's and the `normalizer`, [S, …].
            targets: see `score`.
            slots: of N different series, int64 [N].
            forecasts: quantiles as the model made them from the present state, float64
                [N, D, Q], and the probability that a series has ended before a step, float64 [N, D]: where it is more
                than a half, nothing is shown, but for the first one.
            origins: steps that the series have seen, the time of the last one, and how many steps were asked for, D or
                fewer, int64 [N] each.
            names: the series' ids, by slots.

        Returns:
            The record to journal before anything else of these series, None if no horizon takes one.
        """
        used, *columns = issue_kernel.issue(
            (*self._states.of(tensors), targets),
            *self._normalizer.of(tensors),
            slots,
            (_plain(forecasts[0]), _plain(forecasts[1])),
            origins,
            *self._issuing,
        )
        if not len(used):
            return None
        return Issued(self._fingerprint, tuple(names(slots if len(used) == len(slots) else slots[used])), *columns)

    def replay(
        self,
        tensors: State,
        targets: IntArray,
        at: tuple[IntArray, IntArray],
        runs: Runs,
        issued: Issued,
        run_of: IntArray,
    ) -> None:
        """Do what `issue` and `score` did while the runs were observed, to the bit.

        Args:
            tensors: see `score`.
            targets: see `score`.
            at: slots and position, see `score`.
            runs: see `score`; a run may be of no steps, if nothing came behind what was issued.
            issued: what was issued just before some step of the runs or behind the last one, in order. Rows of another
                time count for nothing: their series has started afresh since.
            run_of: for each of `issued`'s series its run, -1 if it has none, int64 [S].
        """
        assert issued.fingerprint == self._fingerprint
        rest = (_plain(issued.origin_us), _plain(issued.frame), _plain(issued.bounds))
        scoring_kernel.replay(
            (*self._states.of(tensors), targets),
            *at,
            _arrays(runs),
            (run_of[issued.series], issued.horizons.astype(np.int64), *rest),
            self.step_us,
            *self._settling,
        )

    def corrected(self, tensors: State, slots: IntArray, quantiles: Float64, levels: Sequence[float]) -> Float64:
        """Return quantiles that hold what their levels say, as the past scores have it.

        Args:
            tensors: the calibration's, [S, …].
            slots: of N series, int64 [N].
            quantiles: as the model made them, float64 [N, D, Q].
            levels: W ascending probabilities.

        Returns:
            float64 [N, D, W]. They never cross, the median is the model's own. Between the scored horizons and between
            the tracked coverages the correction is interpolated.
        """
        n, ahead, trained = quantiles.shape
        by_horizon = _shares_of_horizons(self.horizons, ahead)
        learnt = tensors[_LEARNT].numpy()[slots]
        tracked = self._together(learnt, learnt[:, :1])
        weights, constant = self._levels.mixture(levels)
        shares = (by_horizon @ (tracked @ weights) + constant) / 2.0
        flat = quantiles.reshape(n * ahead, trained), shares.reshape(n * ahead, len(levels))
        return self._distribution.uncrossed(*flat, levels).reshape(n, ahead, len(levels))

    def move(self, tensors: State, slots: IntArray, steps: IntArray) -> None:
        """Let what waits be of the same times, though N series turn out to have seen more steps before, int64 [N]."""
        waiting = tensors[_WAITING].numpy()
        at = waiting[slots, :, 0]
        moved = np.where(at > 0, at + steps[:, None], np.minimum(at - np.where(at < 0, steps[:, None], 0), 0.0))
        waiting[slots, :, 0] = moved

    def report(self, tensors: State, slots: IntArray | slice) -> LiveReport:
        """Return the live scores of N series."""
        nominal = self.coverages[self._shown] if self.coverages else float("nan")
        return LiveReport.of_sums(self.horizons, nominal, tensors[_LEARNT].numpy()[slots][..., self._scores])

    def warm_up(self, normalizer: torch.Size) -> None:
        """Run the kernels once on a state of their own, whose normaliser is of this shape; see `Stepper.warm_up`."""
        tensors = StateSpec([*self.spec, TensorSpec("normalizer", normalizer, torch.float64)]).zeros(1)
        slots, position = np.zeros(1, np.int64), np.ones(1, np.int64)
        origins = (position, slots, np.full(1, self.horizons[-1]))
        targets = self.next_target(tensors, slots)
        levels = self._distribution.levels.tolist()
        quantiles = np.zeros((1, self.horizons[-1], len(levels)))
        forecasts = (quantiles, np.zeros((1, self.horizons[-1])))
        issued = self.issue(tensors, targets, slots, forecasts, origins, lambda _: ("",))
        assert issued is not None
        none = torch.zeros(0, dtype=torch.int64)
        runs = Runs(torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.int64), none, none, none.double())
        self.replay(tensors, targets, (slots, position), runs, issued, slots)
        self.score(tensors, targets, slots, position, runs)
        self.score_step(tensors, targets, slots, position, np.zeros(1))
        self.corrected(tensors, slots, quantiles, levels)

    def _together(self, own: npt.NDArray[np.float32], first: npt.NDArray[np.float32]) -> Float64:
        """Return the levels of the tracked intervals, [N, K, C], of rows [N, K, …] and of the shortest ones' rows."""
        moves = own[..., self._moves].astype(np.float64)
        moves[:, 1:] += first[..., self._moves]
        return self._levels.shares(moves)


@functools.lru_cache(maxsize=256)
def _shares_of_horizons(horizons: tuple[int, ...], ahead: int) -> Float64:
    """Return how much of each scored horizon the steps up to `ahead` have, [D, K]; not to be written to."""
    steps = np.arange(1, ahead + 1)
    return np.stack([np.interp(steps, horizons, one) for one in np.eye(len(horizons))], axis=1)


def _arrays(runs: Runs) -> tuple[npt.NDArray[Any], ...]:
    parts = (runs.start_us, runs.lengths, runs.row_run, runs.row_step, runs.values)
    return tuple(_plain(part.numpy()) for part in parts)


def _plain(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return an aligned array without gaps that may be written to: the kernels are compiled for nothing else."""
    return array if array.flags.carray else array.copy(order="C")
