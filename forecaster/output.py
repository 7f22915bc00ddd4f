"""A frame as a command shows it: a table on the terminal, nothing cut, or a file of another program's liking.

Knows nothing of what is in the frame; times are ISO 8601 in UTC where there are only texts.
"""

import pathlib
import sys
from typing import TYPE_CHECKING, Any

from forecaster.errors import ConfigError

if TYPE_CHECKING:
    import polars as pl


def check_output(output: str | None) -> None:
    """Raise ConfigError for a file of no known kind; None is a table, - is CSV on the standard output."""
    if output is not None and output != "-" and pathlib.Path(output).suffix.lower() not in _WRITERS:
        raise ConfigError(f"--output {output} has no known ending: use {', '.join(_WRITERS)}, or - for CSV")


def _write_csv(frame: "pl.DataFrame", file: Any) -> None:
    frame.write_csv(file, datetime_format="%Y-%m-%dT%H:%M:%S%.fZ")


def _write_json(frame: "pl.DataFrame", file: Any) -> None:
    _with_texts(frame).write_json(file)


def _write_lines(frame: "pl.DataFrame", file: Any) -> None:
    _with_texts(frame).write_ndjson(file)


def _write_parquet(frame: "pl.DataFrame", file: Any) -> None:
    frame.write_parquet(file)


def _with_texts(frame: "pl.DataFrame") -> "pl.DataFrame":
    import polars.selectors as cs

    return frame.with_columns(cs.datetime().dt.strftime("%Y-%m-%dT%H:%M:%S%.fZ"))


_WRITERS = {".csv": _write_csv, ".json": _write_json, ".jsonl": _write_lines, ".parquet": _write_parquet}


def show(frame: "pl.DataFrame", output: str | None) -> None:
    """Write a frame to a file, or to the standard output as CSV or as a table with everything in it."""
    import polars as pl

    if output == "-":
        sys.stdout.flush()
        _write_csv(frame, sys.stdout.buffer)
    elif output is not None:
        try:
            with pathlib.Path(output).open("wb") as file:
                _WRITERS[pathlib.Path(output).suffix.lower()](frame, file)
        except OSError as error:
            raise ConfigError(f"cannot write to {output}: {error.strerror}") from error
    else:
        can_draw = "utf" in (sys.stdout.encoding or "").lower()
        with pl.Config(
            tbl_rows=-1,
            tbl_cols=-1,
            tbl_width_chars=10_000,
            fmt_str_lengths=1000,
            tbl_formatting="UTF8_FULL_CONDENSED" if can_draw else "ASCII_FULL_CONDENSED",
            tbl_hide_dataframe_shape=True,
            tbl_hide_column_data_types=True,
        ):
            print(frame)
