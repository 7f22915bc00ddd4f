"""Read CSV or Parquet files, or a polars frame, into one canonical long frame; refuse what cannot be read.

A wide CSV file, one line for each series, is turned into rows by `wide`.

The canonical frame has `unique_id` String, `ds` Datetime("us", "UTC") and `y` Float64 (null is missing),
then the configured covariates under their own names (Float64; categories String; the end column Boolean) and the
other columns as they were, sorted by series and time. Every mistake in the input is a DataError
of one line: what is wrong, where, and what to do. Nothing is repaired; but rows of files that say the same of one
series and time, or less than another of them, are one row.

This module knows nothing of time steps: duplicates, gaps and stamps off the grid are `report`'s affair.
"""

import difflib
import shlex
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from forecaster.config import DataConfig
from forecaster.data import columns
from forecaster.data.csv_file import first_line, header_of, mistake_in
from forecaster.data.dataset import canonical_names, read_dataset
from forecaster.data.datasets import weather_path
from forecaster.data.files import find_files, kind_of
from forecaster.data.manifest import manifest_at
from forecaster.data.report import FILE, ROW, Place
from forecaster.data.typed import typed
from forecaster.data.wide import is_wide, to_rows
from forecaster.data.wording import shown
from forecaster.errors import DataError, FieldViolation

# canonical name, flag that renames it, and names that people use for it
_COLUMNS = (
    ("unique_id", "id_column", ("id", "series", "series_id", "item_id", "meter", "sensor", "station", "store")),
    ("ds", "time_column", ("timestamp", "datetime", "date", "time")),
    ("y", "target_column", ("value", "target", "load", "demand", "sales")),
)
_NO_NAME = "NAME"  # where none can be suggested
_FRAME = "the frame"  # what a frame in memory is called; whoever made it has no shell's options


def read_frame(config: DataConfig) -> pl.DataFrame:
    """Return the canonical frame of the files at `config.path`, or of the bundled weather if it is None.

    The path is one file or a glob of files of the same kind: .csv, .csv.gz, .parquet or .pq; or a data set's folder or
    manifest, whose columns have the canonical names.
    """
    if config.path is not None and (manifest := manifest_at(config.path)) is not None:
        named = canonical_names(config)
        rows, source = read_dataset(manifest, named)
        return _once(canonical_rows(rows, named, source))
    paths = [weather_path()] if config.path is None else find_files(config.path)
    kinds = {kind_of(path) for path in paths}
    if len(kinds) > 1:
        raise DataError(f"{config.path!r} matches both CSV and Parquet files: give a glob of one kind")
    load, unit = (_load_csv, "line") if kinds == {"csv"} else (_load_parquet, "row")
    if len(paths) > 1 and has_made_up_times(config):
        raise DataError(f"{config.path!r} matches several wide files, whose times are unknown: read them one by one")
    frames = [load(path, config).with_columns(pl.lit(i).alias(FILE)) for i, path in enumerate(paths)]
    source = Place(tuple(str(path) for path in paths), unit)
    keys = (config.id_column, config.time_column, config.target_column)
    return _once(canonical_rows(_concatenate(frames, keys, source), config, source))


def read_csv(
    path: str | Path, *, id_column: str = "unique_id", time_column: str = "ds", target_column: str = "y"
) -> pl.DataFrame:
    """Return a CSV file as a frame for a client: observations, or what is known of the time ahead.

    `unique_id` is the file's text, byte for byte, `ds` Datetime("us", "UTC") and `y` Float64 (null is missing), as far
    as there are such columns; the others are numbers, or text where a number would not give it back. In the file's
    order.

    Args:
        path: of one file, or a glob; .csv or .csv.gz.
        id_column: which becomes `unique_id`.
        time_column: which becomes `ds`; it has to be there.
        target_column: which becomes `y`.

    Raises:
        DataError: the file cannot be read, or a time or a value in it.
    """
    frames = []
    for file in find_files(str(path), "path"):
        source, header = Place((str(file),), "line"), header_of(file)
        if time_column not in header:
            raise DataError(f"{file} has no column {time_column!r}, only {_listed(header)}: name it in time_column")
        text = _read_text(file, header)
        found = {id_column: columns.ids, time_column: columns.times, target_column: columns.values}
        rows = text.with_columns(pl.lit(0).alias(FILE))
        read = [found[name](rows, name, source) if name in found else typed(text[name]) for name in text.columns[1:]]
        if twice := sorted({one.name for one in read if [other.name for other in read].count(one.name) > 1}):
            raise DataError(f"{file} has {twice[0]!r} beside the column that becomes it: rename or drop one")
        frames.append(pl.DataFrame(read))
    return pl.concat(frames, how="diagonal_relaxed")


def has_made_up_times(config: DataConfig) -> bool:
    """Return whether a file at `config.path` is wide; raises what `read_frame` raises for it."""
    if config.path is None or manifest_at(config.path) is not None:
        return False
    paths = find_files(config.path)
    return any(kind_of(path) == "csv" and is_wide(header_of(path), config) for path in paths)


def canonical_frame(frame: pl.DataFrame, config: DataConfig) -> pl.DataFrame:
    """Return the canonical frame of a polars frame whose columns are named as `config` says."""
    rows = frame.with_row_index(ROW, offset=1).with_columns(pl.lit(0).alias(FILE))
    return canonical_rows(rows, config, Place((_FRAME,), "row"))


def canonical_rows(rows: pl.DataFrame, config: DataConfig, source: Place) -> pl.DataFrame:
    """Return the canonical frame of rows that have their places in the columns `FILE` and `ROW`."""
    names = (config.id_column, config.time_column, config.target_column)
    require_columns([name for name in rows.columns if name not in (FILE, ROW)], config, source.names[0])
    if rows.is_empty():
        raise DataError(f"{source.names[0]} has no rows below its column names: write one per series and time")
    canonical = [
        columns.ids(rows, names[0], source),
        columns.times(rows, names[1], source),
        columns.values(rows, names[2], source),
    ]
    for name in (*config.past_covariates, *config.future_covariates, *config.static_covariates):
        canonical.append(columns.covariates(rows, name, source))
    for name in config.static_categories:
        canonical.append(columns.categories(rows, name, source))
    if config.end_column is not None:
        canonical.append(columns.ends(rows, config.end_column, source))
    frame = pl.DataFrame(canonical).hstack(rows.drop(*names, *config.beside, FILE, ROW))
    return frame.sort("unique_id", "ds", "y", nulls_last=True, maintain_order=True)


def require_columns(found: Sequence[str], config: DataConfig, place: str) -> None:
    """Raise DataError if a column that the configuration names is not among those of a place."""
    wanted = [getattr(config, flag) for _, flag, _ in _COLUMNS]
    free = [name for name in found if name not in wanted]
    missing, flags, hints = [], [], []
    for (canonical, flag, usual), name in zip(_COLUMNS, wanted, strict=True):
        if name not in found:
            missing.append(repr(name))
            flags.append(f"data.{flag}")
            near = _nearest(name, (canonical, *usual), free)
            hints.append(f"{near!r}: {name!r}" if place == _FRAME else f"--data.{flag} {shlex.quote(near)}")
        elif canonical in free:
            raise DataError(f"{place} has {canonical!r} beside --data.{flag} {name}: rename or drop one")
    if missing:
        noun = "columns" if len(missing) > 1 else "column"
        advice = f"rename({{{', '.join(hints)}}})" if place == _FRAME else f"set {' '.join(hints)}"
        message = f"{place} has no {noun} {', '.join(missing)}, only {_listed(found)}: {advice}"
        raise DataError(message, [FieldViolation(flag, message) for flag in flags])
    _require_beside(found, config, place)


def _require_beside(found: Sequence[str], config: DataConfig, place: str) -> None:
    """Refuse a covariate, or an end column, that is not there."""
    for flag in ("past_covariates", "future_covariates", "static_covariates", "static_categories", "end_column"):
        wanted = getattr(config, flag) or ()
        taken = (*(getattr(config, key) for _, key, _ in _COLUMNS), *config.beside)
        free = [name for name in found if name not in taken]
        for name in (wanted,) if isinstance(wanted, str) else wanted:
            if name not in found:
                near = _nearest(name, (), free)
                hint = f"did you mean {near!r}?" if near != _NO_NAME else f"it has {_listed(found)}"
                message = f"{place} has no column {name!r}, which data.{flag} names; {hint}"
                raise DataError(message, [FieldViolation(f"data.{flag}", message)])


def _listed(found: Sequence[str]) -> str:
    return ", ".join(shown(name) for name in found[:12]) + (", ..." if len(found) > 12 else "")


def _nearest(wanted: str, usual: Sequence[str], found: Sequence[str]) -> str:
    """Return the column most likely meant: nearly the same, a usual one, one with that inside, or NAME."""
    folded = {name.strip().casefold(): name for name in found}
    close = difflib.get_close_matches(wanted.casefold(), list(folded), n=1)
    inside = [name for word in usual if len(word) > 3 for name in folded if word in name]
    return next((folded[name] for name in (*close, *usual, *inside) if name in folded), _NO_NAME)


def _load_parquet(path: Path, config: DataConfig) -> pl.DataFrame:
    try:
        return pl.read_parquet(path, glob=False, hive_partitioning=False).with_row_index(ROW, offset=1)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {first_line(error)}") from error


def _load_csv(path: Path, config: DataConfig) -> pl.DataFrame:
    header = header_of(path)
    wide = is_wide(header, config)
    if not wide:
        require_columns(header, config, str(path))
    rows = _read_text(path, header)
    if wide:
        return to_rows(rows, config, str(path))
    keys = (config.id_column, config.time_column, config.target_column, *config.beside)
    return rows.with_columns(typed(rows[name]) for name in rows.columns if name not in (*keys, ROW))


def _read_text(path: Path, header: Sequence[str]) -> pl.DataFrame:
    """Return a CSV file's rows as text, each with its line."""
    try:
        rows = pl.read_csv(path, infer_schema=False, glob=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(mistake_in(path, len(header), error)) from error
    blank = pl.all_horizontal(pl.exclude(ROW).is_null())  # an empty line is no row
    return rows.with_row_index(ROW, offset=2).filter(~blank)


def _once(frame: pl.DataFrame) -> pl.DataFrame:
    """Return a canonical frame with one row for those that say the same of a series and time, as an ingest does.

    A row that lacks what another says is completed by it. Rows that contradict each other stay, for `report`.
    """
    key = ("unique_id", "ds")
    same = pl.all_horizontal(pl.col(name) == pl.col(name).shift() for name in key).fill_null(False)
    again = frame.select(same).to_series()
    if not again.any():
        return frame
    several = again | again.shift(-1, fill_value=False)
    others = [name for name in frame.columns if name not in key]
    differs = pl.any_horizontal(pl.col(name).drop_nulls().n_unique().over(key) > 1 for name in others)
    shared = frame.filter(several).with_columns(differs.alias(ROW))
    agreed = shared.filter(~pl.col(ROW)).group_by(key).agg(pl.col(name).drop_nulls().first() for name in others)
    parts = [frame.filter(~several), shared.filter(ROW).drop(ROW), agreed.select(frame.columns)]
    return pl.concat(parts).sort(*key, "y", nulls_last=True, maintain_order=True)


def _concatenate(frames: Sequence[pl.DataFrame], keys: Sequence[str], source: Place) -> pl.DataFrame:
    """Return the rows of all files, whose keys have the same types; covariates may mix integers and decimals."""
    names, types = source.names, frames[0].schema
    for name, frame in zip(names, frames, strict=True):
        if odd := sorted(set(frame.columns) ^ set(types)):
            raise DataError(f"{names[0]} and {name} differ in columns ({', '.join(odd)}): read them apart")
        for key, found in ((key, frame.schema[key]) for key in keys if key in types):
            if found != types[key] and not (found.is_numeric() and types[key].is_numeric()):
                raise DataError(f"{key!r} is {types[key]} in {names[0]} but {found} in {name}: make it one type")
    try:
        return pl.concat([frame.select(list(types)) for frame in frames], how="vertical_relaxed")
    except pl.exceptions.PolarsError as error:
        raise DataError(f"the files differ in the types of other columns: {first_line(error)}") from error
