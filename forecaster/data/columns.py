"""One column of an input to one canonical column: ids, times, values, covariates, ends of series.

Every function takes the rows with their places (`report.Source`) and raises DataError, one line that names the place
of the first wrong entry, how many there are, and what to do.

Knows nothing of files, of which columns are wanted, or of time steps.
"""

from typing import NoReturn

import polars as pl

from forecaster.data.report import FILE, ROW, Place
from forecaster.data.wording import shown
from forecaster.errors import DataError

_MAX_ID_CHARACTERS = 256  # the server's own limit: proto/forecaster/v1/observation.proto
_MISSING_WORDS = ("", "na", "n/a", "nan", "null", "none")
_ISO_TIME = (
    r"^(?<date>\d{4}-\d{2}-\d{2})"
    r"(?:[Tt ](?<hm>\d{2}:\d{2})(?::(?<s>[0-5]\d)(?:[.,](?<frac>\d{1,6})0*)?)?)?"
    r" ?(?<zone>[Zz]|UTC|(?<sign>[+-])(?<oh>[01]\d|2[0-3])(?::?(?<om>[0-5]\d))?)?$"
)


def ids(rows: pl.DataFrame, name: str, source: Place) -> pl.Series:
    """Return the names of the series, String `unique_id`."""
    dtype = rows[name].dtype
    if not (dtype.is_integer() or _is_text(dtype)):
        _refuse_type(rows, name, source, "series are named by text or whole numbers")
    found = rows[name].cast(pl.String).alias("unique_id")
    empty = found.is_null() | (found.str.strip_chars() == "")
    source.refuse(rows, empty, name, "names no series", "every row needs the name of its series")
    advice = f"a series' name has at most {_MAX_ID_CHARACTERS} characters"
    source.refuse(rows, found.str.len_chars() > _MAX_ID_CHARACTERS, name, "is too long", advice)
    control = found.str.contains(r"\p{Cc}")
    source.refuse(rows, control, name, "has control characters", "take tabs and line breaks out of names")
    return found


def values(rows: pl.DataFrame, name: str, source: Place) -> pl.Series:
    """Return the values to forecast, Float64 `y`; null is missing."""
    column = rows[name]
    if not (_is_text(column.dtype) or column.dtype.is_numeric() or column.dtype == pl.Null):
        _refuse_type(rows, name, source, "the values to forecast must be numbers")
    return _numbers(rows, name, source).alias("y")


def covariates(rows: pl.DataFrame, name: str, source: Place) -> pl.Series:
    """Return a covariate of numbers, Float64; null is missing, true is 1 and false 0."""
    column = rows[name]
    if _is_text(column.dtype):
        lower = pl.col(name).cast(pl.String).str.strip_chars().str.to_lowercase()
        truths = pl.when(lower == "true").then(pl.lit("1")).when(lower == "false").then(pl.lit("0"))
        rows = rows.with_columns(truths.otherwise(pl.col(name).cast(pl.String)).alias(name))
    elif not (column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.Null)):
        advice = "a covariate must be numbers; text that never changes in a series can be one of data.static_categories"
        _refuse_type(rows, name, source, advice)
    return _numbers(rows, name, source)


def categories(rows: pl.DataFrame, name: str, source: Place) -> pl.Series:
    """Return a category, String without spaces around; null, also for an empty text, is missing."""
    dtype = rows[name].dtype
    if not (_is_text(dtype) or dtype.is_integer() or dtype in (pl.Boolean, pl.Null)):
        _refuse_type(rows, name, source, "a category must be text or whole numbers")
    text = rows[name].cast(pl.String).str.strip_chars()
    return text.set(text == "", None)


def ends(rows: pl.DataFrame, name: str, source: Place) -> pl.Series:
    """Return whether a series is over with a row, Boolean; missing is not."""
    numbers = covariates(rows, name, source).fill_null(0.0)
    advice = "write 1 (or true) in the row in which a series is over, 0 in all others"
    source.refuse(rows, ~numbers.is_in([0.0, 1.0]), name, "is neither 0 nor 1", advice)
    return (numbers == 1.0).alias(name)


def _is_text(dtype: pl.DataType) -> bool:
    return isinstance(dtype, pl.String | pl.Categorical | pl.Enum)


def _numbers(rows: pl.DataFrame, name: str, source: Place) -> pl.Series:
    """Return text or numbers as Float64; null and NaN are missing, and so are some words."""
    column = rows[name]
    if not _is_text(column.dtype):
        return column.cast(pl.Float64).fill_nan(None)
    text = column.cast(pl.String).str.strip_chars()
    numbers = text.cast(pl.Float64, strict=False)
    missing = text.is_null() | text.str.to_lowercase().is_in(_MISSING_WORDS)
    advice = "leave a missing value empty, write others like 12.5"
    source.refuse(rows, numbers.is_null() & ~missing, name, "is not a number", advice)
    return numbers.fill_nan(None)


def times(rows: pl.DataFrame, name: str, source: Place) -> pl.Series:
    """Return the times in UTC, Datetime("us", "UTC") `ds`."""
    column = rows[name]
    source.refuse(rows, column.is_null(), name, "is no time", "every row needs a time")
    dtype = column.dtype
    if _is_text(dtype):
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


def _parse_times(rows: pl.DataFrame, name: str, source: Place) -> pl.Series:
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


def is_zoned(rows: pl.DataFrame, name: str) -> bool | None:
    """Return whether the first of several times has an offset; None if they are not text, or it is no time."""
    if rows.is_empty() or not _is_text(rows[name].dtype):
        return None
    part = rows[name].head(1).cast(pl.String).str.strip_chars().str.extract_groups(_ISO_TIME).struct
    return None if part["date"][0] is None else part["zone"][0] is not None


def _refuse_type(rows: pl.DataFrame, name: str, source: Place, advice: str) -> NoReturn:
    first = shown(rows[name].drop_nulls().first())
    raise DataError(f"{source.names[0]}: column {name!r} holds {rows[name].dtype} ({first}); {advice}")
