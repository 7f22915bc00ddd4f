"""Frames to messages and back: covariates, futures, forecasts of different lengths, paths."""

import datetime as dt
import math

import numpy as np
import polars as pl
import pytest

from forecaster.client.calls import Wanted, forecast_call, observe_calls, stream_request
from forecaster.client.covariates import future_covariates, has_more_columns, known_rows
from forecaster.client.results import ModelInfo, forecast_frame, model_info, path_frame
from forecaster.errors import DataError, InvalidArgumentError
from forecaster.v1.forecast_pb2 import FutureCovariates, Path, QuantilePath, SeriesForecast
from forecaster.v1.model_service_pb2 import Model

HOUR = dt.timedelta(hours=1)
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


def test_what_the_model_knows_goes_along_and_nothing_else() -> None:
    given = frame(rain=[1, None, 2], note=["x", "y", "z"], region=["n", None, "s"], price=[math.nan, 5.0, 6.0])
    assert has_more_columns(given)
    (call,) = observe_calls(given, "m", MODEL)
    columns = call.request.columns
    assert list(columns.series_ids) == ["a", "b"]
    assert list(columns.missing_rows) == [1]
    found = {c.name: (list(c.values), list(c.missing_rows)) for c in columns.covariates}
    assert found == {"rain": ([2.0, 0.0, 1.0], [1]), "price": ([6.0, 5.0, 0.0], [2])}
    attributes = {a.series_id: (dict(a.numbers), dict(a.categories)) for a in call.request.attributes}
    assert attributes == {"a": ({}, {"region": "s"}), "b": ({}, {"region": "n"})}
    request, _ = stream_request(given, 7, Wanted(), "m", MODEL)
    assert [dict(row.covariates) for row in request.observations] == [
        {"rain": 2.0, "price": 6.0},
        {"price": 5.0},
        {"rain": 1.0},
    ]
    assert list(request.attributes) == list(call.request.attributes)


def test_a_frame_without_covariates_needs_no_model() -> None:
    assert not has_more_columns(frame())
    (call,) = observe_calls(frame(), "", None)
    assert (len(call.request.attributes), len(call.request.columns.covariates)) == (0, 0)
    request, _ = stream_request(frame(), 1, Wanted(), "", None)
    assert [dict(row.covariates) for row in request.observations] == [{}, {}, {}]


def test_static_covariates_go_with_every_part_that_has_rows_of_the_series(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forecaster.client.calls._ROWS_PER_REQUEST", 1)
    calls = list(observe_calls(frame(area=[5.0, 7.0, None]), "", MODEL))
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


def forecast(series_id: str, hour: int, values: list[float], **more: object) -> SeriesForecast:
    message = SeriesForecast(
        series_id=series_id, values=values, quantiles=[QuantilePath(level=0.5, values=values)], **more
    )
    message.origin_time.FromDatetime(START + hour * HOUR)
    message.step.FromTimedelta(HOUR)
    return message


def test_forecasts_of_different_lengths_make_one_frame() -> None:
    found = forecast_frame(
        [
            forecast("a", 0, [1.0, 2.0], end_probabilities=[0.0, 0.3, 0.8]),
            forecast("b", 5, [7.0], end_probabilities=[0.1, 0.6, 0.9]),
        ]
    )
    assert found.rows() == [
        ("a", START + HOUR, 1.0, 1.0, 0.0),
        ("a", START + 2 * HOUR, 2.0, 2.0, 0.3),
        ("b", START + 6 * HOUR, 7.0, 7.0, 0.1),
    ]
    assert found.columns == ["unique_id", "ds", "y_hat", "q0.5", "p_ended"]
    assert forecast_frame([forecast("a", 0, [1.0])]).columns == ["unique_id", "ds", "y_hat", "q0.5"]


def test_paths_make_one_long_frame() -> None:
    drawn = path_frame(
        [
            forecast("a", 0, [1.0], paths=[Path(values=[1.0, 2.0]), Path(values=[3.0])]),
            forecast("b", 1, [1.0], paths=[Path(values=[4.0])]),
        ]
    )
    assert drawn.rows() == [
        ("a", 0, START + HOUR, 1.0),
        ("a", 0, START + 2 * HOUR, 2.0),
        ("a", 1, START + HOUR, 3.0),
        ("b", 0, START + 2 * HOUR, 4.0),
    ]
    found = path_frame([forecast("a", 0, [1.0], paths=[Path(values=[1.0, 2.0], log_probability=-0.5)])])
    assert found["log_probability"].to_list() == [-0.5, -0.5]
    assert path_frame([]).schema == drawn.schema


@pytest.mark.parametrize(
    "wanted", [Wanted(horizon=0), Wanted(paths=0), Wanted(beams=-1), Wanted(beams=1, width=0), Wanted(seed=2**63)]
)
def test_what_cannot_be_asked_is_said(wanted: Wanted) -> None:
    with pytest.raises(InvalidArgumentError, match="is not allowed"):
        forecast_call(["a"], wanted, "", None)


def test_the_widest_seed_is_asked_for() -> None:
    options = Wanted(paths=2, seed=-(2**63), length_power=0.5).options(None)
    assert (options.seed, options.paths, options.length_power) == (-(2**63), 2, 0.5)
    assert np.iinfo(np.int64).min == options.seed
