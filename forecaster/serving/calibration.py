"""Calibration that follows the data: past forecasts are scored as actual values arrive, and intervals corrected.

All of it is a part of a series' state: the forecast that each horizon waits to score (one at a time: O(1)), live
scores, and the moves of adaptive conformal inference. Its tensors stand beside the model's own, are all zeros for a
fresh series, are snapshotted, evicted and replayed with them, and belong to the model version: a new version starts
afresh, and a return to the old one finds its own again.

The functions take tensors and return the changed ones; nothing is hidden here. What is issued comes back as a record,
`Issued`, that is journaled before the next observations; `replay` of the records gives the same bits as what happened.

Arrays are NumPy's: of one series, a call takes tens of microseconds. Knows nothing of slots, journals or requests.

Shapes: N series, K horizons that are scored, C tracked coverages, D steps ahead, Q trained levels, W wanted ones,
R rows of a record, P pairs of series and horizon.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from forecaster.config import ModelConfig
from forecaster.model.conformal import AdaptiveLevels, Float64, QuantileFunction, tracked_coverages
from forecaster.model.normalizer import statistics
from forecaster.model.ragged import Runs
from forecaster.model.state import State, TensorSpec
from forecaster.serving.issued import Issued
from forecaster.serving.live_scores import Report, with_score
from forecaster.serving.records import IntArray

NEVER = 2**62  # the position of a target that there is not
_RATES = (0.2, 0.1)  # of the shortest horizon, which all follow, and of the others
_SHOWN_COVERAGE = 0.8
_LARGEST = 1e30  # of a bound in units; it is kept in float32
_STEP_BITS = 40  # of a key of run and step
_PENDING = ("calibration_target", "calibration_frame", "calibration_bounds")

Arrays = dict[str, npt.NDArray[Any]]
Lookup = Callable[[IntArray, IntArray], Float64]


def scored_horizons(horizon: int) -> tuple[int, ...]:
    """Return the horizons whose forecasts are scored: 1, a quarter, a half and the whole of the model's."""
    return tuple(sorted({1, -(-horizon // 4), -(-horizon // 2), horizon}))


class Calibration:
    """The calibration of one model version.

    Args:
        config: the model's, resolved.
        step_us: its grid's time step, microseconds.
        fingerprint: of its weights and configuration.
        rates: of adaptive conformal inference, for the shortest horizon and for the others; γ = rate · α.
    """

    def __init__(
        self, config: ModelConfig, step_us: int, fingerprint: str, *, rates: tuple[float, float] = _RATES
    ) -> None:
        self._step_us, self._fingerprint = step_us, fingerprint
        self.horizons = scored_horizons(config.horizon)
        self.coverages = tracked_coverages(config.quantile_levels)
        self._distribution = QuantileFunction(config.quantile_levels)
        k, c = len(self.horizons), len(self.coverages)
        self._levels = AdaptiveLevels(self.coverages, [rates[0]] + [rates[1]] * (k - 1))
        self._steps = np.array(self.horizons, dtype=np.int64)
        self._change = 1 if config.season_lengths else 0  # over the shortest season, or over one step
        # Of the interval whose raw bounds are scored too, its position among the tracked ones.
        self._shown = int(np.argmin(np.abs(np.array(self.coverages) - _SHOWN_COVERAGE))) if c else 0
        # Bounds in units around the median: the lower of each corrected interval, the upper ones, the two raw ones.
        self._bounds = 2 * c + (2 if c else 0)
        self.spec = [
            TensorSpec("calibration_target", (k,), torch.int32),  # position of the step waited for, 0 if none
            TensorSpec("calibration_frame", (k, 2), torch.float64),  # the median and the unit
            TensorSpec("calibration_bounds", (k, self._bounds), torch.float32),
            TensorSpec("calibration_alpha", (k, c), torch.float32),  # moves, see `AdaptiveLevels`
            TensorSpec("calibration_count", (k,), torch.int32),  # forecasts scored
            TensorSpec("calibration_scores", (k, 4), torch.float32),  # see `with_score`
        ]
        self.names = tuple(one.name for one in self.spec)

    def next_target(self, part: State) -> IntArray:
        """Return the position of the next step that some forecast waits for, `NEVER` if none does, int64 [N].

        Kept beside the states, it says at no cost whether `score` has anything to do: if position + steps reaches it.
        """
        target = part["calibration_target"].cpu().numpy().astype(np.int64)
        return np.where(target > 0, target, NEVER).min(axis=1)  # type: ignore[no-any-return]

    def score(self, part: State, position: IntArray, runs: Runs) -> State:
        """Score what waits for a step of the runs.

        Args:
            part: the calibration tensors of N series; those that start afresh with their run are zeros.
            position: steps that they had seen before it, int64 [N].
            runs: one of each series, their rows by ascending run and step.

        Returns:
            The tensors that change, none if nothing was waited for. A missing value is not scored, and no longer
            waited for.
        """
        return self._score(part, position, runs.lengths.numpy(), _lookup(runs))

    def score_step(self, part: State, position: IntArray, values: Float64) -> State:
        """Score what waits for the one next step of each series, whose values are float64 [N]; see `score`."""
        return self._score(part, position, np.ones_like(position), lambda series, step: values[series])

    def issue(
        self,
        part: State,
        quantiles: Float64,
        position: IntArray,
        origin_us: IntArray,
        series_ids: Sequence[str],
        shown: IntArray | None = None,
    ) -> tuple[State, Issued | None]:
        """Remember forecasts that were given, at those horizons that wait for none.

        Args:
            part: the calibration tensors of N series and their `normalizer`.
            quantiles: as the model made them, from the present state and without assumptions, float64 [N, D, Q].
            position: steps that the series have seen, int64 [N].
            origin_us: the time of the last one, int64 [N].
            series_ids: N of them.
            shown: steps of each forecast that were shown, of a series that may end before, int64 [N]; left out, D.

        Returns:
            The tensors that change, and the record to journal before anything else of these series; none of both if
            every horizon waits already.
        """
        given = quantiles.shape[1] if shown is None else shown[:, None]
        free = (part["calibration_target"].cpu().numpy() == 0) & (self._steps <= given)
        series, which = np.nonzero(free)
        rows = quantiles[series, self._steps[which] - 1]
        known = np.isfinite(rows).all(axis=1)
        if not known.all():
            series, which, rows = series[known], which[known], rows[known]
        if not len(series):
            return {}, None
        used, at = np.unique(series, return_inverse=True)
        changes = statistics(part["normalizer"][torch.from_numpy(used)]).changes[:, self._change].cpu().numpy()
        median, unit = rows[:, self._distribution.median_index], changes[at]
        alpha = part["calibration_alpha"].cpu().numpy()[used]
        bounds = self._interval_bounds(rows, self._levels.shares(alpha)[at, which])
        issued = Issued(
            self._fingerprint,
            tuple(series_ids[i] for i in used.tolist()),
            at.astype(np.int32),
            which.astype(np.uint8),
            origin_us[series],
            np.stack([median, unit], axis=1),
            _in_units(bounds, median, unit),
        )
        new = _copied(part, _PENDING)
        self._set(new, series, which, position[series], issued, np.arange(len(series)))
        return _state(new), issued

    def replay(self, part: State, position: IntArray, runs: Runs, issued: Issued, run_of: IntArray) -> State:
        """Do what `issue` and `score` did while the runs were observed.

        Args:
            part: see `score`; a run may be of no steps, if nothing came behind what was issued.
            position: see `score`.
            runs: see `score`.
            issued: what was issued just before some step of the runs or behind the last one, in order. Rows of another
                time count for nothing: their series has started afresh since.
            run_of: for each of `issued`'s series its run, -1 if it has none, int64 [S].

        Returns:
            The tensors that change, to the bit as they became.
        """
        assert issued.fingerprint == self._fingerprint
        if not len(position):
            return {}
        series, which = run_of[issued.series], issued.horizons.astype(np.int64)
        done = (issued.origin_us - runs.start_us.numpy()[series]) // self._step_us + 1  # steps of the run before it
        there = (series >= 0) & (done >= 0) & (done <= runs.lengths.numpy()[series])
        rows = np.flatnonzero(there & (position[series] + done > 0))
        new, lookup = _copied(part, self.names), _lookup(runs)
        for turn in _turns(series[rows] * len(self.horizons) + which[rows]):
            now = rows[turn]
            at = position[series[now]] + done[now]
            due = new["calibration_target"][series[now], which[now]]
            scored = np.flatnonzero((due > 0) & (due <= at))
            self._settle(new, series[now[scored]], which[now[scored]], position, lookup)
            self._set(new, series[now], which[now], at, issued, now)
        due = new["calibration_target"]
        left, waited = np.nonzero((due > 0) & (due <= (position + runs.lengths.numpy())[:, None]))
        self._settle(new, left, waited, position, lookup)
        return _state(new)

    def corrected(self, part: State, quantiles: Float64, levels: Sequence[float]) -> Float64:
        """Return quantiles that hold what their levels say, as the past scores have it.

        Args:
            part: the calibration tensors of N series.
            quantiles: as the model made them, float64 [N, D, Q].
            levels: W ascending probabilities.

        Returns:
            float64 [N, D, W]. They never cross, the median is the model's own. Between the scored horizons and between
            the tracked coverages the correction is interpolated.
        """
        steps = np.arange(1, quantiles.shape[1] + 1)
        by_horizon = np.stack([np.interp(steps, self._steps, one) for one in np.eye(len(self._steps))], axis=1)
        tracked = self._levels.shares(part["calibration_alpha"].cpu().numpy())
        weights, constant = self._levels.mixture(levels)
        shares = (by_horizon @ (tracked @ weights) + constant) / 2.0
        return self._distribution.at(quantiles, shares, levels)

    def report(self, part: State) -> Report:
        """Return the live scores of N series."""
        count, sums = (part[name].cpu().numpy() for name in ("calibration_count", "calibration_scores"))
        nominal = self.coverages[self._shown] if self.coverages else float("nan")
        return Report.of_sums(self.horizons, nominal, count, sums)

    def _score(self, part: State, position: IntArray, lengths: IntArray, lookup: Lookup) -> State:
        target = part["calibration_target"].cpu().numpy()
        series, which = np.nonzero((target > 0) & (target <= (position + lengths)[:, None]))
        if not len(series):
            return {}
        new = _copied(part, self.names)
        self._settle(new, series, which, position, lookup)
        return _state(new)

    def _settle(self, new: Arrays, series: IntArray, which: IntArray, position: IntArray, lookup: Lookup) -> None:
        """Score what P different pairs wait for, and wait no longer."""
        values = lookup(series, new["calibration_target"][series, which] - position[series] - 1)
        known = np.isfinite(values)
        if not known.all():
            self._clear(new, series[~known], which[~known])
            series, which, values = series[known], which[known], values[known]
        median, unit = new["calibration_frame"][series, which].T
        error = _in_units(values[:, None], median, unit)
        c, bounds = len(self.coverages), new["calibration_bounds"][series, which]
        missed = (error < bounds[:, :c]) | (error > bounds[:, c : 2 * c])
        moves = new["calibration_alpha"][series, which]
        new["calibration_alpha"][series, which] = self._levels.moved(moves, which, missed)
        inside = np.zeros((len(series), 2), dtype=bool)
        if c:
            inside[:, 0] = ((error >= bounds[:, -2:-1]) & (error <= bounds[:, -1:]))[:, 0]
            inside[:, 1] = ~missed[:, self._shown]
        sums = new["calibration_scores"]
        sums[series, which] = with_score(sums[series, which], error[:, 0], inside)
        new["calibration_count"][series, which] += 1
        self._clear(new, series, which)

    def _clear(self, new: Arrays, series: IntArray, which: IntArray) -> None:
        for name in _PENDING:
            new[name][series, which] = 0

    def _set(
        self, new: Arrays, series: IntArray, which: IntArray, position: IntArray, issued: Issued, rows: IntArray
    ) -> None:
        """Let P different pairs wait for what rows of a record say, issued at their positions."""
        new["calibration_target"][series, which] = position + self._steps[which]
        new["calibration_frame"][series, which] = issued.frame[rows]
        new["calibration_bounds"][series, which] = issued.bounds[rows]

    def _interval_bounds(self, quantiles: Float64, shares: Float64) -> Float64:
        """Return the bounds that are kept, in the series' own units, [P, …], of quantiles [P, Q] and levels [P, C]."""
        if not self.coverages:
            return np.zeros((len(quantiles), 0))
        raw = np.full((len(shares), 1), self._levels.alpha[self._shown])
        halves = np.concatenate([shares, raw], axis=1) / 2.0
        lower, upper = self._distribution.lower(quantiles, halves), self._distribution.upper(quantiles, halves)
        return np.concatenate([lower[:, :-1], upper[:, :-1], lower[:, -1:], upper[:, -1:]], axis=1)


def _in_units(values: Float64, median: Float64, unit: Float64) -> npt.NDArray[np.float32]:
    """Return values [P, …] around the median; a value that equals a bound is rounded as it is, and so lies inside."""
    with np.errstate(over="ignore"):
        return ((values - median[:, None]) / unit[:, None]).clip(-_LARGEST, _LARGEST).astype(np.float32)


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


def _turns(keys: IntArray) -> Iterator[IntArray]:
    """Yield the positions of the first of every key, then of every second one, and so on."""
    order = np.argsort(keys, kind="stable")
    first = np.flatnonzero(np.diff(keys[order], prepend=-1))
    rank = np.arange(len(order)) - np.repeat(first, np.diff(np.append(first, len(order))))
    by_rank = np.argsort(rank, kind="stable")
    yield from np.split(order[by_rank], np.flatnonzero(np.diff(rank[by_rank])) + 1) if len(order) else ()


def _copied(part: State, names: Sequence[str]) -> Arrays:
    return {name: part[name].cpu().numpy().copy() for name in names}


def _state(arrays: Arrays) -> State:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}
