"""Read CSV or Parquet files, or a polars frame, into one canonical long frame; refuse what cannot be read.

A wide CSV file, one line for each series, is turned into rows by `wide`.

The canonical frame has `unique_id` String, `ds` Datetime("us", "UTC") and `y` Float64 (null is missing),
then the other columns as they were, sorted by series and time. Every mistake in the input is a DataError
of one line: what is wrong, where, and what to do. Nothing is repaired.

This module knows nothing of time steps: duplicates, gaps and stamps off the grid are `report`'s affair.
"""

import difflib
import glob
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import polars as pl

from forecaster.config import DataConfig
from forecaster.data.csv_file import first_line, header_of, mistake_in
from forecaster.data.datasets import weather_path
from forecaster.data.report import FILE, ROW, Source, shown
from forecaster.data.wide import is_wide, to_rows
from forecaster.errors import DataError, FieldViolation

_KINDS = {".csv": "csv", ".csv.gz": "csv", ".parquet": "parquet", ".pq": "parquet"}
_MAX_ID_CHARACTERS = 256  # the server's own limit: proto/forecaster/v1/observation.proto
_MISSING_WORDS = ("", "na", "n/a", "nan", "null", "none")
# canonical name, flag that renames it, and names that people use for it
_COLUMNS = (
    ("unique_id", "id_column", ("id", "series", "series_id", "item_id", "meter", "sensor", "station", "store")),
    ("ds", "time_column", ("timestamp", "datetime", "date", "time")),
    ("y", "target_column", ("value", "target", "load", "demand", "sales")),
)
_ISO_TIME = (
    r"^(?<date>\d{4}-\d{2}-\d{2})"
    r"(?:[Tt ](?<hm>\d{2}:\d{2})(?::(?<s>[0-5]\d)(?:[.,](?<frac>\d{1,6})0*)?)?)?"
    r" ?(?<zone>[Zz]|UTC|(?<sign>[+-])(?<oh>[01]\d|2[0-3])(?::?(?<om>[0-5]\d))?)?$"
)


def read_frame(config: DataConfig) -> pl.DataFrame:
    """Return the canonical frame of the files at `config.path`, or of the bundled weather if it is None.

    The path is one file or a glob of files of the same kind: .csv, .csv.gz, .parquet or .pq.
    """
    paths = [weather_path()] if config.path is None else _find_files(config.path)
    kinds = {_kind(path) for path in paths}
    if len(kinds) > 1:
        raise DataError(f"{config.path!r} matches both CSV and Parquet files: give a glob of one kind")
    load, unit = (_load_csv, "line") if kinds == {"csv"} else (_load_parquet, "row")
    if len(paths) > 1 and has_made_up_times(config):
        raise DataError(f"{config.path!r} matches several wide files, whose times are unknown: read them one by one")
    frames = [load(path, config).with_columns(pl.lit(i).alias(FILE)) for i, path in enumerate(paths)]
    source = Source(tuple(str(path) for path in paths), unit)
    keys = (config.id_column, config.time_column, config.target_column)
    return _canonical(_concatenate(frames, keys, source), config, source)


def has_made_up_times(config: DataConfig) -> bool:
    """Return whether a file at `config.path` is wide; raises what `read_frame` raises for it."""
    paths = [] if config.path is None else _find_files(config.path)
    return any(_kind(path) == "csv" and is_wide(header_of(path), config) for path in paths)


def canonical_frame(frame: pl.DataFrame, config: DataConfig) -> pl.DataFrame:
    """Return the canonical frame of a polars frame whose columns are named as `config` says."""
    rows = frame.with_row_index(ROW, offset=1).with_columns(pl.lit(0).alias(FILE))
    return _canonical(rows, config, Source(("the frame",), "row"))


def _canonical(rows: pl.DataFrame, config: DataConfig, source: Source) -> pl.DataFrame:
    names = (config.id_column, config.time_column, config.target_column)
    _require_columns([name for name in rows.columns if name not in (FILE, ROW)], config, source.names[0])
    if rows.is_empty():
        raise DataError(f"{source.names[0]} has no rows below its column names: write one per series and time")
    canonical = [
        _ids(rows, names[0], source),
        _times(rows, names[1], source),
        _values(rows, names[2], source),
    ]
    frame = pl.DataFrame(canonical).hstack(rows.drop(*names, FILE, ROW))
    return frame.sort("unique_id", "ds", "y", nulls_last=True, maintain_order=True)


def _ids(rows: pl.DataFrame, name: str, source: Source) -> pl.Series:
    dtype = rows[name].dtype
    if not (dtype.is_integer() or isinstance(dtype, pl.String | pl.Categorical | pl.Enum)):
        _refuse_type(rows, name, source, "series are named by text or whole numbers")
    ids = rows[name].cast(pl.String).alias("unique_id")
    empty = ids.is_null() | (ids.str.strip_chars() == "")
    source.refuse(rows, empty, name, "names no series", "every row needs the name of its series")
    advice = f"a series' name has at most {_MAX_ID_CHARACTERS} characters"
    source.refuse(rows, ids.str.len_chars() > _MAX_ID_CHARACTERS, name, "is too long", advice)
    control = ids.str.contains(r"\p{Cc}")
    source.refuse(rows, control, name, "has control characters", "take tabs and line breaks out of names")
    return ids


def _values(rows: pl.DataFrame, name: str, source: Source) -> pl.Series:
    column = rows[name]
    if isinstance(column.dtype, pl.String | pl.Categorical | pl.Enum):
        text = column.cast(pl.String).str.strip_chars()
        values = text.cast(pl.Float64, strict=False)
        missing = text.is_null() | text.str.to_lowercase().is_in(_MISSING_WORDS)
        advice = "leave a missing value empty, write others like 12.5"
        source.refuse(rows, values.is_null() & ~missing, name, "is not a number", advice)
    elif column.dtype.is_numeric() or column.dtype == pl.Null:
        values = column.cast(pl.Float64)
    else:
        _refuse_type(rows, name, source, "the values to forecast must be numbers")
    return values.fill_nan(None).alias("y")


def _times(rows: pl.DataFrame, name: str, source: Source) -> pl.Series:
    column = rows[name]
    source.refuse(rows, column.is_null(), name, "is no time", "every row needs a time")
    dtype = column.dtype
    if isinstance(dtype, pl.String | pl.Categorical | pl.Enum):
        column = _parse_times(rows.with_columns(pl.col(name).cast(pl.String)), name, source)
    elif isinstance(dtype, pl.Datetime):
        if dtype.time_unit == "ns":
            finer = column.to_physical() % 1000 != 0
            source.refuse(rows, finer, name, "is finer than a microsecond", "round the times")
        zoned = column.dt.replace_time_zone("UTC") if dtype.time_zone is None else column
        column = zoned.dt.convert_time_zone("UTC")
    elif not isinstance(dtype, pl.Date):
        advice = "a number has no unit, use polars.from_epoch" if dtype.is_numeric() else "it must be times"
        _refuse_type(rows, name, source, f"{advice}, or write ISO 8601 such as 2013-01-31T05:00:00Z")
    utc = column.cast(pl.Datetime("us")).dt.replace_time_zone("UTC").alias("ds")
    outside = ~utc.dt.year().is_between(1, 9999)
    source.refuse(rows, outside, name, "is outside the years 1 to 9999", "correct the time")
    return utc


def _parse_times(rows: pl.DataFrame, name: str, source: Source) -> pl.Series:
    """Return naive UTC times of ISO 8601 text; each distinct text is parsed once, series share them."""
    part = pl.col(name).str.strip_chars().str.extract_groups(_ISO_TIME).struct
    clock = [part["hm"].fill_null("00:00"), pl.lit(":"), part["s"].fill_null("00")]
    wall = pl.concat_str(part["date"], pl.lit("T"), *clock, pl.lit("."), part["frac"].fill_null("0"))
    minutes = part["oh"].cast(pl.Int64) * 60 + part["om"].cast(pl.Int64).fill_null(0)
    signed = pl.when(part["sign"] == "-").then(-minutes).otherwise(minutes).fill_null(0)
    naive = wall.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f", time_unit="us", strict=False)
    parsed = rows.select(pl.col(name).unique()).with_columns(
        utc=naive - pl.duration(minutes=signed), zoned=part["zone"].is_not_null()
    )
    joined = rows.select(name, FILE, ROW).join(parsed, on=name, how="left", maintain_order="left")
    bad = joined["utc"].is_null()
    digits = bad & joined[name].str.contains(r"^\s*-?\d+(\.\d*)?\s*$")
    advice = "write ISO 8601 such as 2013-01-31, 2013-01-31 05:00 or 2013-01-31T05:00:00Z"
    source.refuse(joined, digits, name, "is a number without a unit", advice)
    source.refuse(joined, bad, name, "is not a time", advice)
    if joined["zoned"].n_unique() > 1:
        first = [joined.filter(pl.col("zoned") == zoned).row(0) for zoned in (True, False)]
        with_zone, without = (f"{shown(text)}, {source.place(file, row)}" for text, file, row, *_ in first)
        raise DataError(
            f"{name} mixes times with an offset ({with_zone}) and without ({without}): "
            "give all of them an offset, or none if they are UTC"
        )
    return joined["utc"]


def _refuse_type(rows: pl.DataFrame, name: str, source: Source, advice: str) -> NoReturn:
    first = shown(rows[name].drop_nulls().first())
    raise DataError(f"{source.names[0]}: column {name!r} holds {rows[name].dtype} ({first}); {advice}")


def _require_columns(found: Sequence[str], config: DataConfig, place: str) -> None:
    wanted = [getattr(config, flag) for _, flag, _ in _COLUMNS]
    free = [name for name in found if name not in wanted]
    missing, flags, hints = [], [], []
    for (canonical, flag, usual), name in zip(_COLUMNS, wanted, strict=True):
        if name not in found:
            missing.append(repr(name))
            flags.append(f"data.{flag}")
            hints.append(f"--data.{flag} {shlex.quote(_nearest(name, (canonical, *usual), free))}")
        elif canonical in free:
            raise DataError(f"{place} has {canonical!r} beside --data.{flag} {name}: rename or drop one")
    if missing:
        noun = "columns" if len(missing) > 1 else "column"
        only = ", ".join(shown(name) for name in found[:12]) + (", ..." if len(found) > 12 else "")
        message = f"{place} has no {noun} {', '.join(missing)}, only {only}: set {' '.join(hints)}"
        raise DataError(message, [FieldViolation(flag, message) for flag in flags])


def _nearest(wanted: str, usual: Sequence[str], found: Sequence[str]) -> str:
    """Return the column most likely meant: nearly the same, a usual one, one with that inside, or NAME."""
    folded = {name.strip().casefold(): name for name in found}
    close = difflib.get_close_matches(wanted.casefold(), list(folded), n=1)
    inside = [name for word in usual if len(word) > 3 for name in folded if word in name]
    return next((folded[name] for name in (*close, *usual, *inside) if name in folded), "NAME")


def _find_files(path: str) -> list[Path]:
    if "://" in path:
        raise DataError(f"data.path={path!r} is a URL: download it and give the path of the file")
    single = Path(path).expanduser()
    if single.is_dir():
        raise DataError(f"data.path={path!r} is a folder: give a glob such as '{path.rstrip('/')}/*.parquet'")
    if single.exists():
        return [single]
    if glob.has_magic(path):
        found = sorted(Path(name) for name in glob.glob(str(single), recursive=True) if Path(name).is_file())
        if found:
            return found
        raise DataError(f"no file matches data.path={path!r} (from {Path.cwd()})")
    beside = [other.name for other in single.parent.iterdir()] if single.parent.is_dir() else []
    near = difflib.get_close_matches(single.name, beside, n=1)
    hint = f"did you mean {str(single.with_name(near[0]))!r}?" if near else f"looked from {Path.cwd()}"
    raise DataError(f"no such file: data.path={path!r}; {hint}")


def _kind(path: Path) -> str:
    for suffix, kind in _KINDS.items():
        if path.name.lower().endswith(suffix):
            return kind
    raise DataError(f"{path} has an unknown extension: use {', '.join(_KINDS)}")


def _load_parquet(path: Path, config: DataConfig) -> pl.DataFrame:
    try:
        return pl.read_parquet(path, glob=False, hive_partitioning=False).with_row_index(ROW, offset=1)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {first_line(error)}") from error


def _load_csv(path: Path, config: DataConfig) -> pl.DataFrame:
    header = header_of(path)
    wide = is_wide(header, config)
    if not wide:
        _require_columns(header, config, str(path))
    keys = header if wide else (config.id_column, config.time_column, config.target_column)
    try:
        rows = pl.read_csv(path, schema_overrides=dict.fromkeys(keys, pl.String), infer_schema_length=None, glob=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(mistake_in(path, len(header), error)) from error
    blank = pl.all_horizontal(pl.exclude(ROW).is_null())  # an empty line is no row
    rows = rows.with_row_index(ROW, offset=2).filter(~blank)
    return to_rows(rows, config, str(path)) if wide else rows


def _concatenate(frames: Sequence[pl.DataFrame], keys: Sequence[str], source: Source) -> pl.DataFrame:
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
