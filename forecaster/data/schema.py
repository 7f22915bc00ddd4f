"""Read CSV or Parquet files, or a polars frame, into one canonical long frame; refuse what cannot be read.

The canonical frame has `unique_id` String, `ds` Datetime("us", "UTC") and `y` Float64 (null is missing),
then the other columns as they were, sorted by series and time. Every mistake in the input is a DataError
of one line: what is wrong, where, and what to do. Nothing is repaired.

This module knows nothing of time steps: duplicates, gaps and stamps off the grid are `report`'s affair.
"""

import csv
import difflib
import glob
import gzip
import shlex
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import polars as pl

from forecaster.config import DataConfig
from forecaster.data.datasets import weather_path
from forecaster.errors import DataError, FieldViolation

_KINDS = {".csv": "csv", ".csv.gz": "csv", ".parquet": "parquet", ".pq": "parquet"}
_HEAD_BYTES = 65_536
_MAX_ID_CHARACTERS = 256  # the server's own limit: proto/forecaster/v1/observation.proto
_MISSING_WORDS = ("", "na", "n/a", "nan", "null", "none")
_FILE, _ROW = "__forecaster_file", "__forecaster_row"  # where a row came from, while it is being checked
_CANONICAL = ("unique_id", "ds", "y")
_FLAGS = ("id_column", "time_column", "target_column")
_USUAL_NAMES = (
    ("unique_id", "id", "series", "series_id", "item_id", "meter", "sensor", "station", "store", "name"),
    ("ds", "timestamp", "datetime", "date", "time"),
    ("y", "value", "target", "load", "demand", "sales"),
)
_ISO_TIME = (
    r"^(?<date>\d{4}-\d{2}-\d{2})"
    r"(?:[Tt ](?<hm>\d{2}:\d{2})(?::(?<s>[0-5]\d)(?:[.,](?<frac>\d{1,6})0*)?)?)?"
    r" ?(?<zone>[Zz]|UTC|(?<sign>[+-])(?<oh>[01]\d|2[0-3])(?::?(?<om>[0-5]\d))?)?$"
)
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
_BINARY = {
    b"PAR1": "it is a Parquet file: name it .parquet",
    b"PK\x03\x04": "it is a zip or Excel file: export it as CSV",
    b"\x1f\x8b": "it is gzip-compressed: name it .csv.gz",
    b"\xff\xfe": "it is UTF-16 text: save it as UTF-8",
    b"\xfe\xff": "it is UTF-16 text: save it as UTF-8",
}


@dataclass(frozen=True, slots=True)
class _Source:
    """Names the place of a row for a person: 'meters.csv line 17', or 'the frame row 16'."""

    names: tuple[str, ...]
    unit: str

    def place(self, file: int, row: int) -> str:
        return f"{self.names[file]} {self.unit} {row}"

    def refuse(self, rows: pl.DataFrame, bad: pl.Series, column: str, what: str, advice: str) -> None:
        """Raise DataError with the first place, a count and up to three values if any row is bad."""
        if not bad.any():
            return
        wrong = rows.filter(bad).sort(_FILE, _ROW)
        shown = [_shown(value) for value in wrong[column].unique(maintain_order=True).head(3)]
        notes = [] if wrong.height == 1 else [f"{wrong.height} such rows"]
        notes += ["also " + ", ".join(shown[1:])] if len(shown) > 1 else []
        more = f" ({', '.join(notes)})" if notes else ""
        place = self.place(wrong[_FILE][0], wrong[_ROW][0])
        raise DataError(f"{place}: {column}={shown[0]} {what}{more}: {advice}")


def read_frame(config: DataConfig) -> pl.DataFrame:
    """Return the canonical frame of the files at `config.path`, or of the bundled weather if it is None.

    The path is one file or a glob of files of the same kind: .csv, .csv.gz, .parquet or .pq.
    """
    paths = [weather_path()] if config.path is None else _find_files(config.path)
    kinds = {_kind(path) for path in paths}
    if len(kinds) > 1:
        raise DataError(f"{config.path!r} matches both CSV and Parquet files: give a glob of one kind")
    kind = kinds.pop()
    load = _load_csv if kind == "csv" else _load_parquet
    frames = [load(path, config).with_columns(pl.lit(i).alias(_FILE)) for i, path in enumerate(paths)]
    source = _Source(tuple(str(path) for path in paths), "line" if kind == "csv" else "row")
    return _canonical(_concatenate(frames, source), config, source)


def canonical_frame(frame: pl.DataFrame, config: DataConfig) -> pl.DataFrame:
    """Return the canonical frame of a polars frame whose columns are named as `config` says."""
    rows = frame.with_row_index(_ROW, offset=1).with_columns(pl.lit(0).alias(_FILE))
    return _canonical(rows, config, _Source(("the frame",), "row"))


def _canonical(rows: pl.DataFrame, config: DataConfig, source: _Source) -> pl.DataFrame:
    names = (config.id_column, config.time_column, config.target_column)
    _require_columns([name for name in rows.columns if name not in (_FILE, _ROW)], config, source.names[0])
    if rows.is_empty():
        raise DataError(
            f"{source.names[0]} has column names but no rows: one row per series and time is needed"
        )
    keys = [_ids(rows, names[0], source), _times(rows, names[1], source), _values(rows, names[2], source)]
    others = rows.drop(*names, _FILE, _ROW)
    return pl.DataFrame(keys).hstack(others).sort(_CANONICAL, nulls_last=True, maintain_order=True)


def _ids(rows: pl.DataFrame, name: str, source: _Source) -> pl.Series:
    dtype = rows[name].dtype
    if not (dtype.is_integer() or isinstance(dtype, pl.String | pl.Categorical | pl.Enum)):
        _refuse_type(rows, name, source, "names series: make it text or whole numbers")
    ids = rows[name].cast(pl.String).alias("unique_id")
    empty = ids.is_null() | (ids.str.strip_chars() == "")
    source.refuse(rows, empty, name, "names no series", "every row needs the name of its series")
    advice = f"a series' name has at most {_MAX_ID_CHARACTERS} characters"
    source.refuse(rows, ids.str.len_chars() > _MAX_ID_CHARACTERS, name, "is too long", advice)
    control = ids.str.contains(r"\p{Cc}")
    source.refuse(rows, control, name, "has control characters", "take tabs and line breaks out of names")
    return ids


def _values(rows: pl.DataFrame, name: str, source: _Source) -> pl.Series:
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
        _refuse_type(rows, name, source, "is the value to forecast: make it numbers")
    return values.fill_nan(None).alias("y")


def _times(rows: pl.DataFrame, name: str, source: _Source) -> pl.Series:
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
        advice = (
            "an integer has no unit: write ISO 8601 times, or pl.from_epoch(column, time_unit='s') in polars"
        )
        _refuse_type(
            rows, name, source, advice if dtype.is_integer() else "is the time: make it ISO 8601 text"
        )
    utc = column.cast(pl.Datetime("us")).dt.replace_time_zone("UTC").alias("ds")
    outside = ~utc.dt.year().is_between(1, 9999)
    source.refuse(rows, outside, name, "is outside the years 1 to 9999", "correct the time")
    return utc


def _parse_times(rows: pl.DataFrame, name: str, source: _Source) -> pl.Series:
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
    joined = rows.select(name, _FILE, _ROW).join(parsed, on=name, how="left", maintain_order="left")
    bad = joined["utc"].is_null()
    digits = bad & joined[name].str.contains(r"^\s*-?\d+(\.\d*)?\s*$")
    source.refuse(
        joined, digits, name, "is a bare number", "write ISO 8601 times such as 2013-01-31T05:00:00Z"
    )
    advice = "write ISO 8601 such as 2013-01-31, 2013-01-31 05:00 or 2013-01-31T05:00:00Z"
    source.refuse(joined, bad, name, "is not a time", advice)
    if joined["zoned"].n_unique() > 1:
        first = [joined.filter(pl.col("zoned") == zoned).row(0) for zoned in (True, False)]
        with_zone, without = (f"{_shown(text)}, {source.place(file, row)}" for text, file, row, *_ in first)
        raise DataError(
            f"{name} mixes times with an offset ({with_zone}) and without ({without}): "
            "give all of them an offset, or none if they are UTC"
        )
    return joined["utc"]


def _refuse_type(rows: pl.DataFrame, name: str, source: _Source, advice: str) -> NoReturn:
    first = _shown(rows[name].drop_nulls().first())
    raise DataError(f"{source.names[0]}: column {name!r} holds {rows[name].dtype} ({first}); {advice}")


def _require_columns(found: Sequence[str], config: DataConfig, place: str) -> None:
    wanted = [(flag, getattr(config, flag)) for flag in _FLAGS]
    missing = [(flag, name) for flag, name in wanted if name not in found]
    if missing:
        free = [name for name in found if name not in {name for _, name in wanted}]
        hints = []
        for flag, name in missing:
            guess = _nearest(name, free, _USUAL_NAMES[_FLAGS.index(flag)])
            hints.append(f"--data.{flag} " + (shlex.quote(guess) if guess else "NAME"))
        lacks = ", ".join(repr(name) for _, name in missing)
        columns = _shown(", ".join(found), 300)
        noun = "column" if len(missing) == 1 else "columns"
        message = f"{place} has no {noun} {lacks}, only {columns}: say which to use with {' '.join(hints)}"
        raise DataError(message, [FieldViolation(f"data.{flag}", message) for flag, _ in missing])
    for canonical, (flag, name) in zip(_CANONICAL, wanted, strict=True):
        if canonical != name and canonical in found and canonical not in [given for _, given in wanted]:
            raise DataError(
                f"{place} has a column {canonical!r} beside --data.{flag} {name}: rename or drop one"
            )


def _nearest(wanted: str, found: Sequence[str], usual: Sequence[str]) -> str | None:
    """Return the column that was most likely meant: nearly the same name, a usual one, or one with it inside."""
    folded = {name.strip().casefold(): name for name in found}
    close = difflib.get_close_matches(wanted.casefold(), list(folded), n=1)
    inside = [name for word in usual if len(word) > 3 for name in folded if word in name]
    return next((folded[name] for name in (*close, *usual, *inside) if name in folded), None)


def _shown(value: object, width: int = 60) -> str:
    """Return a value as one short line: quoted and escaped, or 'empty'."""
    if value is None or value == "":
        return "empty"
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= width else text[: width - 3] + "..."


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
        return pl.read_parquet(path, glob=False, hive_partitioning=False).with_row_index(_ROW, offset=1)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {_first_line(error)}") from error


def _load_csv(path: Path, config: DataConfig) -> pl.DataFrame:
    header = _csv_header(path)
    _require_columns(header, config, str(path))
    text = dict.fromkeys((config.id_column, config.time_column, config.target_column), pl.String)
    try:
        rows = pl.read_csv(path, schema_overrides=text, infer_schema_length=None, glob=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(_csv_mistake(path, len(header), error)) from error
    blank = pl.all_horizontal(pl.exclude(_ROW).is_null())  # an empty line is no row
    return rows.with_row_index(_ROW, offset=2).filter(~blank)


def _csv_header(path: Path) -> list[str]:
    """Return the column names after making sure, from its beginning, that the file is CSV at all."""
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    try:
        with opener(path, "rb") as file:
            head = file.read(_HEAD_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {_first_line(error)}") from error
    if not head.strip():
        raise DataError(f"{path} is empty: a line of column names and rows below it are needed")
    reason = next((reason for magic, reason in _BINARY.items() if head.startswith(magic)), None)
    if reason or b"\0" in head:
        raise DataError(f"{path} is not CSV: {reason or 'it holds binary data'}")
    line = head.decode("utf-8-sig", errors="replace").splitlines()[0]
    header = next(csv.reader([line]))
    if len(header) == 1:
        other = next(
            (f"; it has {name}, use commas" for char, name in _SEPARATORS.items() if char in line), ""
        )
        raise DataError(f"{path} is not CSV: its first line {_shown(line)} has no comma{other}")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DataError(f"{path} has two columns named {twice[0]!r}: rename or drop one")
    return header


def _csv_mistake(path: Path, width: int, error: Exception) -> str:
    """Return one helpful line for a file that polars cannot parse as CSV."""
    if "utf-8" in str(error):
        return f"{path} is not UTF-8 text: save it as UTF-8 (in Excel: 'CSV UTF-8')"
    with (gzip.open if path.suffix.lower() == ".gz" else open)(path, "rt", encoding="utf-8") as file:
        reader = csv.reader(file)
        for row in reader:
            if len(row) > width:
                return f"{path} line {reader.line_num} has {len(row)} fields, its header {width}: quote commas in text"
    return f"{path} is not well-formed CSV, look for an unclosed quote: {_first_line(error)}"


def _concatenate(frames: Sequence[pl.DataFrame], source: _Source) -> pl.DataFrame:
    """Return the rows of all files; integers and decimals of the same column become decimals."""
    for name, frame in zip(source.names, frames, strict=True):
        differing = sorted(set(frame.columns) ^ set(frames[0].columns))
        if differing:
            raise DataError(f"{source.names[0]} and {name} differ in columns ({', '.join(differing)})")
    try:
        return pl.concat([frame.select(frames[0].columns) for frame in frames], how="vertical_relaxed")
    except pl.exceptions.PolarsError as error:
        raise DataError(f"the files differ in the types of their columns: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return _shown(str(error).split("\n", 1)[0], 200).strip("'")
