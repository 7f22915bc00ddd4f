"""What a request has to be before anything of it is applied: covariates, static ones, what to forecast."""

import dataclasses
import math
import re

import numpy as np
import pytest

from forecaster.client.results import series_info
from forecaster.errors import InvalidArgumentError, UnsupportedError
from forecaster.model.bundle import Bundle
from forecaster.model.ensemble import Ensemble
from forecaster.serving.api.answers import to_forecasts
from forecaster.serving.api.forecast_messages import MAX_FORECAST_VALUES, forecast_plan, forecast_work
from forecaster.serving.api.messages import to_duration, to_live_scores
from forecaster.serving.api.observe_messages import from_attributes, from_columns
from forecaster.serving.api.row_messages import from_rows
from forecaster.serving.storage.records import Attributes
from forecaster.serving.work.forecasting import Drawn, Forecasts, Sampling, Search
from forecaster.serving.work.series import LiveScores
from forecaster.v1.forecast_pb2 import ForecastOptions, FutureCovariates
from forecaster.v1.forecast_service_pb2 import Series
from forecaster.v1.observation_pb2 import CovariateColumn, Observation, ObservationColumns, SeriesAttributes
from tests.unit.model.family import HORIZON, SPEC, make_model

NAMES = SPEC.dynamic
DIRECT = Bundle.of(make_model(SPEC), frequency="1h", max_gap_steps=10)
RECURRENT = Bundle.of(make_model(SPEC, decoder="recurrent"), frequency="1h", max_gap_steps=10)
BINS = Bundle.of(make_model(SPEC, decoder="recurrent", head="categorical"), frequency="1h", max_gap_steps=10)


def row(hour: int, **covariates: float) -> Observation:
    message = Observation(series_id="a", value=1.0, covariates=covariates)
    message.observation_time.seconds = 3600 * hour
    return message


def columns(*covariates: CovariateColumn) -> ObservationColumns:
    return ObservationColumns(
        series_ids=["a"],
        series_indices=[0, 0],
        observation_times_us=[0, 3_600_000_000],
        values=[1.0, 2.0],
        covariates=covariates,
    )


def test_covariates_of_rows_and_of_columns_are_the_same() -> None:
    rows = from_rows([row(0, price=2.0), row(1, holiday=1.0, rain=-3.0)], NAMES)
    assert rows.covariate_names == ("rain", "price", "holiday")
    np.testing.assert_array_equal(rows.covariates, [[math.nan, 2.0, math.nan], [-3.0, math.nan, 1.0]])
    packed = from_columns(
        columns(
            CovariateColumn(name="price", values=[2.0, math.inf], missing_rows=[1]),
            CovariateColumn(name="rain", values=[0.0, -3.0], missing_rows=[0]),
            CovariateColumn(name="holiday", values=[0.0, 1.0], missing_rows=[0]),
        ),
        NAMES,
    )
    assert packed.covariate_names == ("price", "rain", "holiday")
    np.testing.assert_array_equal(packed.with_covariates(NAMES).covariates, rows.covariates)
    assert from_rows([row(0), row(1)], NAMES).covariates is None
    assert from_columns(columns(), NAMES).covariates is None


@pytest.mark.parametrize(
    ("message", "field", "text"),
    [
        ([row(0), row(1, snow=1.0)], "observations[1].covariates['snow']", "it knows rain, price, holiday"),
        ([row(0, rain=math.inf)], "observations[0].covariates['rain']", "inf is not a finite number"),
        ([row(0, rain=math.nan)], "observations[0].covariates['rain']", "leave a missing one out"),
        (columns(CovariateColumn(name="snow", values=[1, 2])), "columns.covariates[0].name", "'snow' is no past or"),
        (columns(CovariateColumn(name="rain", values=[1, -2e150])), "columns.covariates[0].values[1]", "-2e+150 is"),
        (
            columns(CovariateColumn(name="rain", values=[1])),
            "columns.covariates",
            "1 values of a covariate, and 2 rows",
        ),
        (
            columns(CovariateColumn(name="rain", values=[1, 2]), CovariateColumn(name="price", values=[1])),
            "columns.covariates",
            "differ in length",
        ),
        (
            columns(CovariateColumn(name="rain", values=[1, 2], missing_rows=[2])),
            "columns.covariates[0].missing_rows",
            "lie within",
        ),
        (columns(*2 * [CovariateColumn(name="rain", values=[1, 2])]), "columns.covariates[1].name", "stands twice"),
    ],
)
def test_wrong_covariates_are_named(message: ObservationColumns | list[Observation], field: str, text: str) -> None:
    with pytest.raises(InvalidArgumentError, match=re.escape(text)) as wrong:
        from_rows(message, NAMES) if isinstance(message, list) else from_columns(message, NAMES)
    assert [violation.field for violation in wrong.value.violations] == [field]


def test_a_model_without_covariates_refuses_them() -> None:
    with pytest.raises(InvalidArgumentError, match="'rain' is no past or known-future covariate of the model"):
        from_rows([row(0, rain=1.0), row(1)])
    with pytest.raises(InvalidArgumentError, match="it knows none"):
        from_columns(columns(CovariateColumn(name="rain", values=[1, 2])))


def test_static_covariates_are_read() -> None:
    messages = [
        SeriesAttributes(series_id="a", numbers={"area": 2.0}, categories={"region": "x" * 256}),
        SeriesAttributes(series_id="b"),
    ]
    expected = Attributes(("a", "b"), ({"area": 2.0}, {}), ({"region": "x" * 256}, {}))
    assert from_attributes(messages, SPEC) == expected
    assert from_attributes([], SPEC) is None


@pytest.mark.parametrize(
    ("message", "field", "text"),
    [
        (SeriesAttributes(series_id="a", numbers={"rain": 1.0}), "attributes[0].numbers['rain']", "it knows area"),
        (SeriesAttributes(series_id="a", numbers={"area": math.nan}), "attributes[0].numbers['area']", "nan is not"),
        (
            SeriesAttributes(series_id="a", categories={"area": "1"}),
            "attributes[0].categories['area']",
            "no static category of the model: it knows region, kind",
        ),
        (
            SeriesAttributes(series_id="a", categories={"kind": "x" * 257}),
            "attributes[0].categories['kind']",
            "at most 256 characters, not 257",
        ),
        (SeriesAttributes(series_id=""), "attributes[0].series_id", "1 to 256 characters"),
    ],
)
def test_wrong_static_covariates_are_named(message: SeriesAttributes, field: str, text: str) -> None:
    with pytest.raises(InvalidArgumentError, match=re.escape(text)) as wrong:
        from_attributes([message], SPEC)
    assert [violation.field for violation in wrong.value.violations] == [field]
    twice = [SeriesAttributes(series_id="a"), SeriesAttributes(series_id="a")]
    with pytest.raises(InvalidArgumentError, match="a series stands twice"):
        from_attributes(twice, SPEC)


def future(series_id: str, seconds: int | None = None, **covariates: list[float]) -> FutureCovariates:
    given = [CovariateColumn(name=name, values=values) for name, values in covariates.items()]
    message = FutureCovariates(series_id=series_id, covariates=given)
    if seconds is not None:
        message.first_time.seconds = seconds
    return message


def test_futures_of_all_series_come_before_their_own() -> None:
    given = [
        future("b", price=[1.0, 2.0]),
        future("", 7200, holiday=[1.0] * 9),
        future("a", 3600, holiday=[0.0], price=[5.0]),
    ]
    work = forecast_work(["a", "b"], ForecastOptions(future_covariates=given), DIRECT)
    common, own = work.futures
    assert (common.series.tolist(), common.timed.tolist()) == ([0, 1], [True, True])
    assert common.first_us.tolist() == [7_200_000_000, 7_200_000_000]
    np.testing.assert_array_equal(common.values, np.broadcast_to([[math.nan, 1.0]], (2, 9, 2)))
    assert (own.series.tolist(), own.timed.tolist(), own.first_us.tolist()) == (
        [1, 0],
        [False, True],
        [0, 3_600_000_000],
    )
    missing = math.nan
    np.testing.assert_array_equal(
        own.values, [[[1.0, missing], [2.0, missing]], [[5.0, 0.0], [missing, missing]]]
    )  # price, holiday


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (ForecastOptions(paths=1001), "options.paths: 1001 is not 0 to 1000"),
        (ForecastOptions(beams=1001), "options.beams: 1001 is not 0 to 1000"),
        (ForecastOptions(beams=3, beam_width=1001), "options.beam_width: 1001 is not 0 to 1000"),
        (ForecastOptions(beams=3, beam_width=2), "2 is less than the 3 beams"),
        (ForecastOptions(beams=3, paths=2), "not for both"),
        (ForecastOptions(beams=3, length_power=-1), "options.length_power: -1.0 is not 0 to 10"),
        (ForecastOptions(beams=3, length_power=math.nan), "options.length_power: nan is not"),
        (ForecastOptions(future_covariates=[future("a", rain=[1.0])]), "'rain' is no known-future covariate"),
        (ForecastOptions(future_covariates=[future("c", price=[1.0])]), "'c' is not among the series"),
        (
            ForecastOptions(future_covariates=[future("a"), future("a")]),
            "'a' is not among the series asked for, or twice",
        ),
        (ForecastOptions(future_covariates=[future("", price=[1.0] * 7)]), "7 steps, and a horizon of 6"),
        (ForecastOptions(horizon=2, future_covariates=[future("", price=[1.0] * 3)]), "3 steps, and a horizon of 2"),
        (ForecastOptions(future_covariates=[future("", price=[math.inf])]), "inf is not a finite number"),
        (ForecastOptions(future_covariates=[future("", price=[1.0], holiday=[])]), "differ in length"),
        (ForecastOptions(future_covariates=[future("", 10**12, price=[1.0])]), "outside the years"),
        (ForecastOptions(hypothetical=True), "options.hypothetical: nothing is assumed without"),
    ],
)
def test_what_cannot_be_forecast_is_said(options: ForecastOptions, text: str) -> None:
    with pytest.raises(InvalidArgumentError, match=re.escape(text)):
        forecast_work(["a", "b"], options, BINS)


def test_whether_a_future_is_an_assumption_is_known() -> None:
    for assumed in (False, True):
        options = ForecastOptions(future_covariates=[future("a", price=[1.0])], hypothetical=assumed)
        assert forecast_work(["a"], options, DIRECT).hypothetical is assumed


def test_paths_count_among_the_values_of_an_answer() -> None:
    levels = len(DIRECT.model.config.quantile_levels)
    own = BINS.model.config.sample_paths
    ids = [f"s{k}" for k in range(MAX_FORECAST_VALUES // (HORIZON * (1 + levels + own + 1000)))]
    assert forecast_work(ids, ForecastOptions(paths=1000, seed=-5), BINS).drawing == Sampling(1000, -5)
    assert forecast_work(ids, ForecastOptions(beams=1, beam_width=1000), BINS).drawing == Search(1, 1000, 0.0)
    for options in (ForecastOptions(paths=1000), ForecastOptions(beams=250)):
        with pytest.raises(InvalidArgumentError, match="values in one answer"):
            forecast_work([*ids, "one more"], options, BINS)
    assert forecast_work(["a"], ForecastOptions(beams=10), BINS).drawing == Search(10, 40, 0.0)
    assert forecast_work(["a"], ForecastOptions(beams=900), BINS).drawing == Search(900, 1000, 0.0)


def test_futures_of_many_series_and_many_steps_are_too_much() -> None:
    ids = [f"s{k}" for k in range(3000)]
    futures = [future(series_id, 3600, price=[1.0]) for series_id in ids]
    forecast_work(ids, ForecastOptions(horizon=1, future_covariates=futures), DIRECT)
    futures[0] = future("s0", 3600, price=[1.0] * 1000)  # all would be as long
    with pytest.raises(InvalidArgumentError, match="3000 series with up to 1000 steps of 2 covariates"):
        forecast_work(ids, ForecastOptions(horizon=1, future_covariates=futures), DIRECT)


def test_corrected_quantiles_are_asked_for() -> None:
    for calibrated in (False, True):
        options = ForecastOptions(calibrated=calibrated)
        assert forecast_work(["a"], options, DIRECT).calibrated is calibrated
        assert forecast_plan(options, DIRECT).work(("a",)).calibrated is calibrated


def test_live_scores_say_what_is_known() -> None:
    nothing = LiveScores(24, 0, 0.8, math.nan, math.nan, math.nan, math.nan)
    messages = to_live_scores([LiveScores(1, 7, 0.8, 0.5, -0.25, 0.0, 0.75), nothing])
    assert messages[0].HasField("coverage")
    shown = [[field.name for field, _ in message.ListFields()] for message in messages]
    assert shown[1] == ["horizon", "nominal_coverage"]
    info = series_info(Series(live=messages))
    assert [dataclasses.astuple(one) for one in info.live] == [
        (1, 7, 0.5, -0.25, 0.8, 0.0, 0.75),
        (24, 0, None, None, 0.8, None, None),
    ]


def test_a_model_that_cannot_draw_or_search_says_so() -> None:
    ensemble = Ensemble([make_model(SPEC, decoder="recurrent", head="categorical") for _ in range(2)])
    several = Bundle.of(ensemble, frequency="1h", max_gap_steps=10)
    for bundle, options in (
        (DIRECT, ForecastOptions(paths=3)),
        (DIRECT, ForecastOptions(beams=3)),
        (RECURRENT, ForecastOptions(beams=3)),
        (several, ForecastOptions(beams=3)),
    ):
        with pytest.raises(UnsupportedError):
            forecast_work(["a"], options, bundle)
    forecast_work(["a"], ForecastOptions(paths=3), several)


def test_forecasts_and_paths_stop_where_their_series_ends() -> None:
    median = np.arange(12.0).reshape(3, 4)
    answer = Forecasts(
        ("a", "b", "c"),
        np.zeros(3, dtype=np.int64),
        median,
        np.stack([median - 1, median + 1], axis=-1),
        {},
        np.array([[0.0, 0.2, 0.6, 0.7], [0.9, 1.0, 1.0, 1.0], [0.0, 0.1, 0.2, 0.5]]),
        Drawn(
            np.stack([median, -median], axis=1),
            np.array([[1, 4], [2, 3], [4, 4]]),
            np.array([[-1.0, -2.0], [-1.0, -math.inf], [-3.0, -4.0]]),
        ),
    )
    a, b, c = to_forecasts(answer, (0.1, 0.9), to_duration(3_600_000_000), "m")
    assert (list(a.values), list(b.values), list(c.values)) == ([0, 1], [4], [8, 9, 10, 11])
    assert [list(path.values) for path in a.quantiles] == [[-1, 0], [1, 2]]
    assert list(a.end_probabilities) == [0.0, 0.2, 0.6, 0.7]
    assert [list(path.values) for path in a.paths] == [[0], [0, -1, -2, -3]]
    assert [path.log_probability for path in a.paths] == [-1.0, -2.0]
    assert [list(path.values) for path in b.paths] == [[4, 5]]  # a search may find fewer
