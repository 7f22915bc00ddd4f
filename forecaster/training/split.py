"""What a training learns from and what chooses its best epoch: the series cut in two at one time.

Knows how many steps a model needs; knows nothing of Lightning, of batches or of losses.
"""

import datetime as dt
import hashlib
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forecaster.config import ModelConfig, TrainingConfig
from forecaster.data.grid import Grid
from forecaster.data.windows import Series, split_at
from forecaster.errors import DataError
from forecaster.evaluation.rolling import mase_units

_log = logging.getLogger(__name__)
_DEFAULT_HORIZONS = 14
_LARGEST_SHARE = 5  # by default the tail is at most this part of the longest series


@dataclass(frozen=True, slots=True)
class Split:
    """Series before and after the validation tail's first time.

    Args:
        training: the parts before it that the loss can use.
        units: MASE's denominator for each series id, of the parts before it; NaN for a constant series.
        validation: the tail with what warms the state up for it.
        validation_time_us: the tail's first time.
    """

    training: tuple[Series, ...]
    units: dict[str, float]
    validation: tuple[Series, ...]
    validation_time_us: int

    def digest(self) -> str:
        """Return a SHA-256 over everything that the training sees."""
        return digest_of((*self.training, *self.validation), str(self.validation_time_us))


def digest_of(series: Sequence[Series], also: str = "") -> str:
    """Return a SHA-256 over series and a text."""
    digest = hashlib.sha256(also.encode())
    for one_series in series:
        digest.update(f"\n{one_series.unique_id} {one_series.start_us} {one_series.step_us} ".encode())
        for array in (one_series.values, one_series.dynamic):
            digest.update(np.ascontiguousarray(array).tobytes())
        digest.update(f"{one_series.attributes} {one_series.ended}".encode())
    return digest.hexdigest()


def split(series: Sequence[Series], model: ModelConfig, training: TrainingConfig, *, warm_up_steps: int) -> Split:
    """Hold out the validation tail, or only say where it begins if it is to be learnt from too.

    Args:
        series: whole histories.
        model: resolved.
        training: says how long the tail is.
        warm_up_steps: of each series to keep before the tail.

    Raises:
        DataError: no series is long enough, none varies, or the tail holds nothing that could be scored.
    """
    if not series:
        raise DataError("there is no series to train on")
    needed = (model.min_history or 1) + model.horizon
    step_us = series[0].step_us
    cut_us = tail_start(series, model.horizon, training)
    before, _ = split_at(series, cut_us)
    _require_length(series, before, needed, cut_us)
    units = mase_units(before, (model.season_lengths or (1,))[0])
    usable = [one for one in before if not math.isnan(units[one.unique_id])]
    if not usable:
        raise DataError(f"no series changes before {_text(cut_us)}: there is nothing to learn")
    _tell_constant([one.unique_id for one in before if math.isnan(units[one.unique_id])])
    _, recent = split_at(series, Grid(step_us).time(cut_us, -warm_up_steps))
    validation = [one for one in recent if one.end_us > cut_us]
    _require_scorable(validation, units, cut_us, model.min_history or 1)
    if not training.holdout:
        units = mase_units(series, (model.season_lengths or (1,))[0])
        usable = [one_series for one_series in series if not math.isnan(units[one_series.unique_id])]
    learnable = [one_series for one_series in usable if len(one_series) > (model.min_history or 1)]
    return Split(tuple(learnable), units, tuple(validation), cut_us)


def tail_start(series: Sequence[Series], horizon: int, training: TrainingConfig) -> int:
    """Return the validation tail's first time, in microseconds; there must be a series."""
    step_us, longest = series[0].step_us, max(len(one_series) for one_series in series)
    tail = training.validation_steps
    if tail is None:
        tail = max(min(_DEFAULT_HORIZONS * horizon, longest // _LARGEST_SHARE), horizon)
    return max(one_series.end_us for one_series in series) - Grid(step_us).span_us(tail)


def _require_length(series: Sequence[Series], before: Sequence[Series], needed: int, cut_us: int) -> None:
    if max((len(one) for one in before), default=0) < needed:
        longest = max(len(one_series) for one_series in series)
        tail = series[0].grid.index(cut_us, max(one_series.end_us for one_series in series))
        raise DataError(
            f"no series is long enough: {needed + tail} steps are needed, {needed} to learn from (model.min_history"
            f" + model.horizon) and the last {tail} to validate on (training.validation_steps);"
            f" the longest series has {longest}"
        )


def _require_scorable(validation: Sequence[Series], units: dict[str, float], cut_us: int, history: int) -> None:
    for one_series in validation:
        observed = np.isfinite(one_series.values)
        if math.isnan(units.get(one_series.unique_id, math.nan)) or not observed.any():
            continue
        enough = np.cumsum(observed) - observed >= history  # values known before each step
        if (observed & enough & (one_series.time_us >= cut_us)).any():
            return
    raise DataError(
        f"there is nothing to validate on: from {_text(cut_us)} on no series that has {history} values or more"
        " before it holds a value; change --training.validation_steps or bring newer data"
    )


def _tell_constant(names: Sequence[str]) -> None:
    names = list(dict.fromkeys(names))
    if names:
        shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
        _log.warning("%d series never change and are left out of the loss: %s", len(names), shown)


def _text(time_us: int) -> str:
    time = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=time_us)
    return time.isoformat().replace("+00:00", "Z")
