"""Covariates out of Polars frames: which columns the model knows, and the messages that carry them.

Does no I/O: what the model knows is asked elsewhere. Columns of observations that it does not know are left alone,
unless they are nearly named like a covariate that is not there; those of a future are refused.

Shapes: L steps of a future, F known-future covariates.
"""

import itertools
import math
import re
from collections.abc import Collection, Iterator, Sequence

import numpy as np
import polars as pl

from forecaster.client.results import ModelInfo
from forecaster.config import DataConfig
from forecaster.data.grid import Grid
from forecaster.data.schema import canonical_frame
from forecaster.data.windows import is_past
from forecaster.errors import DataError
from forecaster.v1 import forecast_pb2, observation_pb2

SMALL = 16  # rows: so few are looked at one by one
_KEYS = ("unique_id", "ds", "y")
_CANONICAL = {"unique_id": pl.String, "ds": pl.Datetime("us", "UTC"), "y": pl.Float64}
_NAME = re.compile(r"[!-~][ -~]{0,255}")  # what is a series' name without looking further
_EVERY = "*"  # the series of a future that is the same for all
_MAX_STEPS = 1_000_000  # between the first and the last time of a future


def has_more_columns(frame: pl.DataFrame) -> bool:
    """Return whether a frame may have covariates, so that the model has to be asked which it knows."""
    return any(name not in _KEYS for name in frame.columns)


def known_rows(frame: pl.DataFrame, model: ModelInfo | None) -> pl.DataFrame:
    """Return the rows to send, sorted: unique_id, ds, y and the covariates that the model knows.

    Raises DataError for a wrong frame, also where a static covariate changes within a series, or where a column is
    nearly named like a covariate that is not there.
    """
    if model is None:
        return frame if _is_canonical(frame) else canonical_frame(frame, DataConfig()).select(_KEYS)
    refuse_misspelt(frame, model)
    numbers, categories = _present(frame, model.static_covariates), _present(frame, model.static_categories)
    past, future = _present(frame, model.past_covariates), _present(frame, model.future_covariates)
    config = DataConfig(
        past_covariates=past, future_covariates=future, static_covariates=numbers, static_categories=categories
    )
    rows = canonical_frame(frame, config).select(*_KEYS, *past, *future, *numbers, *categories)
    for name in (*numbers, *categories):
        changing = rows.group_by("unique_id", maintain_order=True).agg(pl.col(name).drop_nulls().n_unique())
        changing = changing.filter(pl.col(name) > 1)
        if len(changing):
            raise DataError(
                f"{name!r} changes within series {changing['unique_id'][0]!r}, but it is a static covariate"
            )
    return rows


def split_future(rows: pl.DataFrame, model: ModelInfo | None) -> tuple[pl.DataFrame, pl.DataFrame | None]:
    """Return the observations among the rows to send, and what they say of the time ahead.

    Where rows have known-future covariates of the model, those behind a series' last value are its known future, as
    they are to training. They come back as `future_covariates` takes them, unique_id, ds and the known-future
    covariates; None if there are none.
    """
    names = () if model is None else _present(rows, model.future_covariates)
    if not names:
        return rows, None
    was = rows.select(is_past(DataConfig(future_covariates=names))).to_series()
    return (rows, None) if was.all() else (rows.filter(was), rows.filter(~was).select("unique_id", "ds", *names))


def refuse_misspelt(frame: pl.DataFrame, model: ModelInfo) -> None:
    """Raise DataError for a column whose name is nearly that of a covariate which the frame lacks."""
    absent = {_folded(name): name for name in model.covariates if name not in frame.columns}
    unknown = [name for name in frame.columns if name not in _KEYS and name not in model.covariates]
    for name, (folded, wanted) in itertools.product(unknown, absent.items()):
        if _is_nearly(_folded(name), folded):
            raise DataError(
                f"the frame has a column {name!r}, nearly the model's covariate {wanted!r}, which it lacks: rename it,"
                " or drop it if it is something else"
            )


def _folded(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())


def _is_nearly(a: str, b: str) -> bool:
    """Return whether two names differ by a typing error: none, one, or two letters in long ones; never in digits."""
    if re.sub(r"\D", "", a) != re.sub(r"\D", "", b):
        return False
    most = 0 if min(len(a), len(b)) < 4 else 1 if min(len(a), len(b)) < 8 else 2
    if abs(len(a) - len(b)) > most:
        return False
    before, row = list(range(len(b) + 1)), list(range(len(b) + 1))  # edit distances to the beginnings of b
    earlier = row
    for i, letter in enumerate(a):
        earlier, before, row = before, row, [i + 1]
        for j, other in enumerate(b):
            row.append(min(before[j] + (letter != other), before[j + 1] + 1, row[j] + 1))
            if i and j and letter == b[j - 1] and a[i - 1] == other:  # two letters the other way round are one error
                row[-1] = min(row[-1], earlier[j - 1] + 1)
    return row[-1] <= most


def _is_canonical(frame: pl.DataFrame) -> bool:
    """Return whether a small frame is surely what `canonical_frame` would make of it, which takes a millisecond."""
    if len(frame) > SMALL or frame.is_empty() or dict(frame.schema) != _CANONICAL:
        return False
    try:
        rows = frame.rows()
    except (ValueError, OverflowError):  # a time that Python does not know
        return False
    right = all(
        name is not None and time is not None and _NAME.fullmatch(name) and not (value and math.isnan(value))
        for name, time, value in rows
    )
    return right and all((a, b) < (c, d) for (a, b, _), (c, d, _) in itertools.pairwise(rows))


def covariate_columns(rows: pl.DataFrame, names: Sequence[str]) -> list[observation_pb2.CovariateColumn]:
    """Return the columns of these names that there are, null as missing."""
    return [
        observation_pb2.CovariateColumn(
            name=name,
            values=rows[name].fill_null(0.0).to_list(),
            missing_rows=rows[name].is_null().arg_true().to_list(),
        )
        for name in _present(rows, names)
    ]


def static_values(rows: pl.DataFrame, model: ModelInfo | None) -> pl.DataFrame | None:
    """Return one row for each series with its static covariates, null where unknown; None if there are none."""
    names = [] if model is None else _present(rows, (*model.static_covariates, *model.static_categories))
    if not names:
        return None
    return rows.group_by("unique_id", maintain_order=True).agg(pl.col(names).drop_nulls().first())


def series_attributes(
    static: pl.DataFrame | None, part: pl.DataFrame, model: ModelInfo | None
) -> list[observation_pb2.SeriesAttributes]:
    """Return the static covariates of the series that a part of the rows is of."""
    if static is None or model is None:
        return []
    mine = static.join(part.select("unique_id").unique(), on="unique_id", how="semi", maintain_order="left")
    numbers, categories = _present(static, model.static_covariates), _present(static, model.static_categories)
    return [
        observation_pb2.SeriesAttributes(
            series_id=row["unique_id"],
            numbers={name: row[name] for name in numbers if row[name] is not None},
            categories={name: row[name] for name in categories if row[name] is not None},
        )
        for row in mine.iter_rows(named=True)
    ]


def future_covariates(frame: pl.DataFrame | None, model: ModelInfo | None) -> list[forecast_pb2.FutureCovariates]:
    """Return what a frame says of the steps ahead.

    Args:
        frame: columns `unique_id` (left out: the same for every series), `ds` and the known-future covariates. Rows out
            of a file of observations will do: `y` and static covariates are left alone.
        model: which covariates there are.

    Raises:
        DataError: it has no known-future covariate, has a column that the model does not know for the time ahead,
            repeats a time, or has times that are not whole steps apart.
    """
    if frame is None or model is None or frame.is_empty():
        return []
    names = _present(frame, model.future_covariates)
    if not names:
        known = ", ".join(model.future_covariates) or "none"
        raise DataError(f"the future has no column of the model's known-future covariates, which are: {known}")
    _refuse_unknown(frame, model)
    if "ds" not in frame.columns:
        raise DataError("the future has no column 'ds': every row needs its time")
    every = "unique_id" not in frame.columns
    if every:
        frame = frame.with_columns(unique_id=pl.lit(_EVERY))
    wanted = frame.select("unique_id", "ds", *names, y=pl.lit(None, pl.Float64))
    rows = canonical_frame(wanted, DataConfig(future_covariates=names))
    step_us = int(model.step.total_seconds() * 1e6)
    return [
        _one_future("" if every else str(series_id), part, names, step_us)
        for (series_id,), part in rows.partition_by("unique_id", as_dict=True, maintain_order=True).items()
    ]


def futures_of(
    futures: Sequence[forecast_pb2.FutureCovariates], series_ids: Collection[str]
) -> Iterator[forecast_pb2.FutureCovariates]:
    """Yield the futures of these series, and one that is the same for all."""
    return (future for future in futures if not future.series_id or future.series_id in series_ids)


def _refuse_unknown(frame: pl.DataFrame, model: ModelInfo) -> None:
    """Raise DataError for a column that a forecast would not depend on, though the caller may think so."""
    static = (*model.static_covariates, *model.static_categories)
    ahead = frame.filter(pl.col("y").is_null()) if "y" in frame.columns else frame
    known = ", ".join(model.future_covariates) or "none"
    for name in frame.columns:
        if name in (*_KEYS, *model.future_covariates, *static):
            continue
        if name in model.past_covariates and ahead[name].null_count() == len(ahead):
            continue  # as in a file of observations, which knows it up to the last value
        what = "known to the model up to the present only" if name in model.past_covariates else "not the model's"
        raise DataError(
            f"the future's column {name!r} is {what}: rename or drop it, the known-future covariates are: {known}"
        )


def _one_future(
    series_id: str, rows: pl.DataFrame, names: Sequence[str], step_us: int
) -> forecast_pb2.FutureCovariates:
    """Return one series' future on its grid, from its first time to its last."""
    times = rows["ds"].dt.epoch("us").to_numpy()
    grid = Grid(step_us)
    steps, off_grid = grid.index(times[0], times), ~grid.has(times[0], times)
    of_whom = f" of series {series_id!r}" if series_id else ""
    if off_grid.any() or (np.diff(steps) == 0).any():
        raise DataError(f"the future{of_whom} repeats a time, or has times that are not whole steps of the model apart")
    if steps[-1] >= _MAX_STEPS:
        raise DataError(f"the future{of_whom} spans {steps[-1]} steps: {_MAX_STEPS} are allowed")
    message = forecast_pb2.FutureCovariates(series_id=series_id)
    message.first_time.FromMicroseconds(int(times[0]))
    for name in names:
        values = np.full(int(steps[-1]) + 1, np.nan)
        values[steps] = rows[name].fill_null(np.nan).to_numpy()
        missing = np.isnan(values)
        message.covariates.add(
            name=name, values=np.where(missing, 0.0, values).tolist(), missing_rows=np.flatnonzero(missing).tolist()
        )
    return message


def _present(frame: pl.DataFrame, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name in frame.columns)
