"""What the report finds, and that its lines help."""

import datetime as dt
from collections.abc import Iterable
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.config import DataConfig, parse_frequency
from forecaster.data.report import DataReport, Finding, inspect_frame
from forecaster.data.schema import read_frame
from forecaster.errors import DataError

START = dt.datetime(2013, 1, 31, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)
SCHEMA: dict[str, Any] = {"unique_id": pl.String, "ds": pl.Datetime("us", "UTC"), "y": pl.Float64}
Row = tuple[str, dt.datetime, float | None]


def canonical(rows: Iterable[Row]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=SCHEMA, orient="row")


def hourly(name: str, hours: Iterable[float], y: float | None = None) -> list[Row]:
    return [(name, START + hour * HOUR, hour % 7 if y is None else y) for hour in hours]


def inspect(rows: Iterable[Row], frequency: str = "1h") -> DataReport:
    return inspect_frame(canonical(rows), DataConfig(frequency=frequency))


def finding(report: DataReport, kind: str) -> Finding:
    return next(found for found in report.findings if found.kind == kind)


def error_of(report: DataReport) -> str:
    with pytest.raises(DataError) as caught:
        report.raise_for_errors()
    message = str(caught.value)
    assert message.isprintable()
    return message


def test_clean_data_has_no_findings() -> None:
    report = inspect(hourly("a", range(50)) + hourly("b", range(3, 20)))
    assert report == DataReport(67, 2, START, START + 49 * HOUR, ())
    assert report.lines() == ["67 rows in 2 series from 2013-01-31T00:00:00Z to 2013-02-02T01:00:00Z"]
    report.raise_for_errors()


def test_repeated_times_count_the_surplus_rows() -> None:
    report = inspect(hourly("a", [0, 1, 1, 1, 2]) + hourly("b", [0, 1]))
    assert finding(report, "duplicate_time").count == 2
    assert error_of(report) == (
        "the data cannot be used as it is: 2 repeated times: a at 2013-01-31T01:00:00Z, "
        "a at 2013-01-31T01:00:00Z; keep one row for each series and time"
    )


def test_one_odd_time_is_one_finding_even_if_it_comes_first() -> None:
    rows = hourly("a", [-0.9, *range(20)]) + hourly("b", [hour + 0.5 for hour in range(20)])
    odd = finding(inspect(rows), "off_grid")
    assert (odd.count, odd.examples, odd.detail) == (1, ("a at 2013-01-30T23:06:00Z",), "")


def test_each_series_has_a_grid_of_its_own() -> None:
    monday = dt.datetime(2013, 1, 28, tzinfo=dt.UTC)
    rows: list[Row] = [("a", monday + dt.timedelta(weeks=week), week % 3) for week in range(9)]
    rows += [("b", monday + dt.timedelta(weeks=week, hours=7), week % 3) for week in range(9)]
    assert inspect(rows, "1w").findings == ()


def test_times_before_1970_lie_on_the_same_grid() -> None:
    start = dt.datetime(1969, 12, 31, 21, 30, tzinfo=dt.UTC)
    assert inspect([("a", start + hour * HOUR, hour % 3) for hour in range(6)]).findings == ()


def test_finer_data_than_declared_says_which_frequency_to_set() -> None:
    message = error_of(inspect(hourly("a", [quarter / 4 for quarter in range(40)])))
    assert message == (
        "the data cannot be used as it is: 30 times off the grid (the data looks like 15m: "
        "set --data.frequency 15m): a at 2013-01-31T00:15:00Z, a at 2013-01-31T00:30:00Z, "
        "a at 2013-01-31T00:45:00Z; correct the times or the frequency"
    )


def test_coarser_data_than_declared_says_which_frequency_to_set() -> None:
    gap = finding(inspect(hourly("a", range(0, 240, 24))), "gap")
    assert gap.severity == "notice"
    assert gap.detail.endswith("the data looks like 1d: set --data.frequency 1d")


@settings(deadline=None)
@given(st.integers(1, 10**14))
def test_suggested_frequency_can_be_parsed(step_us: int) -> None:
    times = [START + dt.timedelta(microseconds=i * step_us) for i in range(4)]
    rows: list[Row] = [("a", time, i % 2) for i, time in enumerate(times)]
    report = inspect(rows, "100000w")
    suggested = finding(report, "off_grid").detail.rpartition(" ")[2]
    assert parse_frequency(suggested) == step_us


def test_infinite_values_are_errors() -> None:
    rows = [*hourly("a", range(3)), ("a", START + 3 * HOUR, float("inf")), ("b", START, float("-inf"))]
    assert error_of(inspect(rows)) == (
        "the data cannot be used as it is: 2 infinite values: a at 2013-01-31T03:00:00Z, "
        "b at 2013-01-31T00:00:00Z; leave them empty if they are missing"
    )


def test_what_no_server_takes_is_an_error() -> None:
    rows = [*hourly("a", range(3)), ("a", START + 3 * HOUR, 1.1e150), ("b", START, -1e150)]
    assert error_of(inspect(rows)) == (
        "the data cannot be used as it is: 1 value beyond ±1e+150: a at 2013-01-31T03:00:00Z; no server takes them; "
        "leave them empty if they are missing"
    )


def test_several_errors_are_one_line() -> None:
    message = error_of(inspect([*hourly("a", [0, 1, 1, 2, 2.5]), ("a", START + 3 * HOUR, float("inf"))]))
    assert "1 repeated time: " in message
    assert " | 1 time off the grid: " in message
    assert " | 1 infinite value: " in message


def test_gaps_are_counted_with_the_longest() -> None:
    report = inspect(hourly("a", [0, 1, 3, 4, 9]) + hourly("b", [0, 1, 2, 3]))
    assert finding(report, "gap") == Finding(
        "gap",
        "notice",
        2,
        ("a at 2013-01-31T02:00:00Z for 1h", "a at 2013-01-31T05:00:00Z for 4h"),
        "5 missing steps, the longest gap 4",
    )
    report.raise_for_errors()


def test_missing_values_and_series_without_any() -> None:
    nothing: list[Row] = [("b", START, None), ("b", START + HOUR, None)]
    null = finding(inspect(hourly("a", range(5)) + nothing), "null")
    assert (null.count, null.severity) == (2, "notice")
    assert null.detail == "1 series without any value, the first b"


def test_nan_counts_as_missing() -> None:
    assert finding(inspect([*hourly("a", range(3)), ("a", START + 3 * HOUR, float("nan"))]), "null").count == 1


def test_constant_series() -> None:
    rows = hourly("a", range(5), y=3.0) + hourly("b", range(5)) + hourly("c", [0], y=1.0)
    constant = finding(inspect(rows), "constant")
    assert (constant.count, constant.examples) == (1, ("a is always 3.0",))


def test_order_of_rows_does_not_matter() -> None:
    frame = canonical(hourly("a", [0, 1, 1, 2.5, 9]) + hourly("b", [0, 1]))
    shuffled = frame.sample(fraction=1, shuffle=True, seed=7)
    assert inspect_frame(shuffled, DataConfig()) == inspect_frame(frame, DataConfig())


def test_empty_frame_is_refused() -> None:
    with pytest.raises(DataError, match="the data has no rows"):
        inspect([])


def test_report_of_the_bundled_weather() -> None:
    report = inspect_frame(read_frame(DataConfig()), DataConfig())
    report.raise_for_errors()
    assert report.lines() == [
        "156,690 rows in 18 series from 2013-01-01T06:00:00Z to 2013-12-30T23:00:00Z",
        "notice: 270 gaps (450 missing steps, the longest gap 5): EWR/dew_point at 2013-01-01T17:00:00Z for 1h, "
        "EWR/dew_point at 2013-02-18T04:00:00Z for 1h, EWR/dew_point at 2013-02-20T19:00:00Z for 1h",
        "notice: 2,736 missing values: EWR/dew_point at 2013-08-22T13:00:00Z, "
        "EWR/humidity at 2013-08-22T13:00:00Z, EWR/pressure at 2013-01-01T18:00:00Z",
    ]


@pytest.mark.parametrize(("months", "name"), [(1, "monthly"), (3, "quarterly"), (12, "yearly")])
@pytest.mark.parametrize("frequency", ["1h", "1d", "4w3d"])
def test_steps_of_the_calendar_are_not_taken_for_a_frequency(months: int, name: str, frequency: str) -> None:
    times = pl.date_range(dt.date(2010, 1, 1), dt.date(2024, 1, 1), f"{months}mo", eager=True)
    report = inspect(
        [("a", time, float(k % 5)) for k, time in enumerate(times.cast(pl.Datetime("us", "UTC")))], frequency
    )
    hints = {f.detail for f in report.findings if f.detail}
    assert hints
    assert not any("--data.frequency" in hint for hint in hints)
    assert any(f"looks {name}, and such steps vary in length" in hint for hint in hints)


def test_a_step_that_the_data_leaves_is_not_advised() -> None:
    """Six in ten steps of 7 hours, the others of 5: neither is the frequency."""
    hours = np.cumsum([0, *(7 if k % 5 < 3 else 5 for k in range(50))])
    report = inspect([("a", START + int(h) * HOUR, float(h % 3)) for h in hours])
    assert not any("--data.frequency" in f.detail for f in report.findings)
