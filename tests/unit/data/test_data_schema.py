"""Reading files and frames: every accepted form gives the same canonical frame, every mistake one helpful line."""

import datetime as dt
import gzip
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from forecaster.config import DataConfig
from forecaster.data.schema import canonical_frame, read_frame
from forecaster.errors import DataError

CANONICAL: dict[str, Any] = {"unique_id": pl.String, "ds": pl.Datetime("us", "UTC"), "y": pl.Float64}
Write = Callable[..., DataConfig]


def utc(hour: int, minute: int = 0, microsecond: int = 0) -> dt.datetime:
    return dt.datetime(2013, 1, 31, hour, minute, 0, microsecond, tzinfo=dt.UTC)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a file in the working folder and return the configuration that reads it."""
    monkeypatch.chdir(tmp_path)

    def write(content: str | bytes | pl.DataFrame, name: str = "meters.csv", **columns: Any) -> DataConfig:
        path = Path(name)
        if isinstance(content, pl.DataFrame):
            content.write_parquet(path)
        elif name.endswith(".gz") and isinstance(content, str):
            path.write_bytes(gzip.compress(content.encode()))
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return DataConfig(path=name, **columns)

    return write


def refusal(config: DataConfig, frame: pl.DataFrame | None = None) -> str:
    """Return the message with which the configured data is refused: one line, without control characters."""
    with pytest.raises(DataError) as caught:
        read_frame(config) if frame is None else canonical_frame(frame, config)
    message = str(caught.value)
    assert message.isprintable(), message
    assert len(message) < 600
    return message


def csv(*rows: str, header: str = "unique_id,ds,y") -> str:
    return "\n".join([header, *rows]) + "\n"


def one_time(text: str) -> pl.DataFrame:
    return canonical_frame(pl.DataFrame({"unique_id": ["a"], "ds": [text], "y": [1.0]}), DataConfig())


# What is accepted


def test_bundled_weather_is_read_without_a_path() -> None:
    frame = read_frame(DataConfig())
    assert dict(frame.schema) == CANONICAL
    assert frame["unique_id"].n_unique() == 18


def test_csv_with_its_own_column_names_and_covariates(write: Write) -> None:
    text = csv("7,b,2013-01-31 02:00,2.5", "8,a,2013-01-31 01:00,", header="flag,meter,when,kwh")
    config = write(text, id_column="meter", time_column="when", target_column="kwh")
    expected = pl.DataFrame(
        {"unique_id": ["a", "b"], "ds": [utc(1), utc(2)], "y": [None, 2.5], "flag": [8, 7]},
        schema={**CANONICAL, "flag": pl.Int64},
    )
    assert_frame_equal(read_frame(config), expected)


@pytest.mark.parametrize("name", ["a.csv", "a.CSV", "a.csv.gz", "a.parquet", "a.pq", "a[1].parquet"])
def test_every_kind_of_file_holds_the_same(write: Write, name: str) -> None:
    rows = pl.DataFrame({"unique_id": ["a", "a"], "ds": [utc(1), utc(2)], "y": [1.0, 2.0]})
    text = csv("a,2013-01-31T01:00:00Z,1", "a,2013-01-31T02:00:00Z,2.0")
    content = rows if name.endswith(("parquet", "pq")) else text
    assert_frame_equal(read_frame(write(content, name)), rows)


def test_glob_reads_all_files_and_makes_integers_and_decimals_one_column(write: Write) -> None:
    write(csv("a,2013-01-31,1,1", header="unique_id,ds,y,x"), "part-1.csv")
    write(csv("0.5,2,2013-01-30,a", header="x,y,ds,unique_id"), "part-2.csv")
    frame = read_frame(DataConfig(path="part-*.csv"))
    assert frame["y"].to_list() == [2.0, 1.0]
    assert frame["x"].to_list() == [0.5, 1.0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2013-01-31", utc(0)),
        ("2013-01-31 05:30", utc(5, 30)),
        ("2013-01-31T05:30:00", utc(5, 30)),
        ("2013-01-31T05:30:00.25", utc(5, 30, 250_000)),
        ("2013-01-31T05:30:00.123456000", utc(5, 30, 123_456)),
        ("2013-01-31T05:30:00Z", utc(5, 30)),
        ("2013-01-31 05:30:00 UTC", utc(5, 30)),
        ("2013-01-31T05:30:00+02:00", utc(3, 30)),
        ("2013-01-31T05:30:00-0330", utc(9)),
        (" 2013-01-31T05:30+01 ", utc(4, 30)),
    ],
)
def test_iso_times(text: str, expected: dt.datetime) -> None:
    assert one_time(text)["ds"].item() == expected


@given(st.datetimes(dt.datetime(1, 1, 3), dt.datetime(9999, 12, 29)), st.integers(-23 * 60 - 59, 23 * 60 + 59))
def test_times_with_an_offset_equal_datetimes_own(naive: dt.datetime, minutes: int) -> None:
    time = naive.replace(tzinfo=dt.timezone(dt.timedelta(minutes=minutes)))
    assert one_time(time.isoformat())["ds"].item() == time


@pytest.mark.parametrize(
    "times",
    [
        pl.Series(["2013-01-31"]),
        pl.Series([dt.date(2013, 1, 31)]),
        pl.Series([dt.datetime(2013, 1, 31)]),
        pl.Series([dt.datetime(2013, 1, 31)], dtype=pl.Datetime("ms")),
        pl.Series([dt.datetime(2013, 1, 31)], dtype=pl.Datetime("ns")),
        pl.Series([utc(0)]).dt.convert_time_zone("America/New_York"),
        pl.Series(["2013-01-31"], dtype=pl.Categorical),
    ],
    ids=lambda series: str(series.dtype),
)
def test_types_of_times(times: pl.Series) -> None:
    frame = canonical_frame(pl.DataFrame({"unique_id": [1], "ds": times, "y": [1]}), DataConfig())
    assert dict(frame.schema) == CANONICAL
    assert frame.row(0) == ("1", utc(0), 1.0)


@pytest.mark.parametrize(
    "values",
    [
        pl.Series([1.5, float("nan"), None]),
        pl.Series([1.5, None, None], dtype=pl.Float32),
        pl.Series([" 1.5", "", None]),
        pl.Series(["1.5", "NaN", "NA"]),
        pl.Series(["15e-1", "null", "n/a"]),
        pl.Series(["1.50", None, None]).cast(pl.Decimal(10, 2)),
    ],
    ids=lambda series: f"{series.dtype} {series.to_list()}",
)
def test_missing_values_of_every_type_become_null(values: pl.Series) -> None:
    times = ["2013-01-29", "2013-01-30", "2013-01-31"]
    frame = canonical_frame(pl.DataFrame({"unique_id": ["a"] * 3, "ds": times, "y": values}), DataConfig())
    assert frame["y"].to_list() == [1.5, None, None]


def test_infinite_values_are_kept_for_the_report() -> None:
    frame = pl.DataFrame({"unique_id": ["a"], "ds": ["2013-01-31"], "y": ["-inf"]})
    assert canonical_frame(frame, DataConfig())["y"].to_list() == [float("-inf")]


def test_leading_zeros_of_ids_survive(write: Write) -> None:
    assert read_frame(write(csv("007,2013-01-31,1")))["unique_id"].to_list() == ["007"]


def test_empty_lines_and_byte_order_mark_are_nothing(write: Write) -> None:
    text = "\ufeff" + csv("a,2013-01-31,1", "", "b,2013-01-31,2", "", "")
    assert read_frame(write(text))["unique_id"].to_list() == ["a", "b"]


values = st.none() | st.floats(allow_nan=True, width=32)
rows = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5), values), min_size=1)


@settings(deadline=None)
@given(rows, st.randoms(use_true_random=False))
def test_order_of_rows_does_not_matter(given_rows: list[tuple[str, int, Any]], shuffle: random.Random) -> None:
    def canonical(ordered: list[tuple[str, int, Any]]) -> pl.DataFrame:
        ids, hours, y = zip(*ordered, strict=True)
        times = [utc(hour) for hour in hours]
        frame = pl.DataFrame({"unique_id": ids, "ds": times, "y": y}, schema=CANONICAL)
        return canonical_frame(frame, DataConfig())

    shuffled = list(given_rows)
    shuffle.shuffle(shuffled)
    assert_frame_equal(canonical(shuffled), canonical(given_rows))


# Files that cannot be read


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
        (gzip.compress(b"unique_id,ds,y\n"), "it is gzip-compressed: name it .csv.gz"),
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


# Columns


def test_missing_columns_suggest_the_flags(write: Write) -> None:
    config = write(csv("a,2013-01-31,1", header="meter,date,kwh"))
    assert refusal(config) == (
        "meters.csv has no columns 'unique_id', 'ds', 'y', only 'meter', 'date', 'kwh': "
        "set --data.id_column meter --data.time_column date --data.target_column NAME"
    )


@pytest.mark.parametrize(
    ("header", "flag"),
    [
        ("unique_id,Timestamp,y", "--data.time_column Timestamp"),
        ("unique_id,reading time,y", "--data.time_column 'reading time'"),
        ("unique_id,dss,y", "--data.time_column dss"),
        ("unique_id, ds,y", "--data.time_column ' ds'"),
        ("uniqueid,ds,y", "--data.id_column uniqueid"),
        ("unique_id,ds,value", "--data.target_column value"),
        ("unique_id,ds,Y", "--data.target_column Y"),
    ],
)
def test_missing_column_suggests_the_nearest(write: Write, header: str, flag: str) -> None:
    assert refusal(write(csv("a,b,c", header=header))).endswith(f": set {flag}")


def test_wrong_flag_suggests_the_right_one(write: Write) -> None:
    config = write(csv("a,2013-01-31,1"), time_column="date")
    with pytest.raises(DataError, match=r"set --data.time_column ds$") as caught:
        read_frame(config)
    assert [violation.field for violation in caught.value.violations] == ["data.time_column"]


def test_many_columns_are_cut_short(write: Write) -> None:
    header = ",".join(f"column_{i}" for i in range(500))
    assert "'column_11', ...: set" in refusal(write(csv(header=header)))


def test_same_column_twice(write: Write) -> None:
    message = refusal(write(csv("a,2013-01-31,1,2", header="unique_id,ds,y,y")))
    assert message == "meters.csv has two columns named 'y': rename or drop one"


def test_canonical_name_taken_by_another_column(write: Write) -> None:
    config = write(csv("a,2013-01-31,1,2", header="unique_id,ds,load,y"), target_column="load")
    assert refusal(config) == "meters.csv has 'y' beside --data.target_column load: rename or drop one"


# Ids


@pytest.mark.parametrize("empty", ["", '""', '"  "'])
def test_empty_id(write: Write, empty: str) -> None:
    message = refusal(write(csv("a,2013-01-31,1", f"{empty},2013-01-31,1")))
    assert message.startswith("meters.csv line 3: unique_id=")
    assert message.endswith("names no series; every row needs the name of its series")


def test_long_id(write: Write) -> None:
    read_frame(write(csv("é" * 256 + ",2013-01-31,1")))
    message = refusal(write(csv("x" * 257 + ",2013-01-31,1")))
    assert "is too long; a series' name has at most 256 characters" in message


def test_control_characters_in_id(write: Write) -> None:
    message = refusal(write(csv("a\tb,2013-01-31,1")))
    assert "line 2: unique_id='a\\tb' has control characters; take tabs and line breaks out" in message


def test_ids_must_be_text_or_whole_numbers() -> None:
    frame = pl.DataFrame({"unique_id": [1.0], "ds": ["2013-01-31"], "y": [1]})
    message = refusal(DataConfig(), frame)
    assert message == ("the frame: column 'unique_id' holds Float64 (1.0); series are named by text or whole numbers")


# Times


@pytest.mark.parametrize("text", ["31/01/2013", "2013-02-30", "2013-01-31T25:00", "2013-01-31T23:59:60", "yesterday"])
def test_unreadable_time(text: str) -> None:
    frame = pl.DataFrame({"unique_id": ["a"] * 2, "ds": ["2013-01-31", text], "y": [1, 2]})
    message = refusal(DataConfig(), frame)
    assert message.startswith(f"the frame row 2: ds='{text}' is not a time; write ISO 8601 such as 2013-01-31")


def test_unreadable_times_are_counted_with_examples(write: Write) -> None:
    times = ["2013-01-31", "x", "x", "y", "z", "w"]
    message = refusal(write(csv(*(f"a,{time},1" for time in times))))
    assert message.startswith("meters.csv line 3: ds='x' is not a time (5 such rows, also 'y', 'z'); write")


def test_time_finer_than_a_microsecond() -> None:
    assert "is not a time" in refusal(
        DataConfig(), pl.DataFrame({"unique_id": ["a"], "ds": ["2013-01-31T05:00:00.1234567"], "y": [1]})
    )
    times = pl.Series([1_359_590_400_000_000_001]).cast(pl.Datetime("ns"))
    message = refusal(DataConfig(), pl.DataFrame({"unique_id": ["a"], "ds": times, "y": [1]}))
    assert "is finer than a microsecond; round the times" in message


@pytest.mark.parametrize("text", ["0000-01-01", "0001-01-01T00:00:00+01:00", "9999-12-31T23:00:00-02:00"])
def test_time_outside_the_calendar(text: str) -> None:
    frame = pl.DataFrame({"unique_id": ["a"], "ds": [text], "y": [1]})
    assert "is outside the years 1 to 9999; correct the time" in refusal(DataConfig(), frame)


def test_empty_time(write: Write) -> None:
    message = refusal(write(csv("a,2013-01-31,1", "a,,1")))
    assert message == "meters.csv line 3: ds=empty is no time; every row needs a time"


def test_integer_times_have_no_unit(write: Write) -> None:
    frame = pl.DataFrame({"unique_id": ["a"], "ds": [1_359_590_400], "y": [1]})
    message = refusal(DataConfig(), frame)
    assert "column 'ds' holds Int64 (1359590400); a number has no unit, use polars.from_epoch, or" in message
    message = refusal(write(csv("a,1359590400,1")))
    assert "line 2: ds='1359590400' is a number without a unit; write ISO 8601" in message


def test_times_of_another_type() -> None:
    frame = pl.DataFrame({"unique_id": ["a"], "ds": [dt.time(5)], "y": [1]})
    assert "column 'ds' holds Time (05:00:00); it must be times, or" in refusal(DataConfig(), frame)


def test_mixed_offsets_show_one_of_each(write: Write) -> None:
    write(csv("a,2013-01-31T05:00:00Z,1"), "part-1.csv")
    write(csv("a,2013-01-31T06:00:00+02:00,1", "a,2013-01-31,1"), "part-2.csv")
    assert refusal(DataConfig(path="part-*.csv")) == (
        "ds mixes times with an offset ('2013-01-31T05:00:00Z', part-1.csv line 2) and without "
        "('2013-01-31', part-2.csv line 3): give all of them an offset, or none if they are UTC"
    )


# Values


def test_value_that_is_no_number(write: Write) -> None:
    rows = ["a,2013-01-31,1", "", 'b,2013-01-31,"1,5"', "c,2013-01-31,abc"]
    assert refusal(write(csv(*rows))) == (
        "meters.csv line 4: y='1,5' is not a number (2 such rows, also 'abc'); "
        "leave a missing value empty, write others like 12.5"
    )


def test_values_of_another_type() -> None:
    frame = pl.DataFrame({"unique_id": ["a"], "ds": ["2013-01-31"], "y": [True]})
    message = refusal(DataConfig(), frame)
    assert message == "the frame: column 'y' holds Boolean (True); the values to forecast must be numbers"


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200) | st.text(',";\n\rab2013-: ', max_size=100).map(str.encode))
def test_any_bytes_are_read_or_refused_in_one_line(write: Write, content: bytes) -> None:
    for name in ("any.csv", "any.csv.gz", "any.pq"):
        refusal(write(content, name))
    refusal(write(b"unique_id,ds,y\n" + b"a,b,c\n" + content))
