"""What makes a file CSV, and what is wrong with one that is not, in one line for a person.

Knows nothing of columns and of what they mean.
"""

import contextlib
import csv
import gzip
import io
import zlib
from pathlib import Path

from forecaster.data.wording import shown
from forecaster.errors import DataError

_HEAD_BYTES = 65_536
_MAX_HEADER_BYTES = 4_194_304  # wide files have long ones
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
_BINARY = {
    b"PAR1": "it is a Parquet file: name it .parquet",
    b"PK\x03\x04": "it is a zip or Excel file: export it as CSV",
    b"\x1f\x8b": "it is gzip-compressed: name it .csv.gz",
    b"\xff\xfe": "it is UTF-16 text: save it as UTF-8",
    b"\xfe\xff": "it is UTF-16 text: save it as UTF-8",
}


def header_of(path: Path) -> list[str]:
    """Return the column names after making sure, from its beginning, that the file is CSV at all."""
    try:
        with _open(path) as file:
            head = file.read(_HEAD_BYTES)
            if b"\n" not in head and b"\r" not in head:
                head += file.readline(_MAX_HEADER_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {first_line(error)}") from error
    if not head.removeprefix(b"\xef\xbb\xbf").strip():
        raise DataError(f"{path} is empty: a line of column names and rows below it are needed")
    reason = next((reason for magic, reason in _BINARY.items() if head.startswith(magic)), None)
    if reason or b"\0" in head:
        raise DataError(f"{path} is not CSV: {reason or 'it holds binary data'}")
    first = head.lstrip(b"\xef\xbb\xbf\r\n").partition(b"\n")[0].removesuffix(b"\r")
    if b"\r" in first and b'"' not in first.partition(b"\r")[0]:
        advice = "save it with line ends of Unix (LF) or Windows (CRLF)"
        raise DataError(f"{path} is not CSV: its lines end in a carriage return alone, as on old Macs; {advice}")
    line = head.decode("utf-8-sig", errors="replace").lstrip("\r\n").splitlines()[0]
    header = next(csv.reader([line]))
    if len(header) == 1:
        other = next((f" but {name}" for char, name in _SEPARATORS.items() if char in line), "")
        raise DataError(f"{path} is not CSV: its first line {shown(line)} has no commas{other}; use commas")
    if twice := sorted({name for name in header if header.count(name) > 1}):
        raise DataError(f"{path} has two columns named {twice[0]!r}: rename or drop one")
    return header


def mistake_in(path: Path, width: int, error: Exception) -> str:
    """Return one helpful line for a file that polars cannot parse as CSV."""
    reason = str(error)
    if "utf-8" in reason:
        return f"{path} is not UTF-8 text: save it as UTF-8 (in Excel: 'CSV UTF-8')"
    if "more fields" in reason:
        with _open(path) as file, contextlib.suppress(csv.Error):
            reader = csv.reader(io.TextIOWrapper(file, "utf-8", errors="replace", newline=""))
            long = next((row for row in reader if len(row) > width), [])
            fields = f"{len(long)} fields, its header {width}"
            return f"{path} line {reader.line_num} has {fields}: put text that has commas in quotes"
    hint = "" if isinstance(error, OSError) else "is not well-formed CSV, look for an unclosed quote"
    return f"{path} {hint or 'cannot be read'}: {first_line(error)}"


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, shortened."""
    return shown(str(error).split("\n", 1)[0], 200).strip("'")


def _open(path: Path) -> io.BufferedReader | gzip.GzipFile:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")
