"""Regular series out of canonical frames, against a plain loop over rows."""

import math
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.data.windows import Series, latest_segments, split_at, to_segments
from forecaster.errors import DataError

STEP_US = 900_000_000
Plain = tuple[str, int, list[float]]

names = st.sampled_from(["a", "b", "B", "é", "a/1"])
starts = st.integers(-(10**15), 10**15)
values = st.none() | st.floats(allow_nan=False)
# name -> first time, and the steps and values of its rows
tables = st.dictionaries(names, st.tuples(starts, st.dictionaries(st.integers(0, 40), values, min_size=1)), max_size=4)
Table = dict[str, tuple[int, dict[int, float | None]]]


def canonical(table: Table) -> pl.DataFrame:
    rows = [
        (name, start_us + step * STEP_US, y) for name, (start_us, values) in table.items() for step, y in values.items()
    ]
    frame = pl.DataFrame(rows, schema={"unique_id": pl.String, "us": pl.Int64, "y": pl.Float64}, orient="row")
    return frame.select("unique_id", pl.from_epoch("us", "us").dt.replace_time_zone("UTC").alias("ds"), "y")


def plain_segments(table: Table, max_gap_steps: int) -> list[Plain]:
    """Return (name, start, values) of every segment, by a loop over rows."""
    segments: list[Plain] = []
    for name, (start_us, values) in sorted(table.items()):
        last = None
        for step, y in sorted(values.items()):
            if last is None or step - last - 1 > max_gap_steps:
                segments.append((name, start_us + step * STEP_US, []))
            else:
                segments[-1][2].extend([math.nan] * (step - last - 1))
            segments[-1][2].append(math.nan if y is None else y)
            last = step
    return segments


def plain(series: list[Series]) -> list[Plain]:
    return [(one.unique_id, one.start_us, one.values.tolist()) for one in series]


def same(left: list[Plain], right: list[Plain]) -> bool:
    return repr(left) == repr(right)  # NaN equals NaN here


@settings(deadline=None)
@given(tables, st.integers(1, 45), st.integers(0, 9))
def test_segments_equal_a_plain_loop_in_any_order_of_rows(table: Table, max_gap: int, seed: int) -> None:
    frame = canonical(table).sample(fraction=1, shuffle=True, seed=seed)
    expected = plain_segments(table, max_gap)
    assert same(plain(to_segments(frame, STEP_US, max_gap)), expected)
    latest = {segment[0]: segment for segment in expected}
    assert same(plain(latest_segments(frame, STEP_US, max_gap)), list(latest.values()))


@settings(deadline=None)
@given(tables)
def test_observed_values_come_back_at_their_times(table: Table) -> None:
    frame = canonical(table).drop_nulls()
    found = {
        (one.unique_id, int(us)): y
        for one in to_segments(frame, STEP_US, 10)
        for us, y in zip(one.time_us, one.values.tolist(), strict=True)
        if not math.isnan(y)
    }
    given_rows = frame.select("unique_id", pl.col("ds").dt.epoch("us"), "y").iter_rows()
    assert found == {(name, us): y for name, us, y in given_rows}


def timed(series: list[Series]) -> list[tuple[str, int, str]]:
    """Return every value with its name and time, sorted; as text, so that NaN equals NaN."""
    return sorted(
        (one.unique_id, int(us), repr(y)) for one in series for us, y in zip(one.time_us, one.values, strict=True)
    )


@settings(deadline=None)
@given(tables, starts, st.integers(-50, 50))
def test_split_parts_put_together_are_the_whole(table: Table, anywhere_us: int, steps: int) -> None:
    segments = to_segments(canonical(table), STEP_US, 10)
    on_a_step = [segment.start_us + steps * STEP_US for segment in segments[:1]]
    for time_us in [*on_a_step, anywhere_us]:
        before, after = split_at(segments, time_us)
        assert all((part.time_us < time_us).all() for part in before)
        assert all((part.time_us >= time_us).all() for part in after)
        assert all(len(part) for part in before + after)
        assert timed(before + after) == timed(segments)


def test_gap_of_exactly_the_limit_does_not_cut() -> None:
    frame = canonical({"a": (0, {0: 1.0, 4: 2.0, 9: 3.0})})
    assert [len(segment) for segment in to_segments(frame, STEP_US, 4)] == [10]
    assert [len(segment) for segment in to_segments(frame, STEP_US, 3)] == [5, 1]


def test_rows_without_a_value_are_no_gap() -> None:
    frame = canonical({"a": (0, dict.fromkeys(range(9)))})
    (segment,) = to_segments(frame, STEP_US, 1)
    assert len(segment) == 9
    assert np.isnan(segment.values).all()


def test_types_and_times() -> None:
    (segment,) = to_segments(canonical({"a": (7, {0: 1.0, 2: None, 3: 4.0})}), STEP_US, 5)
    assert (segment.start_us, segment.step_us) == (7, STEP_US)
    assert type(segment.start_us) is int
    assert segment.values.dtype == np.float64
    assert segment.time_us.dtype == np.int64
    assert segment.time_us.tolist() == [7 + i * STEP_US for i in range(4)]


def test_covariates_do_not_disturb() -> None:
    frame = canonical({"a": (0, {0: 1.0})}).with_columns(us=pl.lit("x"))
    assert len(to_segments(frame, STEP_US, 5)) == 1


def test_empty_frame_has_no_segments() -> None:
    assert to_segments(canonical({}), STEP_US, 5) == []
    assert split_at([], 0) == ([], [])


@pytest.mark.parametrize("second_us", [0, STEP_US + 1])
def test_repeated_or_odd_times_are_refused(second_us: int) -> None:
    frame = pl.concat([canonical({"a": (0, {0: 1.0})}), canonical({"a": (second_us, {0: 1.0})})])
    with pytest.raises(DataError) as caught:
        to_segments(frame, STEP_US, 5)
    assert str(caught.value).startswith("a repeats a time or leaves its grid at 1970-01-01T00:")
    assert "(1 such rows): inspect_frame" in str(caught.value)


def test_steps_of_all_series_are_taken_at_once() -> None:
    """A million rows of ten thousand series take a second, not minutes."""
    steps, count = 100, 10_000
    us = pl.Series(np.tile(np.arange(steps) * STEP_US, count))
    ids = np.repeat(np.arange(count), steps).astype(str)
    frame = pl.DataFrame({"unique_id": ids, "ds": pl.from_epoch(us, "us"), "y": np.ones(steps * count)})
    segments = to_segments(frame, STEP_US, 5)
    assert len(segments) == count
    assert all(a.unique_id < b.unique_id for a, b in pairwise(segments))
