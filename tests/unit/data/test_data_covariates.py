"""Covariates out of files: what is read, what is refused, and how it becomes series with their known future."""

import math
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from reading import CANONICAL, Write, csv, refusal, utc

from forecaster.config import DataConfig
from forecaster.data.report import inspect_frame
from forecaster.data.schema import canonical_frame, read_frame
from forecaster.data.windows import known_future, latest_segments, past, to_segments
from forecaster.errors import DataError

HOUR = 3_600_000_000
HEADER = "unique_id,ds,y,rain,price,area,region,over"
EVERYTHING: dict[str, Any] = {
    "past_covariates": ("rain",),
    "future_covariates": ("price",),
    "static_covariates": ("area",),
    "static_categories": ("region",),
    "end_column": "over",
}


def times(hours: list[int]) -> list[str]:
    return [f"2013-01-31 {hour:02}:00" for hour in hours]


def test_every_kind_of_covariate_is_read(write: Write) -> None:
    rows = ["a,2013-01-31 01:00,1,NA,true,5,007,0", "a,2013-01-31 02:00,,1.5,,5, ,TRUE"]
    frame = read_frame(write(csv(*rows, header=HEADER), **EVERYTHING))
    expected = {
        "unique_id": ["a", "a"],
        "ds": [utc(1), utc(2)],
        "y": [1.0, None],
        "rain": [None, 1.5],
        "price": [1.0, None],
        "area": [5.0, 5.0],
        "region": ["007", None],
        "over": [False, True],
    }
    numbers = dict.fromkeys(("rain", "price", "area"), pl.Float64)
    types = {**CANONICAL, **numbers, "region": pl.String, "over": pl.Boolean}
    assert_frame_equal(frame, pl.DataFrame(expected, schema=types))


@pytest.mark.parametrize("kind", ["Boolean", "Int8", "Float32", "Decimal", "Null"])
def test_numbers_of_every_type(kind: str) -> None:
    dtype = pl.Decimal(10, 2) if kind == "Decimal" else getattr(pl, kind)
    column = pl.Series([None] * 3) if kind == "Null" else pl.Series([1, 0, None]).cast(dtype)
    frame = pl.DataFrame({"unique_id": ["a"] * 3, "ds": times([1, 2, 3]), "y": [1.0, 2, 3], "x": column})
    found = canonical_frame(frame, DataConfig(past_covariates=("x",)))["x"]
    assert found.to_list() == ([None] * 3 if kind == "Null" else [1.0, 0.0, None])


@pytest.mark.parametrize("column", [pl.Series([1, 2]), pl.Series(["1", "2"], dtype=pl.Categorical)])
def test_categories_of_every_type(column: pl.Series) -> None:
    frame = pl.DataFrame({"unique_id": ["a", "b"], "ds": times([1, 1]), "y": [1.0, 2], "kind": column})
    assert canonical_frame(frame, DataConfig(static_categories=("kind",)))["kind"].to_list() == ["1", "2"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"past_covariates": ("rian",)},
            "meters.csv has no column 'rian', which data.past_covariates names; did you mean 'rain'?",
        ),
        (
            {"static_categories": ("colour",)},
            "meters.csv has no column 'colour', which data.static_categories names; it has 'unique_id', 'ds', 'y',"
            " 'rain', 'price', 'area', 'region', 'over'",
        ),
        ({"end_column": "ovr"}, "meters.csv has no column 'ovr', which data.end_column names; did you mean 'over'?"),
        (
            {"future_covariates": ("region",)},
            "meters.csv line 2: region='north' is not a number (2 such rows, also 'south'); leave a missing value"
            " empty, write others like 12.5",
        ),
        (
            {"end_column": "price"},
            "meters.csv line 3: price='2' is neither 0 nor 1; write 1 (or true) in the row in which a series is over,"
            " 0 in all others",
        ),
    ],
)
def test_wrong_covariates_are_one_helpful_line(write: Write, settings: dict[str, Any], message: str) -> None:
    rows = ["a,2013-01-31,1,0,1,5,north,0", "b,2013-01-31,1,0,2,5,south,0"]
    assert refusal(write(csv(*rows, header=HEADER), **settings)) == message


def test_covariates_of_another_type_are_refused() -> None:
    frame = pl.DataFrame({"unique_id": ["a"], "ds": ["2013-01-31"], "y": [1.0], "x": [utc(1)], "z": [1.5]})
    assert "column 'x' holds Datetime" in refusal(DataConfig(past_covariates=("x",)), frame)
    message = refusal(DataConfig(static_categories=("z",)), frame)
    assert message == "the frame: column 'z' holds Float64 (1.5); a category must be text or whole numbers"


def test_a_covariate_cannot_have_a_canonical_name(write: Write) -> None:
    columns = {"id_column": "meter", "time_column": "when", "target_column": "load"}
    config = write(csv("a,2013-01-31,1,2", header="meter,when,load,y"), past_covariates=("y",), **columns)
    assert "has 'y' beside --data.target_column load" in refusal(config)


# Series

HOURS = 6
Cell = float | None
cells = st.none() | st.floats(-10, 10)
tables = st.dictionaries(
    st.sampled_from("abc"),
    st.dictionaries(st.integers(0, HOURS), st.tuples(cells, cells, cells), min_size=1),
    min_size=1,
)
Table = dict[str, dict[int, tuple[Cell, Cell, Cell]]]
WITH_FUTURE = DataConfig(past_covariates=("rain",), future_covariates=("price",))


def long_frame(table: Table) -> pl.DataFrame:
    rows = [(name, utc(hour), *row) for name, steps in table.items() for hour, row in steps.items()]
    numbers = dict.fromkeys(("rain", "price"), pl.Float64)
    return pl.DataFrame(rows, schema={**CANONICAL, **numbers}, orient="row")


def plain(table: Table, max_gap: int) -> list[tuple[str, int, list[list[float]]]]:
    """Return (name, first hour, rows of y, rain, price) of every segment, by a loop over rows."""
    made: list[tuple[str, int, list[list[float]]]] = []
    for name, steps in sorted(table.items()):
        last_value = max((hour for hour, row in steps.items() if row[0] is not None), default=-1)
        last = None
        for hour, row in sorted(steps.items()):
            if hour > last_value:
                break
            if last is None or hour - last - 1 > max_gap:
                made.append((name, hour, []))
            else:
                made[-1][2].extend([[math.nan] * 3] * (hour - last - 1))
            made[-1][2].append([math.nan if cell is None else cell for cell in row])
            last = hour
    return made


@settings(deadline=None)
@given(tables, st.integers(1, 3), st.integers(0, 9))
def test_segments_with_covariates_equal_a_plain_loop(table: Table, max_gap: int, seed: int) -> None:
    frame = long_frame(table).sample(fraction=1, shuffle=True, seed=seed)
    found = to_segments(frame, HOUR, max_gap, WITH_FUTURE)
    rows = [
        (one.unique_id, (one.start_us - int(utc(0).timestamp() * 1e6)) // HOUR, np.c_[one.values, one.dynamic].tolist())
        for one in found
    ]
    assert repr(rows) == repr(plain(table, max_gap))


@settings(deadline=None)
@given(tables, st.integers(1, 4))
def test_the_known_future_is_what_lies_behind_the_last_value(table: Table, horizon: int) -> None:
    frame = long_frame(table)
    latest = latest_segments(frame, HOUR, 9, WITH_FUTURE)
    found = known_future(frame, latest, horizon, WITH_FUTURE)
    assert found.shape == (len(latest), horizon, 1)
    for one, ahead in zip(latest, found[..., 0], strict=True):
        last = (int(one.time_us[-1]) - int(utc(0).timestamp() * 1e6)) // HOUR
        rows = table[one.unique_id]
        expected = [rows.get(last + 1 + k, (None, None, None))[2] for k in range(horizon)]
        assert repr(ahead.tolist()) == repr([math.nan if cell is None else cell for cell in expected])


def test_without_known_future_covariates_every_row_is_of_the_past() -> None:
    frame = long_frame({"a": {0: (1.0, 1.0, 1.0), 1: (None, 2.0, 2.0)}})
    data = DataConfig(past_covariates=("rain", "price"))
    (one,) = to_segments(frame, HOUR, 5, data)
    assert len(one) == 2
    assert past(frame, data) is frame
    assert known_future(frame, [one], 3, data).shape == (1, 3, 0)
    (without,) = to_segments(frame, HOUR, 5)
    assert without.covariates is None


def attributes_frame(area: list[float | None], region: list[str | None]) -> pl.DataFrame:
    ids = ["a", "a", "b"]
    frame = pl.DataFrame({"unique_id": ids, "ds": [utc(0), utc(1), utc(0)], "y": [1.0, 2.0, 3.0]})
    numbers, text = pl.Series("area", area, dtype=pl.Float64), pl.Series("region", region, dtype=pl.String)
    return frame.with_columns(numbers, text)


STATIC = DataConfig(static_covariates=("area",), static_categories=("region",))


def test_static_covariates_are_a_series_attributes() -> None:
    frame = attributes_frame([None, 7.0, None], ["north", None, None])
    one, other = to_segments(frame, HOUR, 5, STATIC)
    assert one.attributes == ((7.0,), ("north",))
    assert math.isnan(other.attributes.numbers[0])
    assert other.attributes.categories == ("",)


@pytest.mark.parametrize(
    ("area", "region", "shown"),
    [
        ([1.0, 2.5, 1.0], ["n", "n", "n"], "a has area=1 and area=2.5 (1 such series)"),
        ([1.0, 1.0, 1.0], ["n", "s", "n"], "a has region='n' and region='s' (1 such series)"),
    ],
)
def test_a_static_covariate_that_changes_is_refused(area: list[Any], region: list[Any], shown: str) -> None:
    with pytest.raises(DataError) as caught:
        to_segments(attributes_frame(area, region), HOUR, 5, STATIC)
    assert str(caught.value).startswith(shown)
    assert str(caught.value).isprintable()


def ends_frame(over: list[bool], y: list[float | None] | None = None) -> pl.DataFrame:
    hours = [utc(hour) for hour in range(len(over))]
    values = pl.Series("y", y or [1.0] * len(over), dtype=pl.Float64)
    return pl.DataFrame({"unique_id": "a", "ds": hours, "over": over}).with_columns(values, price=pl.lit(1.0))


def test_a_series_is_over_with_its_last_row_only() -> None:
    data = DataConfig(end_column="over")
    assert [one.ended for one in to_segments(ends_frame([False, False, True]), HOUR, 5, data)] == [True]
    assert [one.ended for one in to_segments(ends_frame([False, False]), HOUR, 5, data)] == [False]
    with pytest.raises(DataError, match=r"a goes on after 2013-01-31T00:00:00.*Z, where over says that it is over"):
        to_segments(ends_frame([True, False, True]), HOUR, 5, data)


def test_an_end_without_a_value_counts_and_the_known_future_lies_behind_it() -> None:
    data = DataConfig(end_column="over", future_covariates=("price",))
    frame = ends_frame([False, True, False, False], [1.0, None, None, None])
    (one,) = to_segments(frame, HOUR, 5, data)
    assert (len(one), one.ended) == (2, True)


def test_only_the_last_segment_of_a_series_is_over() -> None:
    frame = ends_frame([False, False, False, True]).filter(pl.col("ds") != utc(1), pl.col("ds") != utc(2))
    first, last = to_segments(frame, HOUR, 1, DataConfig(end_column="over"))
    assert (first.ended, last.ended) == (False, True)


def test_the_report_tells_the_known_future_and_what_is_missing() -> None:
    table: Table = {"a": {0: (1.0, None, 1.0), 1: (2.0, 3.0, None), 2: (None, None, 4.0), 3: (None, None, 5.0)}}
    report = inspect_frame(long_frame(table), WITH_FUTURE)
    assert report.lines()[1:] == [
        "notice: 2 rows of the known future: a at 2013-01-31T02:00:00Z, a at 2013-01-31T03:00:00Z",
        "notice: 2 missing covariates: rain 50.0% of the rows, price 50.0% of the rows",
    ]
    table["a"][1] = (2.0, math.inf, 1.0)
    with pytest.raises(DataError, match=r"1 infinite covariate \(rain\): a at 2013-01-31T01:00:00Z; leave them empty"):
        inspect_frame(long_frame(table), WITH_FUTURE).raise_for_errors()
