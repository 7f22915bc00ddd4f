"""Many row messages at once against the same rows one by one, and the event loop while there are very many."""

import asyncio
import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from forecaster.errors import InvalidArgumentError
from forecaster.model.bundle import Bundle
from forecaster.serving.api import row_messages
from forecaster.serving.api.messages import MAX_TIME_US, MIN_TIME_US
from forecaster.serving.api.observe_messages import Validator, observe_work
from forecaster.serving.api.row_messages import from_rows
from forecaster.serving.intake.one_by_one import OneByOne
from forecaster.serving.storage.records import Columns
from forecaster.v1.forecast_service_pb2 import ObserveRequest
from forecaster.v1.observation_pb2 import Observation
from tests.unit.model.family import SPEC, make_model

NAMES = SPEC.dynamic
BUNDLE = Bundle.of(make_model(SPEC), frequency="1h", max_gap_steps=10)


def row(hour: int, **covariates: float) -> Observation:
    message = Observation(series_id=f"s{hour % 7}", value=1.0, covariates=covariates)
    message.observation_time.seconds = 3600 * hour
    return message


def request(rows: int) -> ObserveRequest:
    return ObserveRequest(observations=[row(k, rain=0.5) for k in range(rows)])


numbers = st.sampled_from([0.0, -0.0, 1.0, 1e150, -2e150, math.nan, math.inf, -math.inf])
edges = [
    0,
    1,
    -1,
    MIN_TIME_US // 10**6,
    MIN_TIME_US // 10**6 + 1,
    MAX_TIME_US // 10**6,
    MAX_TIME_US // 10**6 + 1,
    2**62,
]


@st.composite
def odd_rows(draw: st.DrawFn) -> Observation:
    series_id = draw(st.sampled_from(["a", "b", "", "x" * 256, "x" * 257, "a\x00", "a\x85", "é"]))
    message = Observation(series_id=series_id, value=draw(st.none() | numbers))
    if draw(st.booleans()):
        message.observation_time.seconds = draw(st.sampled_from(edges))
        message.observation_time.nanos = draw(st.sampled_from([0, 1000, 999_999_000, 1, -1000, 10**9]))
    for name, value in draw(st.dictionaries(st.sampled_from([*NAMES, "snow"]), numbers)).items():
        message.covariates[name] = value
    return message


def read(rows: list[Observation], known: tuple[str, ...], *, at_once: bool) -> object:
    """Return everything that is read of rows, or that is wrong with them."""
    try:
        columns = (from_rows if at_once else row_messages._one_by_one)(rows, known)
    except InvalidArgumentError as error:
        return str(error), error.violations
    assert isinstance(columns, Columns)
    arrays = (columns.series, columns.time_us, columns.values, columns.covariates)
    shown = [None if array is None else (array.dtype, array.shape, repr(array.tolist())) for array in arrays]
    return columns.series_ids, columns.covariate_names, shown


@settings(max_examples=150, deadline=None)
@given(st.lists(odd_rows(), max_size=4), st.integers(0, 1500), st.sampled_from([(), NAMES]), st.booleans())
def test_many_are_read_as_one_by_one(odd: list[Observation], at: int, known: tuple[str, ...], plain: bool) -> None:
    rows = [row(k) if plain or not known else row(k, price=float(k)) for k in range(1500)]
    rows[at:at] = odd
    assert read(rows, known, at_once=True) == read(rows, known, at_once=False)


@pytest.mark.parametrize("known", [(), NAMES])
def test_what_is_right_is_read_at_once(known: tuple[str, ...]) -> None:
    """The way one by one is not taken without need."""
    rows = [row(k) if k % 2 or not known else row(k, price=float(k), rain=0.0) for k in range(3000)]
    rows[5].ClearField("value")
    rows[6].value = 0.0
    found = row_messages._at_once(rows, known)
    assert found is not None
    assert [math.isnan(value) for value in found.values[4:8]] == [False, True, False, False]
    assert found.values[6] == 0.0
    assert (found.covariates is None) == (not known)


def test_the_event_loop_goes_on_meanwhile() -> None:
    message = request(20_000)

    async def validated(validator: Validator) -> tuple[Columns, int]:
        turns = 0
        task = asyncio.create_task(validator.work(message, BUNDLE))
        while not task.done():
            await asyncio.sleep(0.001)
            turns += 1
        return (await task).columns, turns

    columns, turns = asyncio.run(validated(Validator(65_536, OneByOne())))
    np.testing.assert_array_equal(columns.time_us, observe_work(message, BUNDLE, 65_536).columns.time_us)
    assert turns >= 5


def test_large_requests_are_refused_as_small_ones_are() -> None:
    for rows in (2, 5000):
        message = request(rows)
        message.observations[1].value = math.inf
        with pytest.raises(InvalidArgumentError, match=r"observations\[1\]\.value: inf is not a finite number"):
            asyncio.run(Validator(65_536, OneByOne()).work(message, BUNDLE))
        with pytest.raises(InvalidArgumentError, match="1 are allowed: split it"):
            asyncio.run(Validator(1, OneByOne()).work(message, BUNDLE))
