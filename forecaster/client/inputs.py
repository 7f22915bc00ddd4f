"""What people pass to a client, as what it works with: frames of any kind as Polars', ids of any kind as text.

Does no I/O and knows nothing of messages; what a frame's columns mean is `covariates`' affair.
"""

from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import Any, Literal, TypeAlias, get_args

import polars as pl

from forecaster.data.csv_file import first_line
from forecaster.errors import DataError, InvalidArgumentError

Frame: TypeAlias = Any
"""A Polars frame, lazy or not, a pandas one, anything with Arrow's interface, or a mapping of names to columns."""
OnConflict: TypeAlias = Literal["refuse", "correct"]
"""What becomes of rows that say something else of a time than was said before; see `ForecastClient.observe`."""
Ids: TypeAlias = str | int | Iterable[Any]
"""One series' id, or many: a list, a set, a column of Polars or pandas, an array; numbers stand for their text."""


def as_frame(frame: Frame) -> pl.DataFrame:
    """Return any kind of frame as a Polars one; raises DataError for what is none, or mixes types in a column."""
    if isinstance(frame, pl.DataFrame):
        return frame
    try:
        if isinstance(frame, pl.LazyFrame):
            collected: pl.DataFrame = frame.collect()
            return collected
        if isinstance(frame, Mapping):
            return pl.DataFrame(frame)
        if hasattr(frame, "__arrow_c_stream__") and hasattr(frame, "columns"):  # pandas, pyarrow, DuckDB, …
            rows: Any = pl.from_arrow(frame)
            return rows if isinstance(rows, pl.DataFrame) else rows.struct.unnest()
    except (pl.exceptions.PolarsError, TypeError, ValueError, ImportError, OSError) as error:
        raise DataError(f"the frame cannot be read: {first_line(error)}") from error
    kinds = "Polars or pandas, an Arrow table, or a dict of columns"
    raise DataError(f"a {type(frame).__name__} is no frame: pass one of {kinds}")


def series_name(series_id: Any) -> str:
    """Return one series' id as text; raises InvalidArgumentError for what is neither text nor a whole number."""
    if isinstance(series_id, str):
        return str(series_id)
    if isinstance(series_id, Integral) and not isinstance(series_id, bool):
        return str(int(series_id))
    kind = "a missing value" if series_id is None else f"a {type(series_id).__name__}"
    raise InvalidArgumentError(f"{series_id!r}, {kind}, names no series: ids are text or whole numbers")


def series_names(series_ids: Ids) -> list[str]:
    """Return ids as text, each once, in the order of their first mention.

    Raises InvalidArgumentError for what is no id, and for a frame or a mapping, which may be meant otherwise.
    """
    if isinstance(series_ids, str | Integral):
        return [series_name(series_ids)]
    is_frame = hasattr(series_ids, "columns") or isinstance(series_ids, Mapping | pl.LazyFrame)
    if is_frame or isinstance(series_ids, bytes) or not isinstance(series_ids, Iterable):
        advice = "pass its column of ids" if is_frame else "pass an id, or several"
        raise InvalidArgumentError(f"a {type(series_ids).__name__} names no series: {advice}")
    return list(dict.fromkeys(map(series_name, series_ids)))


def is_correcting(on_conflict: str) -> bool:
    """Return whether rows take the place of what was said before; raises InvalidArgumentError for an unknown word."""
    if on_conflict not in get_args(OnConflict):
        raise InvalidArgumentError(f"on_conflict={on_conflict!r} is not one of {', '.join(get_args(OnConflict))}")
    return on_conflict == "correct"
