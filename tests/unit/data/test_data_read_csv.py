"""A file as a client gets it, and what files have in common however they are read: ids as text, rows once."""

import datetime as dt
import gzip
import pathlib
import re

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from forecaster.client import read_csv
from forecaster.config import DataConfig
from forecaster.data.schema import read_frame
from forecaster.data.typed import typed
from forecaster.errors import DataError

TEXT = """unique_id,ds,y,promo,code,wide
001,2024-05-01T01:00:00Z,7,1,007,12345678901234567890
 a ,2024-05-01T01:00:00+02:00,,0,12,3
1,2024-05-01Z,n/a,,,
"""


def test_ids_and_codes_are_the_text_that_stands_there(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(TEXT)
    frame = read_csv(path)
    assert frame["unique_id"].to_list() == ["001", " a ", "1"]
    hours = [dt.datetime(2024, 5, 1, 1), dt.datetime(2024, 4, 30, 23), dt.datetime(2024, 5, 1)]
    assert frame["ds"].to_list() == [hour.replace(tzinfo=dt.UTC) for hour in hours]
    assert frame["y"].to_list() == [7.0, None, None]
    assert frame["promo"].to_list() == [1, 0, None]
    assert frame["code"].to_list() == ["007", "12", None]
    assert frame["wide"].to_list() == ["12345678901234567890", "3", None]
    trained = read_frame(DataConfig(path=str(path)))  # what training reads is the same, in order
    assert_frame_equal(frame.sort("unique_id", "ds"), trained.sort("unique_id", "ds"), check_column_order=False)


def test_a_file_of_the_time_ahead_needs_neither_ids_nor_values(tmp_path: pathlib.Path) -> None:
    with gzip.open(tmp_path / "prices.csv.gz", "wt") as file:
        file.write("when,price\n2024-05-01,1.5\n")
    frame = read_csv(tmp_path / "prices.csv.gz", time_column="when")
    assert frame.columns == ["ds", "price"]
    with pytest.raises(DataError, match=r"prices\.csv\.gz has no column 'ds', only 'when', 'price': name it"):
        read_csv(tmp_path / "prices.csv.gz")
    (tmp_path / "both.csv").write_text("meter,unique_id,ds\n1,2,2024-05-01\n")
    with pytest.raises(DataError, match="'unique_id' beside the column that becomes it"):
        read_csv(tmp_path / "both.csv", id_column="meter")


@given(values=st.lists(st.none() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False), max_size=5))
def test_numbers_are_numbers(values: list[float | None]) -> None:
    text = pl.Series("x", [None if value is None else repr(value) for value in values], dtype=pl.String)
    found = typed(text)
    if found.dtype.is_numeric():
        assert found.to_list() == values
    else:
        assert_frame_equal(found.to_frame(), text.to_frame())
    few = [value for value in values if isinstance(value, int) and abs(value) < 10**15]
    assert typed(pl.Series("x", [str(value) for value in few], dtype=pl.String)).to_list() == few


@given(texts=st.lists(st.none() | st.text("0123456789.+-eE _nainf", max_size=6), max_size=4))
def test_no_zero_in_front_is_ever_lost(texts: list[str | None]) -> None:
    found = typed(pl.Series("x", texts, dtype=pl.String))
    if any(re.match(r"\s*[+-]?0[0-9]", text or "") for text in texts):
        assert found.to_list() == texts


def test_truths_are_truths() -> None:
    assert typed(pl.Series("x", ["true", None, "false"])).to_list() == [True, None, False]


@pytest.mark.parametrize("first", ["\r", "\n"])
def test_carriage_returns_alone_are_said_at_once(first: str, tmp_path: pathlib.Path) -> None:
    rows = [f"s,2024-05-{day:02}T{hour:02}:00:00Z,{day}" for day in range(1, 32) for hour in range(24)]
    (tmp_path / "mac.csv").write_bytes(("unique_id,ds,y" + first + "\r".join(rows)).encode())
    with pytest.raises(DataError):
        read_frame(DataConfig(path=str(tmp_path / "mac.csv")))
    if first == "\r":
        with pytest.raises(DataError, match="its lines end in a carriage return alone, as on old Macs; save it with"):
            read_csv(tmp_path / "mac.csv")


def test_carriage_returns_before_line_feeds_and_in_quotes_are_none_of_that(tmp_path: pathlib.Path) -> None:
    (tmp_path / "dos.csv").write_bytes(b"unique_id,ds,y\r\na,2024-05-01,1\r\n")
    (tmp_path / "quoted.csv").write_bytes(b'"unique_id",ds,y,"my\rnote"\na,2024-05-01,1,x\n')
    for name in ("dos.csv", "quoted.csv"):
        assert read_frame(DataConfig(path=str(tmp_path / name)))["y"].to_list() == [1.0]


def test_rows_that_say_the_same_are_one_row(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.csv").write_text(
        "unique_id,ds,y,rain\na,2024-05-01,1,2\na,2024-05-01,1,2\na,2024-05-01,,\na,2024-05-02,,5\na,2024-05-02,3,\n"
        "b,2024-05-01,1,1\nb,2024-05-01,2,1\n"
    )
    frame = read_frame(DataConfig(path=str(tmp_path / "a.csv"), past_covariates=("rain",)))
    assert frame.select("unique_id", "y", "rain").rows() == [
        ("a", 1.0, 2.0),
        ("a", 3.0, 5.0),
        ("b", 1.0, 1.0),  # which contradict each other, and are refused by `inspect_frame`
        ("b", 2.0, 1.0),
    ]
