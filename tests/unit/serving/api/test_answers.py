"""Columns say what messages say, row by row and series by series; ids are judged alike one by one and all at once."""

import asyncio

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from forecaster.client.results import forecast_frame
from forecaster.errors import InvalidArgumentError, OutOfOrderError, SeriesNotFoundError, UnsupportedError
from forecaster.packing import fill, varints
from forecaster.serving.api.answers import add_outcomes, with_forecasts
from forecaster.serving.api.forecast_messages import forecast_plan, forecast_work
from forecaster.serving.api.messages import Violations, check_series_id, check_series_ids, to_duration
from forecaster.serving.api.observe_messages import Plans, from_columns, observe_work
from forecaster.serving.api.row_messages import from_rows
from forecaster.serving.work.forecasting import Forecasts
from forecaster.serving.work.observing import Observed
from forecaster.v1.forecast_pb2 import ForecastOptions, FutureCovariates
from forecaster.v1.forecast_service_pb2 import ForecastResponse, ObserveRequest, ObserveResponse, StreamForecastsRequest
from forecaster.v1.observation_pb2 import Observation, ObservationColumns
from tests.unit.model.family import HORIZON
from tests.unit.serving.api.test_messages import BINS, DIRECT, NAMES

HOUR_US = 3_600_000_000


def frame_of_messages(response: ForecastResponse) -> pl.DataFrame:
    """Return what one message for each series says, in the plainest way."""
    rows = []
    for message in response.forecasts:
        origin, step = message.origin_time.ToMicroseconds(), message.step.ToMicroseconds()
        for k, value in enumerate(message.values):
            quantiles = {f"q{path.level:g}": path.values[k] for path in message.quantiles}
            ended = {"p_ended": message.end_probabilities[k]} if message.end_probabilities else {}
            time = origin + (k + 1) * step
            rows.append({"unique_id": message.series_id, "ds": time, "y_hat": value, **quantiles, **ended})
    return pl.DataFrame(rows).with_columns(pl.col("ds").cast(pl.Datetime("us", "UTC")))


def answer(series: int, steps: int, levels: int, seed: int, *, ends: bool, fails: bool) -> Forecasts:
    rng = np.random.default_rng(seed)
    return Forecasts(
        tuple(f"s{k}" for k in range(series)),
        rng.integers(-(2**50), 2**50, series),
        rng.standard_normal((series, steps)),
        rng.standard_normal((series, steps, levels)),
        {"gone": SeriesNotFoundError("no series 'gone'")} if fails else {},
        rng.random((series, steps)) if ends else None,
        versions=("7",),
    )


@given(st.integers(1, 300), st.integers(1, 5), st.integers(0, 3), st.integers(0, 9), st.booleans(), st.booleans())
def test_packed_forecasts_say_what_messages_say(
    series: int, steps: int, levels: int, seed: int, ends: bool, fails: bool
) -> None:
    found = answer(series, steps, levels, seed, ends=ends, fails=fails)
    wanted = tuple((k + 1) / 10 for k in range(levels))
    plain, packed = (
        asyncio.run(with_forecasts(ForecastResponse(), found, wanted, to_duration(HOUR_US), "m", packed=packed))
        for packed in (False, True)
    )
    assert isinstance(plain, ForecastResponse)
    assert isinstance(packed, bytes)
    sent = ForecastResponse.FromString(packed)
    assert len(sent.SerializeToString()) == len(packed)  # every field stands once, as protobuf would write it
    asked = [*found.series_ids] if not fails else ["gone", *found.series_ids]
    assert_frame_equal(forecast_frame(sent.columns, asked), frame_of_messages(plain), check_exact=True)
    assert (len(sent.forecasts), plain.HasField("columns")) == (0, False)
    assert (sent.columns.model_name, sent.columns.model_version) == ("m", "7")
    assert sent.failures == plain.failures
    assert [failure.series_id for failure in sent.failures] == (["gone"] if fails else [])


def test_many_messages_leave_others_their_turn() -> None:
    async def turns(messages: int) -> int:
        count, done = 0, False

        async def other() -> None:
            nonlocal count
            while not done:
                count += 1
                await asyncio.sleep(0)

        waiting = asyncio.create_task(other())
        refused = {row: OutOfOrderError("late") for row in range(messages)}
        response = ObserveResponse()
        await add_outcomes(response, Observed(np.full(messages, 3, np.uint8), refused))
        assert [rejection.row for rejection in response.rejections] == list(range(messages))
        done = True
        await waiting
        return count

    assert asyncio.run(turns(3000)) > asyncio.run(turns(100)) + 20


texts = st.text(st.characters(codec="utf-8"), max_size=4)


@given(
    st.lists(texts | st.sampled_from(["", "a\0b", "x" * 256, "x" * 257, "é" * 200, "\x7f", "\x9f", "\xa0"]), max_size=4)
)
def test_ids_are_judged_alike_one_by_one_and_all_at_once(odd: list[str]) -> None:
    ids = [*odd, *(f"series {k}" for k in range(40))]
    expected = Violations()
    for i, series_id in enumerate(ids):
        check_series_id(series_id, f"ids[{i}]", expected)
    if len(set(ids)) < len(ids):
        expected.add("ids", "an id stands twice")
    found = Violations()
    check_series_ids(ids, "ids", found)
    assert found == expected


rows = st.tuples(st.integers(0, 5), st.integers(-(2**50), 2**50), st.none() | st.floats(-1e150, 1e150))


@given(st.lists(rows, min_size=1, max_size=80))
def test_packed_observations_say_what_rows_say(given_rows: list[tuple[int, int, float | None]]) -> None:
    messages, index = [], {}
    for series, time_us, value in given_rows:
        messages.append(Observation(series_id=f"s{series}", value=value))
        messages[-1].observation_time.FromMicroseconds(time_us)
        index.setdefault(f"s{series}", len(index))
    columns = ObservationColumns(
        series_ids=index, missing_rows=[k for k, (*_, value) in enumerate(given_rows) if value is None]
    )
    fill(
        columns,
        series_indices=varints(np.array([index[f"s{series}"] for series, *_ in given_rows], np.uint32)),
        observation_times_us=varints(np.array([time_us for _, time_us, _ in given_rows])),
        values=np.array([value or 0.0 for *_, value in given_rows]),
    )
    plain, packed = from_rows(messages, NAMES), from_columns(columns, NAMES)
    assert plain.series_ids == packed.series_ids
    for field in ("series", "time_us", "values"):
        np.testing.assert_array_equal(getattr(plain, field), getattr(packed, field))


@given(st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_varints_are_protobufs(numbers: list[int]) -> None:
    message = ObservationColumns()
    fill(message, observation_times_us=varints(np.array(numbers, dtype=np.int64)))
    assert message == ObservationColumns(observation_times_us=numbers)


def test_a_model_that_draws_its_quantiles_answers_fewer_series_at_once() -> None:
    direct, drawn = (forecast_plan(ForecastOptions(), bundle).each for bundle in (DIRECT, BINS))
    assert drawn - direct == HORIZON * BINS.model.config.sample_paths


@pytest.mark.parametrize("options", [ForecastOptions(paths=1, packed=True), ForecastOptions(beams=1, packed=True)])
def test_paths_do_not_come_in_columns(options: ForecastOptions) -> None:
    with pytest.raises(InvalidArgumentError, match=r"options\.packed: paths and beams do not come in columns"):
        forecast_work(["a"], options, BINS)


def test_a_stream_reads_options_again_when_they_change() -> None:
    plans = Plans()
    for options in (
        ForecastOptions(horizon=2),
        ForecastOptions(horizon=2),
        ForecastOptions(horizon=1, quantile_levels=[0.5]),
        ForecastOptions(future_covariates=[FutureCovariates(series_id="a")]),
    ):
        assert plans.work(("a", "b"), options, DIRECT) == forecast_work(["a", "b"], options, DIRECT)
    with pytest.raises(UnsupportedError):
        plans.work(("a",), ForecastOptions(paths=3), DIRECT)
    with pytest.raises(InvalidArgumentError, match="name at least one series"):
        plans.work((), ForecastOptions(), DIRECT)


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (ObserveRequest(), "observations: it is empty"),
        (ObserveRequest(columns=ObservationColumns(series_ids=["a"] * 11)), r"columns\.series_ids: 11 in one request"),
        (ObserveRequest(columns=ObservationColumns(values=[1.0] * 11)), "columns: 11 in one request, 10 are allowed"),
        (
            StreamForecastsRequest(observations=[Observation()], columns=ObservationColumns()),
            "give observations or columns, not both",
        ),
    ],
)
def test_what_never_fits_is_said(request_: ObserveRequest | StreamForecastsRequest, text: str) -> None:
    with pytest.raises(InvalidArgumentError, match=text):
        observe_work(request_, DIRECT, 10, None, Plans())
