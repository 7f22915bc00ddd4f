"""Files that cannot be read: every mistake is one helpful line."""

import datetime as dt
import gzip
import random
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reading import CANONICAL, Write, csv, refusal

from forecaster.config import DataConfig


def test_missing_file_suggests_its_neighbour(write: Write) -> None:
    write("", "weather.csv")
    assert refusal(DataConfig(path="weathr.csv")) == (
        "no such file: data.path='weathr.csv'; did you mean 'weather.csv'?"
    )


def test_missing_folder_says_where_it_looked(write: Write, tmp_path: Path) -> None:
    assert refusal(DataConfig(path="no/such.csv")).endswith(f"looked from {tmp_path}")
    assert refusal(DataConfig(path="no/*.csv")).startswith("no file matches data.path='no/*.csv'")


def test_folder_is_told_how_to_be_a_glob(write: Write, tmp_path: Path) -> None:
    message = refusal(DataConfig(path=f"{tmp_path}/"))
    assert f"is a folder: give a glob such as '{tmp_path}/*.parquet'" in message


def test_url_is_refused() -> None:
    assert "is a URL: download it" in refusal(DataConfig(path="https://example.org/meters.csv"))


def test_unknown_extension_lists_the_known(write: Write) -> None:
    message = refusal(write(b"PK", "meters.xlsx"))
    assert message == "meters.xlsx has an unknown extension: use .csv, .csv.gz, .parquet, .pq"


def test_glob_of_both_kinds(write: Write) -> None:
    write(csv("a,2013-01-31,1"), "meters.csv")
    write(pl.DataFrame({"y": [1]}), "meters.parquet")
    assert "both CSV and Parquet" in refusal(DataConfig(path="meters.*"))


def test_glob_of_different_columns_or_types(write: Write) -> None:
    write(csv("a,2013-01-31,1,5", header="unique_id,ds,y,x"), "part-1.csv")
    write(csv("a,2013-01-31,1"), "part-2.csv")
    assert refusal(DataConfig(path="part-*.csv")).startswith("part-1.csv and part-2.csv differ in columns (x)")
    write(pl.DataFrame({"unique_id": ["a"], "ds": ["2013-01-31"], "y": [1], "x": [1]}), "1.pq")
    write(pl.DataFrame({"unique_id": ["a"], "ds": [dt.date(2013, 1, 31)], "y": [1], "x": [1]}), "2.pq")
    assert refusal(DataConfig(path="*.pq")) == "'ds' is String in 1.pq but Date in 2.pq: make it one type"
    write(pl.DataFrame({"unique_id": ["a"], "ds": ["2013-01-31"], "y": [0.5], "x": [[1]]}), "2.pq")
    assert "the files differ in the types of other columns" in refusal(DataConfig(path="*.pq"))


@pytest.mark.parametrize("name", ["meters.csv", "meters.csv.gz"])
def test_empty_file(write: Write, name: str) -> None:
    assert f"{name} is empty: a line of column names" in refusal(write(" \n", name))


def test_header_without_rows(write: Write) -> None:
    assert "meters.csv has no rows below its column names" in refusal(write(csv()))
    assert "meters.pq has no rows" in refusal(write(pl.DataFrame(schema=CANONICAL), "meters.pq"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x89PNG\r\n\x1a\n\x00\x00", "it holds binary data"),
        (b"PAR1\x15\x04", "it is a Parquet file: name it .parquet"),
        (b"PK\x03\x04\x14", "it is a zip or Excel file: export it as CSV"),
        (gzip.compress(b"unique_id,ds,y\n", mtime=0), "it is gzip-compressed: name it .csv.gz"),
        (csv("a,2013-01-31,1").encode("utf-16"), "it is UTF-16 text: save it as UTF-8"),
        ("Dear all\nplease find it attached\n", "its first line 'Dear all' has no commas; use commas"),
        (csv(header="unique_id;ds;y"), "'unique_id;ds;y' has no commas but semicolons; use commas"),
        (csv(header="unique_id\tds\ty"), "has no commas but tabs; use commas"),
    ],
)
def test_not_csv(write: Write, content: str | bytes, reason: str) -> None:
    message = refusal(write(content))
    assert message.startswith("meters.csv is not CSV: ")
    assert reason in message


def test_free_text_with_commas_shows_what_was_taken_for_columns(write: Write) -> None:
    message = refusal(write("Dear all, attached, the data\nfor you\n"))
    assert "meters.csv has no columns 'unique_id', 'ds', 'y', only 'Dear all', ' attached'" in message


def test_other_encodings(write: Write) -> None:
    message = refusal(write(csv("Zürich,2013-01-31,1").encode("latin-1")))
    assert "meters.csv is not UTF-8 text: save it as UTF-8" in message


@pytest.mark.parametrize("name", ["meters.csv", "meters.csv.gz"])
def test_too_many_fields_name_the_line(write: Write, name: str) -> None:
    message = refusal(write(csv("a,2013-01-31,1", "a,2013-02-01,1,5"), name))
    assert message == f"{name} line 3 has 4 fields, its header 3: put text that has commas in quotes"


def test_unclosed_quote(write: Write) -> None:
    assert "not well-formed CSV, look for an unclosed quote" in refusal(write(csv('a,2013-01-31,"1')))


def test_damaged_files(write: Write) -> None:
    assert "meters.csv.gz cannot be read" in refusal(write(b"unique_id,ds,y\n", "meters.csv.gz"))
    text = csv(*(f"{random.random()},2013-01-31,1" for _ in range(10_000)))
    cut = gzip.compress(text.encode())[:-1000]
    assert "meters.csv.gz cannot be read: unexpected end of file" in refusal(write(cut, "meters.csv.gz"))
    message = refusal(write(b"unique_id,ds,y\n", "meters.pq"))
    assert message.startswith("meters.pq cannot be read as Parquet: ")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200) | st.text(',";\n\rab2013-: ', max_size=100).map(str.encode))
def test_any_bytes_are_read_or_refused_in_one_line(write: Write, content: bytes) -> None:
    for name in ("any.csv", "any.csv.gz", "any.pq"):
        refusal(write(content, name))
    refusal(write(b"unique_id,ds,y\n" + b"a,b,c\n" + content))
