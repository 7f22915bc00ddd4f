"""Frames to messages and back: covariates, futures, forecasts of different lengths, paths."""

import datetime as dt
import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from forecaster.client.calls import Call, Wanted, forecast_call, stream_request
from forecaster.client.covariates import future_covariates, has_more_columns, known_rows
from forecaster.client.forecast_frames import forecast_frame, path_frame
from forecaster.client.observing import Observing
from forecaster.client.results import ModelInfo, ObserveResult, model_info
from forecaster.config import DataConfig
from forecaster.data.schema import canonical_frame
from forecaster.errors import DataError, InvalidArgumentError
from forecaster.v1.forecast_pb2 import ForecastColumns, FutureCovariates, Path, QuantileColumn, SeriesForecast
from forecaster.v1.forecast_service_pb2 import StreamForecastsRequest
from forecaster.v1.model_service_pb2 import Model

HOUR = dt.timedelta(hours=1)
MICROSECOND = dt.timedelta(microseconds=1)
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
START = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)


def make_model() -> ModelInfo:
    message = Model(
        past_covariates=["rain"],
        future_covariates=["price", "holiday"],
        static_covariates=["area"],
        static_categories=["region"],
    )
    message.step.FromTimedelta(HOUR)
    return model_info(message)


MODEL = make_model()


def frame(**more: object) -> pl.DataFrame:
    return pl.DataFrame(
        {"unique_id": ["b", "a", "a"], "ds": [START, START + HOUR, START], "y": [3.0, None, 1.0], **more}
    )


def calls_of(given: pl.DataFrame, model: ModelInfo | None) -> list[Call[ObserveResult]]:
    """Return the calls that send all of a frame."""
    work = Observing(given, "m", model, send_trailing=True)
    calls = []
    while (call := work.next()) is not None:
        calls.append(call)
    return calls


def test_what_the_model_knows_goes_along_and_nothing_else() -> None:
    given = frame(rain=[1, None, 2], note=["x", "y", "z"], region=["n", None, "s"], price=[math.nan, 5.0, 6.0])
    assert has_more_columns(given)
    (call,) = calls_of(given, MODEL)
    columns = call.request.columns
    assert list(columns.series_ids) == ["a", "b"]
    assert list(columns.missing_rows) == [1]
    found = {c.name: (list(c.values), list(c.missing_rows)) for c in columns.covariates}
    assert found == {"rain": ([2.0, 0.0, 1.0], [1]), "price": ([6.0, 5.0, 0.0], [2])}
    attributes = {a.series_id: (dict(a.numbers), dict(a.categories)) for a in call.request.attributes}
    assert attributes == {"a": ({}, {"region": "s"}), "b": ({}, {"region": "n"})}
    request, _ = stream_request(given, 7, Wanted(), "m", MODEL)
    assert request.columns == columns
    assert list(request.attributes) == list(call.request.attributes)


def test_a_frame_without_covariates_needs_no_model() -> None:
    assert not has_more_columns(frame())
    (call,) = calls_of(frame(), None)
    assert (len(call.request.attributes), len(call.request.columns.covariates)) == (0, 0)
    request, _ = stream_request(frame(), 1, Wanted(), "", None)
    assert [dict(row.covariates) for row in request.observations] == [{}, {}, {}]


def spoken_rows(request: StreamForecastsRequest) -> list[tuple[str, int, float | None]]:
    """Return what a message of a stream says, in rows or in columns."""
    if not request.HasField("columns"):
        return [
            (row.series_id, row.observation_time.ToMicroseconds(), row.value if row.HasField("value") else None)
            for row in request.observations
        ]
    given, missing = request.columns, set(request.columns.missing_rows)
    values = [None if k in missing else value for k, value in enumerate(given.values)]
    ids = [given.series_ids[i] for i in given.series_indices]
    return list(zip(ids, given.observation_times_us, values, strict=True))


names = st.text("ab é~ ", min_size=1, max_size=3).filter(str.strip)
times = st.datetimes(dt.datetime(1900, 1, 1), dt.datetime(2200, 1, 1), timezones=st.just(dt.UTC))
rows_of_frames = st.lists(
    st.tuples(names, times, st.none() | st.floats(-1e9, 1e9) | st.just(math.nan)), min_size=1, max_size=40
)


@settings(deadline=None)
@given(rows=rows_of_frames)
def test_a_small_frame_is_sent_as_a_large_one_would_be(rows: list[tuple[str, dt.datetime, float | None]]) -> None:
    given = pl.DataFrame(
        rows, schema={"unique_id": pl.String, "ds": pl.Datetime("us", "UTC"), "y": pl.Float64}, orient="row"
    )
    plain = canonical_frame(given, DataConfig()).select("unique_id", "ds", "y")
    expected = [(name, round((time - EPOCH) / MICROSECOND), value) for name, time, value in plain.rows()]
    for frame in (given, plain):  # in order already, a small frame is not looked at twice
        assert_frame_equal(known_rows(frame, None), plain)
        request, _ = stream_request(frame, 1, Wanted(), "", None)
        assert spoken_rows(request) == expected
    (call,) = calls_of(given, None)
    assert spoken_rows(StreamForecastsRequest(columns=call.request.columns)) == expected


def test_static_covariates_go_with_every_part_that_has_rows_of_the_series(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forecaster.client.observing._ROWS_PER_REQUEST", 1)
    calls = calls_of(frame(area=[5.0, 7.0, None]), MODEL)
    found = [[(a.series_id, dict(a.numbers)) for a in call.request.attributes] for call in calls]
    assert found == [[("a", {"area": 7.0})], [("a", {"area": 7.0})], [("b", {"area": 5.0})]]
    with pytest.raises(DataError, match="'area' changes within series 'a'"):
        known_rows(frame(area=[5.0, 7.0, 8.0]), MODEL)
    with pytest.raises(DataError, match=r"column 'rain' holds List.* a covariate must be numbers"):
        known_rows(frame(rain=[[1], [2], [3]]), MODEL)


def spoken(message: FutureCovariates) -> tuple[str, dt.datetime, dict[str, list[float | None]]]:
    found = {c.name: [None if k in c.missing_rows else v for k, v in enumerate(c.values)] for c in message.covariates}
    return message.series_id, message.first_time.ToDatetime(dt.UTC), found


def test_futures_are_laid_on_the_grid_by_their_times() -> None:
    given = pl.DataFrame(
        {
            "unique_id": ["a", "b", "a"],
            "ds": [START + 3 * HOUR, START, START + HOUR],
            "price": [3, 9, 1],
            "holiday": [True, False, None],
        }
    )
    first, second = (spoken(message) for message in future_covariates(given, MODEL))
    assert first == ("a", START + HOUR, {"price": [1.0, None, 3.0], "holiday": [None, None, 1.0]})
    assert second == ("b", START, {"price": [9.0], "holiday": [0.0]})
    (every,) = future_covariates(given.head(1).select("ds", "price"), MODEL)
    assert spoken(every) == ("", START + 3 * HOUR, {"price": [3.0]})
    assert future_covariates(None, MODEL) == []


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (pl.col("ds").exclude("ds"), "no column 'ds'"),
        (pl.col("ds") + pl.duration(minutes=pl.int_range(pl.len())), "not whole steps of the model apart"),
        (pl.lit(START).alias("ds"), "repeats a time"),
        (pl.Series("ds", [START, START + 200 * 365 * dt.timedelta(days=1), START + HOUR]), "1000000 are allowed"),
    ],
)
def test_a_future_with_wrong_times_is_refused(change: pl.Expr | pl.Series, text: str) -> None:
    given = pl.DataFrame({"ds": [START, START + HOUR, START + 2 * HOUR], "price": [1.0, 2.0, 3.0]})
    given = given.drop("ds") if "'ds'" in text else given.with_columns(change)
    with pytest.raises(DataError, match=text):
        future_covariates(given, MODEL)


def forecast(series_id: str, hour: int, paths: list[Path]) -> SeriesForecast:
    message = SeriesForecast(series_id=series_id, values=[1.0], paths=paths)
    message.origin_time.FromDatetime(START + hour * HOUR)
    message.step.FromTimedelta(HOUR)
    return message


def columns(**more: object) -> ForecastColumns:
    message = ForecastColumns(
        origin_times_us=[round((START + hour * HOUR - EPOCH) / MICROSECOND) for hour in (0, 5)],
        horizon=2,
        values=[1.0, 2.0, 7.0, 8.0],
        quantiles=[QuantileColumn(level=0.5, values=[1.0, 2.0, 7.0, 8.0])],
        **more,
    )
    message.step.FromTimedelta(HOUR)
    return message


def test_columns_make_one_long_frame() -> None:
    found = forecast_frame(columns(), ["a", "b"])
    assert found.rows() == [
        ("a", START + HOUR, 1.0, 1.0),
        ("a", START + 2 * HOUR, 2.0, 2.0),
        ("b", START + 6 * HOUR, 7.0, 7.0),
        ("b", START + 7 * HOUR, 8.0, 8.0),
    ]
    assert found.columns == ["unique_id", "ds", "y_hat", "q0.5"]
    assert forecast_frame(columns(series_ids=["x", "z"]), ["x", "y", "z"])["unique_id"].to_list() == list("xxzz")
    assert forecast_frame(ForecastColumns(), ["a"]).is_empty()


def test_forecasts_stop_where_their_series_ends() -> None:
    found = forecast_frame(columns(end_probabilities=[0.0, 0.3, 0.6, 0.9]), ["a", "b"])
    assert found.rows() == [
        ("a", START + HOUR, 1.0, 1.0, 0.0),
        ("a", START + 2 * HOUR, 2.0, 2.0, 0.3),
        ("b", START + 6 * HOUR, 7.0, 7.0, 0.6),
    ]
    assert found.columns == ["unique_id", "ds", "y_hat", "q0.5", "p_ended"]


def test_paths_make_one_long_frame() -> None:
    drawn = path_frame(
        [
            forecast("a", 0, [Path(values=[1.0, 2.0]), Path(values=[3.0])]),
            forecast("b", 1, [Path(values=[4.0])]),
        ]
    )
    assert drawn.rows() == [
        ("a", 0, START + HOUR, 1.0),
        ("a", 0, START + 2 * HOUR, 2.0),
        ("a", 1, START + HOUR, 3.0),
        ("b", 0, START + 2 * HOUR, 4.0),
    ]
    found = path_frame([forecast("a", 0, [Path(values=[1.0, 2.0], log_probability=-0.5)])])
    assert found["log_probability"].to_list() == [-0.5, -0.5]
    assert path_frame([]).schema == drawn.schema


@pytest.mark.parametrize(
    "wanted", [Wanted(horizon=0), Wanted(paths=0), Wanted(beams=-1), Wanted(beams=1, width=0), Wanted(seed=2**63)]
)
def test_what_cannot_be_asked_is_said(wanted: Wanted) -> None:
    with pytest.raises(InvalidArgumentError, match="is not allowed"):
        forecast_call(["a"], wanted, "")


def test_corrected_quantiles_are_asked_for() -> None:
    assert Wanted(calibrated=True).options(None).calibrated
    assert not Wanted().options(None).calibrated


def test_the_widest_seed_is_asked_for() -> None:
    options = Wanted(paths=2, seed=-(2**63), length_power=0.5).options(None)
    assert (options.seed, options.paths, options.length_power) == (-(2**63), 2, 0.5)
    assert np.iinfo(np.int64).min == options.seed
