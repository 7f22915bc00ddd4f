"""Wrong columns, ids, times and values: every mistake is one helpful line."""

import datetime as dt

import polars as pl
import pytest
from reading import Write, csv, refusal

from forecaster.config import DataConfig
from forecaster.data.schema import read_frame
from forecaster.errors import DataError


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
