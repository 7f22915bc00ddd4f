"""Row messages as columns: few of them one by one, many at once.

Rows that are right, as a rule, are read a block at a time: neither the interpreter nor protobuf then keeps the other
threads waiting for long. What is wrong is found one by one, whichever way it was noticed, so that it is named once.

Shapes: N rows, C covariates.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from forecaster.config.values import MAX_MAGNITUDE
from forecaster.serving.api.messages import (
    ALLOWED,
    MAX_TIME_US,
    MIN_TIME_US,
    Violations,
    check_name,
    check_number,
    check_series_id,
    check_series_ids,
    time_us,
)
from forecaster.serving.storage.records import Columns
from forecaster.v1 import observation_pb2

_MANY = 256  # rows: from here on it pays to look at all of them at once
_BLOCK = 1024  # rows


def from_rows(rows: Sequence[observation_pb2.Observation], known: Sequence[str] = ()) -> Columns:
    """Return row messages as columns; raises InvalidArgumentError naming every wrong field.

    Args:
        rows: the messages.
        known: the names of the model's past and known-future covariates.
    """
    found = _at_once(rows, known) if len(rows) >= _MANY else None
    return _one_by_one(rows, known) if found is None else found


def _one_by_one(rows: Sequence[observation_pb2.Observation], known: Sequence[str]) -> Columns:
    """Return few rows, or raise what is wrong with many."""
    violations = Violations()
    index: dict[str, int] = {}
    series, times, values = [], [], []
    for i, row in enumerate(rows):
        series_id = row.series_id
        if series_id not in index:
            check_series_id(series_id, f"observations[{i}].series_id", violations)
            index[series_id] = len(index)
        series.append(index[series_id])
        times.append(_row_time(row, i, violations))
        value = row.value
        if value == 0 and not row.HasField("value"):
            value = math.nan
        elif not abs(value) <= MAX_MAGNITUDE:
            violations.add(f"observations[{i}].value", f"{value} is not {ALLOWED}; leave a missing value out")
        values.append(value)
    beside = _row_covariates(rows, known, violations)
    violations.raise_if_any()
    names = () if beside is None else tuple(known)
    columns = (np.array(series, np.int32), np.array(times, np.int64), np.array(values, np.float64))
    return Columns(tuple(index), *columns, names, beside)


def _row_time(row: observation_pb2.Observation, i: int, violations: Violations) -> int:
    """Return a row's time in microseconds; notes what is wrong with it."""
    stamp = row.observation_time
    nanos, seconds_us = stamp.nanos, stamp.seconds * 1_000_000
    if nanos == 0 and seconds_us and MIN_TIME_US <= seconds_us <= MAX_TIME_US:
        return seconds_us
    if not row.HasField("observation_time"):
        violations.add(f"observations[{i}].observation_time", "the time is missing")
        return 0
    return time_us(stamp, f"observations[{i}].observation_time", violations)


def _row_covariates(
    rows: Sequence[observation_pb2.Observation], known: Sequence[str], violations: Violations
) -> npt.NDArray[np.float64] | None:
    """Return the rows' covariates in the order of `known`, [N, C]; None if there are none."""
    beside: npt.NDArray[np.float64] | None = None
    # To look into every row costs as much as reading its value, and where nothing is known could only find the unused.
    for i, row in enumerate(rows if known else itertools.islice(rows, 1)):
        for name, value in row.covariates.items():
            field = f"observations[{i}].covariates[{name!r}]"
            if check_name(name, known, "past or known-future covariate", field, violations):
                check_number(value, field, violations)
                if beside is None:
                    beside = np.full((len(rows), len(known)), math.nan)
                beside[i, known.index(name)] = value
    return beside


def _at_once(rows: Sequence[observation_pb2.Observation], known: Sequence[str]) -> Columns | None:
    """Return many rows, None if anything is wrong with them."""
    if not known and rows[0].covariates:
        return None
    index: dict[str, int] = {}
    series, times, values = np.empty(len(rows), np.int32), np.empty(len(rows), np.int64), np.empty(len(rows))
    beside = np.empty((len(rows), len(known)))
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        moments, numbers, given = _block_times(block), _block_values(block), _block_covariates(block, known)
        if moments is None or numbers is None or given is None:
            return None
        here = slice(start, start + len(block))
        times[here], values[here], beside[here] = moments, numbers, given
        series[here] = [index.setdefault(name, len(index)) for name in [row.series_id for row in block]]
    violations = Violations()
    ids = tuple(index)
    check_series_ids(ids, "", violations)
    if violations:
        return None
    if np.isnan(beside).all():
        return Columns(ids, series, times, values)
    return Columns(ids, series, times, values, tuple(known), beside)


def _block_times(block: Sequence[observation_pb2.Observation]) -> npt.NDArray[np.int64] | None:
    """Return the times of some rows, microseconds, None if anything is wrong with them."""
    stamps = [row.observation_time for row in block]
    seconds = np.array([stamp.seconds for stamp in stamps], np.int64)
    nanos = np.array([stamp.nanos for stamp in stamps], np.int64)
    outside = (seconds < -(-MIN_TIME_US // 1_000_000)) | (seconds > MAX_TIME_US // 1_000_000)
    if outside.any() or (nanos < 0).any() or (nanos >= 1_000_000_000).any() or (nanos % 1000).any():
        return None
    for row in np.flatnonzero((seconds == 0) & (nanos == 0)).tolist():
        if not block[row].HasField("observation_time"):
            return None
    return seconds * 1_000_000 + nanos // 1000


def _block_values(block: Sequence[observation_pb2.Observation]) -> npt.NDArray[np.float64] | None:
    """Return the values of some rows, NaN where missing, None if anything is wrong with them."""
    values = np.array([row.value for row in block])
    if not (np.abs(values) <= MAX_MAGNITUDE).all():
        return None
    for row in np.flatnonzero(values == 0).tolist():
        if not block[row].HasField("value"):
            values[row] = math.nan
    return values


def _block_covariates(
    block: Sequence[observation_pb2.Observation], known: Sequence[str]
) -> npt.NDArray[np.float64] | None:
    """Return the covariates of some rows, [N, C], NaN where missing, None if anything is wrong with them."""
    if not known:
        return np.empty((len(block), 0))
    maps = [row.covariates for row in block]
    found = np.array([[mapping.get(name, math.inf) for mapping in maps] for name in known]).T
    is_given = found != math.inf
    # An infinite number is taken for a missing one and a name that is not known for none: the numbers differ.
    if (
        is_given.sum() != sum([len(mapping) for mapping in maps])
        or not (np.abs(found[is_given]) <= MAX_MAGNITUDE).all()
    ):
        return None
    found[~is_given] = math.nan
    return found
