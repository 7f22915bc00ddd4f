"""What forecasts are asked for: from the API's messages to the engine's work, checked whole.

Shapes: N series, D horizon steps, L steps of a future, F known-future covariates.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from forecaster.model.bundle import Bundle
from forecaster.model.covariates import CovariateSpec
from forecaster.serving.api.messages import Violations, check_series_ids, covariate_columns, time_us
from forecaster.serving.intake.message_limits import MAX_LEVELS
from forecaster.serving.lanes.paths import unsupported
from forecaster.serving.work.forecasting import ForecastWork, Futures, Sampling, Search
from forecaster.v1 import forecast_pb2

# Of one request: series × steps × (quantiles + 1 + paths, or beams at a step, + known-future covariates + the paths
# that the quantiles of a recurrent decoder are made of).
MAX_FORECAST_VALUES = 4_194_304
MAX_PATHS = 1000
MAX_LENGTH_POWER = 10.0


@dataclass(frozen=True, slots=True)
class AnswerPlan:
    """Options that were checked, without the futures, which belong to series.

    Args:
        horizon: steps ahead.
        levels: of the quantiles.
        drawing: which paths are wanted, if any.
        packed: whether the answer is to be columns.
        each: numbers that one series costs.
        calibrated: whether quantiles are to be corrected.
        hypothetical: whether what is said of the time ahead is an assumption.
        awaits_corrections: whether states have to know all late and corrected values.
    """

    horizon: int
    levels: tuple[float, ...]
    drawing: Sampling | Search | None
    packed: bool
    each: int
    calibrated: bool = False
    hypothetical: bool = False
    awaits_corrections: bool = False

    def work(self, series_ids: tuple[str, ...]) -> ForecastWork:
        """Return what to forecast of series whose ids are known to be right and to differ.

        Raises InvalidArgumentError if they are none or too many.
        """
        violations = Violations()
        self.check_size(len(series_ids), violations)
        violations.raise_if_any()
        work = ForecastWork(series_ids, self.horizon, self.levels, (), self.drawing, self.calibrated)
        return dataclasses.replace(work, awaits_corrections=True) if self.awaits_corrections else work

    def check_size(self, series: int, violations: Violations) -> None:
        """Note what is wrong with how many series there are."""
        if series == 0:
            violations.add("series_ids", "name at least one series")
        if series * self.each > MAX_FORECAST_VALUES:
            shown = f"{series * self.each} values in one answer, {MAX_FORECAST_VALUES} are allowed"
            violations.add("series_ids", f"{shown}: split it")


def forecast_plan(options: forecast_pb2.ForecastOptions, bundle: Bundle) -> AnswerPlan:
    """Return the plan for options; raises what `forecast_work` does."""
    violations = Violations()
    plan = _plan(options, bundle, violations)
    violations.raise_if_any()
    _check_supported(plan.drawing, bundle)
    return plan


def forecast_work(
    series_ids: Sequence[str],
    options: forecast_pb2.ForecastOptions,
    bundle: Bundle,
    spec: CovariateSpec | None = None,
) -> ForecastWork:
    """Return what to forecast; `spec` has the covariates that may be given, left out, the model's.

    Raises InvalidArgumentError naming the wrong fields, and UnsupportedError for what needs another model.
    """
    violations = Violations()
    ids = tuple(series_ids[:])
    check_series_ids(ids, "series_ids", violations)
    plan = _plan(options, bundle, violations)
    plan.check_size(len(ids), violations)
    violations.raise_if_any()
    futures = tuple(_futures(options, ids, plan.horizon, spec or bundle.model.covariates))
    _check_supported(plan.drawing, bundle)
    options_of = (plan.drawing, plan.calibrated, plan.hypothetical, plan.awaits_corrections)
    return ForecastWork(ids, plan.horizon, plan.levels, futures, *options_of)


def _plan(options: forecast_pb2.ForecastOptions, bundle: Bundle, violations: Violations) -> AnswerPlan:
    config = bundle.model.config
    horizon = options.horizon or config.horizon
    if horizon > config.horizon:
        violations.add("options.horizon", f"{horizon} is beyond the model's horizon, 1 to {config.horizon} steps")
    levels = _levels(options, config.quantile_levels, violations)
    drawing = _drawing(options, violations)
    if drawing is not None and options.packed:
        violations.add("options.packed", "paths and beams do not come in columns: ask for them without it")
    drawn = 0 if drawing is None else drawing.width if isinstance(drawing, Search) else drawing.paths
    own = config.sample_paths if config.decoder == "recurrent" else 0  # its quantiles are those of so many paths
    known = len(bundle.model.covariates.future) if options.future_covariates else 0
    each = horizon * (1 + len(levels) + drawn + own + known)
    if options.hypothetical and not options.future_covariates:
        violations.add("options.hypothetical", "nothing is assumed without options.future_covariates: leave it out")
    flags = (options.calibrated, options.hypothetical, options.await_corrections)
    return AnswerPlan(horizon, levels, drawing, options.packed, each, *flags)


def _levels(
    options: forecast_pb2.ForecastOptions, trained: Sequence[float], violations: Violations
) -> tuple[float, ...]:
    levels = tuple(options.quantile_levels) or tuple(trained)
    if len(levels) > MAX_LEVELS:
        violations.add("options.quantile_levels", f"{len(levels)} levels, {MAX_LEVELS} are allowed: split it")
    elif not all(trained[0] <= level <= trained[-1] for level in levels):
        allowed = f"{trained[0]} to {trained[-1]}"
        violations.add("options.quantile_levels", f"{list(levels)} leaves the trained range, {allowed}")
    elif any(b <= a for a, b in itertools.pairwise(levels)):
        violations.add("options.quantile_levels", f"{list(levels)} does not ascend")
    return levels


def _drawing(options: forecast_pb2.ForecastOptions, violations: Violations) -> Sampling | Search | None:
    for name in ("paths", "beams", "beam_width"):
        if getattr(options, name) > MAX_PATHS:
            violations.add(f"options.{name}", f"{getattr(options, name)} is not 0 to {MAX_PATHS}")
    if options.paths and options.beams:
        violations.add("options.beams", "ask for paths or for beams, not for both")
    if not 0 <= options.length_power <= MAX_LENGTH_POWER:
        violations.add("options.length_power", f"{options.length_power} is not 0 to {MAX_LENGTH_POWER:g}")
    if options.paths:
        return Sampling(options.paths, options.seed)
    if not options.beams:
        return None
    width = options.beam_width or min(4 * options.beams, MAX_PATHS)
    if width < options.beams:
        violations.add("options.beam_width", f"{width} is less than the {options.beams} beams asked for")
    return Search(options.beams, width, options.length_power)


def _check_supported(drawing: Sampling | Search | None, bundle: Bundle) -> None:
    """Raise what the model would, before anything of the request is applied."""
    if (error := unsupported(drawing, bundle.model)) is not None:
        raise error


def _futures(
    options: forecast_pb2.ForecastOptions, ids: Sequence[str], horizon: int, spec: CovariateSpec
) -> Iterator[Futures]:
    """Yield what is known of the steps ahead: of all series first, then of each one's own."""
    violations = Violations()
    known = [covariate.name for covariate in spec.future]
    position = {series_id: i for i, series_id in enumerate(ids)} | {"": -1}
    rows: list[tuple[int, bool, int, np.ndarray]] = []
    for k, message in enumerate(options.future_covariates):
        where = f"options.future_covariates[{k}]"
        if message.series_id not in position:
            violations.add(f"{where}.series_id", f"{message.series_id!r} is not among the series asked for, or twice")
        timed = message.HasField("first_time")
        first_us = time_us(message.first_time, f"{where}.first_time", violations) if timed else 0
        names, values = covariate_columns(message.covariates, known, "known-future covariate", where, violations)
        if values is not None and len(values) > horizon and not timed:
            violations.add(f"{where}.covariates", f"{len(values)} steps, and a horizon of {horizon}")
        if len(violations) == 0 and values is not None:
            ordered = np.full((len(values), len(known)), math.nan)
            ordered[:, [known.index(name) for name in names]] = values
            rows.append((position[message.series_id], timed, first_us, ordered))
        position.pop(message.series_id, None)
    common = [row for row in rows if row[0] < 0]
    own = [row for row in rows if row[0] >= 0]
    longest = max((len(values) for *_, values in own), default=0)
    if len(own) * longest * len(known) > MAX_FORECAST_VALUES:
        shown = f"{len(own)} series with up to {longest} steps of {len(known)} covariates"
        violations.add("options.future_covariates", f"{shown}, {MAX_FORECAST_VALUES} values are allowed: split it")
    violations.raise_if_any()
    for _, timed, first_us, values in common:
        n = len(ids)
        every = np.broadcast_to(values, (n, *values.shape))
        yield Futures(np.arange(n), np.full(n, timed), np.full(n, first_us), every, tuple(known))
    if own:
        stacked = np.full((len(own), longest, len(known)), math.nan)
        for k, (*_, values) in enumerate(own):
            stacked[k, : len(values)] = values
        series, timed_rows, first = (np.array([row[field] for row in own]) for field in range(3))
        yield Futures(series, timed_rows, first, stacked, tuple(known))
