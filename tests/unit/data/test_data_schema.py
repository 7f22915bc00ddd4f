"""Reading files and frames: every accepted form gives the same canonical frame."""

import datetime as dt
import random
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from reading import CANONICAL, Write, csv, utc

from forecaster.config import DataConfig
from forecaster.data.schema import canonical_frame, read_frame


def one_time(text: str) -> pl.DataFrame:
    return canonical_frame(pl.DataFrame({"unique_id": ["a"], "ds": [text], "y": [1.0]}), DataConfig())


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
