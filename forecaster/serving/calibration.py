"""Calibration that follows the data: past forecasts are scored as actual values arrive, and intervals corrected.

All of it is a part of a series' state: the forecast that each horizon waits to score (one at a time: O(1)), live
scores, and the moves of adaptive conformal inference. Its tensors stand beside the model's own, are all zeros for a
fresh series, are snapshotted, evicted and replayed with them, and belong to the model version: a new version starts
afresh, and a return to the old one finds its own again.

Nothing is hidden here: the functions take the tensors of all series and the slots at hand, and change those in place.
What is issued comes back as a record, `Issued`, that is journaled before the next observations; `replay` of the records
gives the same bits as what happened.

Arrays are NumPy's, on the CPU: of one series, a call takes tens of microseconds. Knows nothing of journals or requests.

Shapes: S slots, N series, K horizons that are scored, C tracked coverages, D steps ahead, Q trained levels, W wanted
ones, R rows of a record, P pairs of series and horizon.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from forecaster.config import ModelConfig
from forecaster.model.conformal import AdaptiveLevels, Float64, QuantileFunction, tracked_coverages
from forecaster.model.normalizer import mean_change
from forecaster.model.ragged import Runs
from forecaster.model.state import State, TensorSpec
from forecaster.serving.issued import Issued, distinct, in_turns
from forecaster.serving.live_scores import Report, add_score
from forecaster.serving.records import IntArray

NEVER = 2**62  # the position of a target that there is not
_RATES = (0.2, 0.1)  # of the shortest horizon, which all follow, and of the others
_SHOWN_COVERAGE = 0.8
_LARGEST = np.array(1e30)  # of a bound in units; it is kept in float32
_ZERO = np.array(0.0)
_STEP_BITS = 40  # of a key of run and step
_WAITING, _LEARNT = "calibration_waiting", "calibration_learnt"

Lookup = Callable[[IntArray, IntArray], Float64]


def scored_horizons(horizon: int) -> tuple[int, ...]:
    """Return the horizons whose forecasts are scored: 1, a quarter, a half and the whole of the model's."""
    return tuple(sorted({1, -(-horizon // 4), -(-horizon // 2), horizon}))


class Calibration:
    """The calibration of one model version.

    Each of the K horizons has a row in two tensors. In `calibration_waiting` (float64): the position of the step that
    is waited for, 0 if none, the median and the unit of errors. In `calibration_learnt` (float32): the bounds that
    wait, in units around the median (lower and upper ones of the corrected intervals, both of the raw one), the moves
    of `AdaptiveLevels`, and the sums of `live_scores`.

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
        self._steps = np.array(self.horizons, dtype=np.int64)
        self._lag = 1 if config.season_lengths else 0  # of the change that is the unit: the shortest season, or a step
        self._distribution = QuantileFunction(config.quantile_levels)
        self._levels = AdaptiveLevels(self.coverages, [rates[0]] + [rates[1]] * (k - 1))
        # Of the interval whose raw bounds are scored too, its position among the tracked ones.
        self._shown = int(np.argmin(np.abs(np.array(self.coverages) - _SHOWN_COVERAGE))) if c else 0
        raw = 1 if c else 0
        self._sides = self._distribution.sides([False] * c + [True] * c + [False, True] * raw)
        self._bounds = 2 * c + 2 * raw
        self._moves = slice(self._bounds, self._bounds + c)
        self._scores = slice(self._bounds + c, self._bounds + c + 5)
        self.spec = [
            TensorSpec(_WAITING, (k, 3), torch.float64),
            TensorSpec(_LEARNT, (k, self._scores.stop), torch.float32),
        ]

    def next_target(self, tensors: State, slots: IntArray) -> IntArray:
        """Return the position of the next step that some forecast waits for, `NEVER` if none does, int64 [N].

        Kept beside the states, it says at no cost whether `score` has anything to do: if position + steps reaches it.
        """
        target = tensors[_WAITING].numpy()[slots, :, 0]
        return np.where(target > 0, target, NEVER).min(axis=1).astype(np.int64)  # type: ignore[no-any-return]

    def score(self, tensors: State, slots: IntArray, position: IntArray, runs: Runs) -> None:
        """Score what waits for a step of the runs. A missing value is not scored, and no longer waited for.

        Args:
            tensors: the calibration's, [S, …].
            slots: of N different series, int64 [N]; of those that start afresh with their run, they hold zeros.
            position: steps that these had seen before it, int64 [N].
            runs: one of each series, their rows by ascending run and step.
        """
        self._score(tensors, slots, position, runs.lengths.numpy(), _lookup(runs))

    def score_step(self, tensors: State, slots: IntArray, position: IntArray, values: Float64) -> None:
        """Score what waits for the one next step of each series, whose values are float64 [N]; see `score`."""
        self._score(tensors, slots, position, 1, lambda series, step: values[series])

    def issue(
        self,
        tensors: State,
        slots: IntArray,
        quantiles: Float64,
        origins: tuple[IntArray, IntArray],
        series_ids: Sequence[str],
        shown: IntArray | None = None,
    ) -> Issued | None:
        """Remember forecasts that were given, at those horizons that wait for none.

        Args:
            tensors: the calibration's and the `normalizer`, [S, …].
            slots: of N different series, int64 [N].
            quantiles: as the model made them, from the present state and without assumptions, float64 [N, D, Q].
            origins: steps that the series have seen, and the time of the last one, int64 [N] each.
            series_ids: N of them.
            shown: steps of each forecast that were shown, of a series that may end before, int64 [N]; left out, D.

        Returns:
            The record to journal before anything else of these series, None if every horizon waits already.
        """
        waiting = tensors[_WAITING].numpy()
        given = quantiles.shape[1] if shown is None else shown[:, None]
        series, which = ((waiting[slots, :, 0] == _ZERO) & (self._steps <= given)).nonzero()
        rows = quantiles[series, self._steps[which] - 1]
        known = np.isfinite(rows).all(axis=1)
        if not known.all():
            series, which, rows = series[known], which[known], rows[known]
        if not len(series):
            return None
        at, learnt = slots[series], tensors[_LEARNT].numpy()
        frame = np.empty((len(series), 2))
        frame[:, 0] = rows[:, self._distribution.median_index]
        frame[:, 1] = mean_change(tensors["normalizer"].numpy()[at], self._lag)
        bounds = self._interval_bounds(rows, self._together(learnt[at, which], learnt[at, 0], which))
        used, row_series = distinct(series)
        issued = Issued(
            self._fingerprint,
            tuple([series_ids[i] for i in used]),
            row_series,
            which.astype(np.uint8),
            origins[1][series],
            frame,
            _in_units(bounds, frame),
        )
        self._set(tensors, (at, which), origins[0][series], issued, slice(None))
        return issued

    def replay(
        self, tensors: State, slots: IntArray, position: IntArray, runs: Runs, issued: Issued, run_of: IntArray
    ) -> None:
        """Do what `issue` and `score` did while the runs were observed, to the bit.

        Args:
            tensors: see `score`.
            slots: see `score`.
            position: see `score`.
            runs: see `score`; a run may be of no steps, if nothing came behind what was issued.
            issued: what was issued just before some step of the runs or behind the last one, in order. Rows of another
                time count for nothing: their series has started afresh since.
            run_of: for each of `issued`'s series its run, -1 if it has none, int64 [S].
        """
        assert issued.fingerprint == self._fingerprint
        if not len(slots):
            return
        lengths, lookup, target = runs.lengths.numpy(), _lookup(runs), tensors[_WAITING].numpy()[:, :, 0]
        series, which = run_of[issued.series], issued.horizons.astype(np.int64)
        done = (issued.origin_us - runs.start_us.numpy()[series]) // self.step_us + 1  # steps of the run before it
        rows = np.flatnonzero((series >= 0) & (done >= 0) & (done <= lengths[series]) & (position[series] + done > 0))
        for turn in in_turns(series[rows] * len(self.horizons) + which[rows]):
            now = rows[turn]
            run, horizon, at = series[now], which[now], position[series[now]] + done[now]
            due = target[slots[run], horizon]
            past = (due > 0) & (due <= at)
            self._settle(tensors, slots, (run[past], horizon[past]), position, lookup)
            self._set(tensors, (slots[run], horizon), at, issued, now)
        self._score(tensors, slots, position, lengths, lookup)

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
        steps = np.arange(1, ahead + 1)
        by_horizon = np.stack([np.interp(steps, self._steps, one) for one in np.eye(len(self._steps))], axis=1)
        learnt = tensors[_LEARNT].numpy()[slots]
        tracked = self._together(learnt, learnt[:, :1], np.arange(len(self.horizons)))
        weights, constant = self._levels.mixture(levels)
        shares = (by_horizon @ (tracked @ weights) + constant) / 2.0
        flat = quantiles.reshape(n * ahead, trained), shares.reshape(n * ahead, len(levels))
        return self._distribution.uncrossed(*flat, levels).reshape(n, ahead, len(levels))

    def report(self, tensors: State, slots: IntArray | slice) -> Report:
        """Return the live scores of N series."""
        nominal = self.coverages[self._shown] if self.coverages else float("nan")
        return Report.of_sums(self.horizons, nominal, tensors[_LEARNT].numpy()[slots][..., self._scores])

    def _score(
        self, tensors: State, slots: IntArray, position: IntArray, lengths: IntArray | int, lookup: Lookup
    ) -> None:
        target = tensors[_WAITING].numpy()[slots, :, 0]
        reached = (position + lengths).astype(np.float64)[:, None]
        pairs = ((target <= reached) & (target > _ZERO)).nonzero()
        self._settle(tensors, slots, (pairs[0], pairs[1]), position, lookup)

    def _settle(
        self, tensors: State, slots: IntArray, pairs: tuple[IntArray, IntArray], position: IntArray, lookup: Lookup
    ) -> None:
        """Score what P different pairs wait for, and wait no longer."""
        series, which = pairs
        if not len(series):
            return
        at = slots[series], which
        waiting, learnt = tensors[_WAITING].numpy(), tensors[_LEARNT].numpy()
        waited = waiting[at]
        values = lookup(series, waited[:, 0].astype(np.int64) - position[series] - 1)
        new = learnt[at]
        self._learn(new, _in_units(values[:, None], waited[:, 1:]), which)
        missing = np.isnan(values)
        if missing.any():
            new[missing] = learnt[at][missing]
        new[:, : self._bounds] = 0.0
        waiting[at], learnt[at] = 0.0, new

    def _learn(self, new: npt.NDArray[np.float32], error: npt.NDArray[np.float32], which: IntArray) -> None:
        """Learn from errors [P, 1] of values that came: what rows [P, …] of `calibration_learnt` become."""
        c, value = len(self.coverages), error[:, 0]
        missed = (error < new[:, :c]) | (error > new[:, c : 2 * c])
        new[:, self._moves] = self._levels.moved(new[:, self._moves], which, missed)
        raw = np.ones(len(new), dtype=bool)
        if c:
            raw = (value < new[:, 2 * c]) | (value > new[:, 2 * c + 1])
        add_score(new[:, self._scores], value, raw, missed[:, self._shown] if c else raw)

    def _set(
        self, tensors: State, at: tuple[IntArray, IntArray], position: IntArray, issued: Issued, rows: IntArray | slice
    ) -> None:
        """Let P different pairs wait for what rows of a record say, issued at their positions."""
        waiting = np.empty((len(position), 3))
        waiting[:, 0], waiting[:, 1:] = position + self._steps[at[1]], issued.frame[rows]
        tensors[_WAITING].numpy()[at] = waiting
        tensors[_LEARNT].numpy()[..., : self._bounds][at] = issued.bounds[rows]

    def _together(self, own: npt.NDArray[np.float32], first: npt.NDArray[np.float32], which: IntArray) -> Float64:
        """Return the levels of the tracked intervals, [..., C], of rows of horizons and of their shortest ones."""
        moves = own[..., self._moves].astype(np.float64)
        return self._levels.shares(moves + first[..., self._moves] * (which > 0)[..., None])

    def _interval_bounds(self, quantiles: Float64, shares: Float64) -> Float64:
        """Return the bounds that are kept, in the series' own units, [P, …], of quantiles [P, Q] and levels [P, C]."""
        halves, c = np.empty((len(quantiles), self._bounds)), len(self.coverages)
        if c:
            halves[:, :c] = halves[:, c : 2 * c] = shares / 2.0
            halves[:, 2 * c :] = self._levels.alpha[self._shown] / 2.0
        return self._distribution.at(quantiles, halves, self._sides)


def _in_units(values: Float64, frame: Float64) -> npt.NDArray[np.float32]:
    """Return values [P, …] around the median; a value that equals a bound is rounded as it is, and so lies inside."""
    with np.errstate(over="ignore"):
        units = (values - frame[:, :1]) / frame[:, 1:]
    found: npt.NDArray[np.float32] = np.minimum(np.maximum(units, -_LARGEST), _LARGEST).astype(np.float32)
    return found


def _lookup(runs: Runs) -> Lookup:
    """Return how the values of series at steps of their runs are found, NaN where there is none."""

    def values(series: IntArray, step: IntArray) -> Float64:
        if not len(series) or not len(runs.values):
            return np.full(len(series), np.nan)
        keys = (runs.row_run.numpy() << _STEP_BITS) + runs.row_step.numpy()
        wanted = (series << _STEP_BITS) + step
        at = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
        return np.where(keys[at] == wanted, runs.values.numpy()[at], np.nan)

    return values
