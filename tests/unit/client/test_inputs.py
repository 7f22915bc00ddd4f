"""Whatever people pass: frames of many kinds, ids of many kinds, rows of the time ahead, misspelt columns."""

import datetime as dt
import string
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from test_frames import HOUR, MODEL, START, frame

from forecaster.client.calls import Wanted
from forecaster.client.covariates import known_rows, split_future
from forecaster.client.forecast_frames import ForecastResult, failure_frame
from forecaster.client.forecasting import Forecasting
from forecaster.client.inputs import as_frame, series_name, series_names
from forecaster.client.observing import Observing
from forecaster.client.results import StreamReply, empty_result
from forecaster.errors import DataError, FieldViolation, InvalidArgumentError, LimitReachedError

ROWS = {"unique_id": ["b", "a", "a"], "ds": [START, START + HOUR, START], "y": [3.0, None, 1.0]}


@pytest.mark.parametrize(
    "given",
    [
        pl.DataFrame(ROWS),
        pl.LazyFrame(ROWS),
        pd.DataFrame(ROWS),
        pd.DataFrame(ROWS).astype({"unique_id": "category"}),
        pl.DataFrame(ROWS).to_arrow(),
        ROWS,
        {**ROWS, "ds": np.array(["2024-01-01T00", "2024-01-01T01", "2024-01-01T00"], dtype="datetime64[us]")},
    ],
    ids=["polars", "lazy", "pandas", "pandas category", "arrow", "dict", "dict of numpy"],
)
def test_a_frame_of_any_kind_is_the_same_rows(given: Any) -> None:
    assert_frame_equal(known_rows(as_frame(given), None), known_rows(pl.DataFrame(ROWS), None))


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ([1, 2], "a list is no frame: pass one of Polars or pandas"),
        (None, "a NoneType is no frame"),
        (pl.Series("y", [1.0]), "a Series is no frame"),
        ({"unique_id": ["a"], "ds": [1, 2]}, "the frame cannot be read: "),
        (pd.DataFrame({"unique_id": ["a", 1]}), "the frame cannot be read: "),
        (pl.LazyFrame({"y": [1]}).select("x"), "the frame cannot be read: "),
    ],
)
def test_what_is_no_frame_is_said(given: Any, text: str) -> None:
    with pytest.raises(DataError, match=text):
        as_frame(given)


def test_the_advice_is_for_python() -> None:
    with pytest.raises(DataError, match=r"no column 'unique_id', only 'meter', 'ds', 'y': rename\({'meter': 'uniq"):
        known_rows(pl.DataFrame(ROWS).rename({"unique_id": "meter"}), None)


@pytest.mark.parametrize(
    "given",
    [
        ["7", "abc", "7"],
        ("7", "abc"),
        {"7": 1, "abc": 2}.keys(),
        pl.Series(["7", "abc", "7"]),
        pl.Series(["7", "abc"], dtype=pl.Categorical),
        pd.Series(["7", "abc", "7"]),
        pd.Index(["7", "abc"]),
        np.array(["7", "abc"]),
        [7, "abc"],
        [np.int32(7), "abc"],
        iter(["7", "abc"]),
    ],
)
def test_ids_of_any_kind_are_text_each_once(given: Any) -> None:
    found = series_names(given)
    assert found == ["7", "abc"]
    assert {type(name) for name in found} == {str}


def test_one_id_is_one_series() -> None:
    assert (series_names("abc"), series_names(12), series_names(np.int64(-3))) == (["abc"], ["12"], ["-3"])
    assert series_names(pl.Series([3, 1, 3])) == series_names(pd.Series([3, 1])) == series_names(np.array([3, 1]))
    assert (series_name(5), series_names([])) == ("5", [])


@pytest.mark.parametrize(
    "given", [[1.0], [None], [True], True, None, 2.5, b"abc", [b"a"], ["a", ["b"]], pl.DataFrame(ROWS), ROWS]
)
def test_what_names_no_series_is_said(given: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="names no series"):
        series_names(given)


times = st.integers(0, 5).map(lambda k: START + k * HOUR)
cells = st.tuples(st.sampled_from("ab"), times, st.none() | st.floats(-9, 9), st.none() | st.floats(0, 9))
some_rows = st.lists(cells, min_size=1, max_size=12, unique_by=lambda row: row[:2])


@settings(deadline=None)
@given(rows=some_rows)
def test_rows_behind_the_last_value_are_the_known_future_and_no_others(rows: list[tuple[Any, ...]]) -> None:
    schema = {"unique_id": pl.String, "ds": pl.Datetime("us", "UTC"), "y": pl.Float64, "price": pl.Float64}
    sent, future = split_future(known_rows(pl.DataFrame(rows, schema, orient="row"), MODEL), MODEL)
    last = {name: max([t for n, t, y, _ in rows if n == name and y is not None], default=None) for name in "ab"}
    past = {(n, t) for n, t, *_ in rows if last[n] is not None and t <= last[n]}
    assert set(sent.select("unique_id", "ds").rows()) == past
    ahead = set() if future is None else set(future.rows())
    assert ahead == {(n, t, price) for n, t, _, price in rows if (n, t) not in past}


def test_without_known_future_columns_a_last_missing_value_is_an_observation() -> None:
    for model, rows in ((MODEL, frame(rain=[1.0, 2.0, 3.0])), (MODEL, frame()), (None, frame())):
        sent, future = split_future(known_rows(rows, model), model)
        assert (len(sent), future) == (3, None)


@pytest.mark.parametrize("name", ["rainn", "Rain", "rian", "ra in", "holyday", "Holliday", "REGION", "are"])
def test_a_column_nearly_named_like_a_covariate_is_refused(name: str) -> None:
    if name == "are":  # too short to tell
        known_rows(frame(**{name: [1.0, 2.0, 3.0]}), MODEL)
        return
    with pytest.raises(DataError, match=f"has a column {name!r}, nearly the model's covariate"):
        known_rows(frame(**{name: [1.0, 2.0, 3.0]}), MODEL)


@settings(deadline=None)
@given(name=st.text(string.ascii_lowercase, min_size=4, max_size=12))
def test_a_column_named_otherwise_is_left_alone(name: str) -> None:
    if not any(len(set(name) ^ set(known)) <= 4 for known in MODEL.covariates):
        assert name not in known_rows(frame(**{name: [1.0, 2.0, 3.0]}), MODEL).columns


def test_a_misspelt_column_beside_the_right_one_is_left_alone() -> None:
    assert "rain" in known_rows(frame(rain=[1.0, 2.0, 3.0], rainn=[1.0, 2.0, 3.0]), MODEL).columns


def asked_of(future: pl.DataFrame, *ids: str) -> list[str]:
    call = Forecasting(ids, Wanted(future=future), "", MODEL, allow_partial=False).next()
    assert call is not None
    return [one.series_id for one in call.request.options.future_covariates]


def test_a_future_may_hold_other_series_and_the_columns_of_observations() -> None:
    future = pl.DataFrame({"unique_id": ["a", "b", "c"], "ds": [START] * 3, "price": [1.0, 2.0, 3.0]})
    assert asked_of(future, "b", "z") == ["b"]
    assert asked_of(future.drop("unique_id").head(1), "b", "z") == [""]
    of_a_file = future.with_columns(y=None, rain=pl.lit(None, pl.Float64), area=3.0, region=pl.lit("north"))
    assert asked_of(of_a_file, "a") == ["a"]
    assert asked_of(future.clear(), "a") == []
    with pytest.raises(DataError, match="the future is of other series, such as 'a': none of those asked for"):
        asked_of(future, "z")


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("cost", 1.0, "column 'cost' is not the model's: rename or drop it, the known-future covariates are: price"),
        ("rain", 1.0, "column 'rain' is known to the model up to the present only"),
    ],
)
def test_a_future_that_would_change_nothing_is_refused(name: str, value: float, text: str) -> None:
    with pytest.raises(DataError, match=text):
        asked_of(pl.DataFrame({"ds": [START], "price": [1.0], name: [value]}), "a")


def test_times_of_a_day_are_enough() -> None:
    sent = known_rows(
        as_frame({"unique_id": [1, 1], "ds": [dt.date(2024, 1, 1), dt.date(2024, 1, 2)], "y": [1, 2]}), None
    )
    assert sent["unique_id"].to_list() == ["1", "1"]


NO_FORECASTS = StreamReply(empty_result(), pl.DataFrame(), {})


def test_forecasts_are_asked_for_with_the_rows_if_one_request_takes_both() -> None:
    """Refused for its size it is sent again without, and only then in halves."""
    rows = pl.DataFrame({"unique_id": "a", "ds": [START + k * HOUR for k in range(4)], "y": [1.0, 2.0, 3.0, 4.0]})
    sending = Observing(rows, "", None, send_trailing=False, wanted=Wanted(horizon=3))
    call = sending.next()
    assert call is not None
    assert call.request.options.horizon == 3
    sending.answered(NO_FORECASTS)
    assert sending.next() is None
    assert sending.reply is not None
    again = Observing(rows, "", None, send_trailing=False, wanted=Wanted(horizon=3))
    sizes = []
    while (call := again.next()) is not None:
        sizes.append((len(call.request.columns.values), call.request.HasField("options")))
        if len(sizes) <= 2:
            again.refused(LimitReachedError("message larger than max", None))
        else:
            again.answered(NO_FORECASTS)
    assert sizes == [(4, True), (4, False), (2, False), (2, False)]
    assert again.reply is None
    assert again.series_ids == ["a"]


def test_what_is_refused_for_its_size_is_sent_in_halves_in_order() -> None:
    """A server that takes three rows, or two series, at a time; any other refusal is raised at once."""
    rows = pl.DataFrame(
        {"unique_id": "a", "ds": [START + k * HOUR for k in range(10)], "y": [float(k) for k in range(10)]}
    )
    too_many = InvalidArgumentError(
        "", [FieldViolation("columns.values", "10 in one request, 3 are allowed: split it")]
    )
    sending = Observing(rows, "", None, send_trailing=False)
    values: list[float] = []
    while (call := sending.next()) is not None:
        if len(call.request.columns.values) > 3:
            sending.refused(too_many)
            continue
        values += call.request.columns.values
        sending.answered(NO_FORECASTS)
    assert values == list(range(10))
    asking = Forecasting(list("abcdefg"), Wanted(), "", None, allow_partial=True)
    asked: list[str] = []
    while (ask := asking.next()) is not None:
        if len(ask.request.series_ids) > 2:
            asking.refused(LimitReachedError("message larger than max", None))
            continue
        asked += ask.request.series_ids
        asking.answered(ForecastResult(pl.DataFrame(), failure_frame(())))
    assert asked == list("abcdefg")
    for error in (
        InvalidArgumentError("", [FieldViolation("options.quantile_levels", "99 levels, 9 are allowed: split it")]),
        InvalidArgumentError("", [FieldViolation("options.horizon", "too long")]),
        LimitReachedError("the queue is full", 0.5),
    ):
        again = Forecasting(["a", "b"], Wanted(), "", None, allow_partial=False)
        again.next()
        with pytest.raises(type(error)):
            again.refused(error)
