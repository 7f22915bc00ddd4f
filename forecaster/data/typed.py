"""Columns of a CSV file that nobody has declared: numbers where numbers stand, else the text as it is.

`001` is a name and not the number 1, and a code of twenty digits does not fit into one: what a number would not give
back stays text. Knows nothing of what a column means.
"""

import polars as pl

_NO_NUMBER = r"^\s*[+-]?(0\d|\d{16,}\s*$)"  # a leading zero, or more digits than a float holds
_TRUTHS = ("true", "false")


def typed(text: pl.Series) -> pl.Series:
    """Return a column of text as Int64, Float64 or Boolean if that says all that the text does, else as it is."""
    stripped = text.str.strip_chars()
    if text.str.contains(_NO_NUMBER).any():
        return text
    for dtype in (pl.Int64, pl.Float64):
        numbers = stripped.cast(dtype, strict=False)
        if numbers.null_count() == text.null_count():
            return numbers
    return text == "true" if text.drop_nulls().is_in(_TRUTHS).all() else text
