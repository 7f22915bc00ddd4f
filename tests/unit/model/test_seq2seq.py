"""The forecaster beyond its laws (see test_exactness.py): precision, units, memory, seasonal candidates."""

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from forecaster.model.inputs.observations import Observations
from forecaster.model.state import select
from forecaster.model.stepping.ragged import Runs, advance
from tests.unit.model.family import HOUR_US, MODELS, START_US, assert_same, draw_observations, make_model


@torch.inference_mode()
def test_long_ragged_runs_go_through_several_chunks() -> None:
    model, lengths = MODELS["gru"], [1, 3, 513, 1400]
    observations = draw_observations(3, 4, 1400, 0.1)
    run, step = torch.nonzero(observations.observed & (torch.arange(1400) < torch.tensor(lengths)[:, None])).T
    runs = Runs(observations.time_us[:, 0], torch.tensor(lengths), run, step, observations.values[run, step])
    advanced = advance(model, model.initial_state(4), runs)
    for row, length in enumerate(lengths):
        one = observations.rows(slice(row, row + 1)).part(slice(length))
        assert_same(model.scan(model.initial_state(1), one)[0], select(advanced, torch.tensor([row])))


@torch.inference_mode()
@pytest.mark.parametrize("name", ["gru", "lstm", "rnn relu", "deep transition"])
def test_ten_thousand_carried_steps_stay_exact(name: str) -> None:
    model, observations = MODELS[name], draw_observations(5, 2, 10_000, 0.05)
    whole, _ = model.scan(model.initial_state(2), observations)
    state = model.initial_state(2)
    for t in range(10_000):
        state = model.step(state, observations.at(t))
    left, right = model.decode(whole, 6), model.decode(state, 6)
    assert ((left - right).abs() / right.abs().clamp_min(1e-9)).max() < 1e-4


@torch.inference_mode()
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), power=st.integers(-20, 20))
def test_a_series_in_other_units_is_forecast_in_those_units(seed: int, power: int) -> None:
    model, observations = MODELS["gru"], draw_observations(seed, 2, 60, 0.1)
    factor = 2.0**power  # exact in floating point
    scaled = observations._replace(values=observations.values * factor)
    plain, _ = model.scan(model.initial_state(2), observations)
    other, _ = model.scan(model.initial_state(2), scaled)
    torch.testing.assert_close(model.decode(other, 6), model.decode(plain, 6) * factor, rtol=1e-4, atol=0.0)


@torch.inference_mode()
@pytest.mark.parametrize("value", [0.0, -3.5, 1e12])
def test_a_constant_series_is_forecast_finite(value: float) -> None:
    model = MODELS["gru"]
    n = torch.ones(1, 50)
    observations = Observations(
        START_US + HOUR_US * torch.arange(50)[None], torch.full((1, 50), value, dtype=torch.float64), n.bool()
    )
    state, _ = model.scan(model.initial_state(1), observations)
    assert torch.isfinite(model.decode(state, 6)).all()


@torch.inference_mode()
@pytest.mark.parametrize("seasons", [(), (7,), (24, 168)])
def test_the_memory_follows_the_seasons(seasons: tuple[int, ...]) -> None:
    model = make_model(season_lengths=seasons)
    assert model.memory >= max((24, *seasons))
    observations = draw_observations(1, 3, 200, 0.1)
    state, _ = model.scan(model.initial_state(3), observations)
    oldest = 200 - model.memory
    for row in range(3):
        expected = observations.values[row, max(oldest, 0) :]
        position = torch.arange(max(oldest, 0), 200) % model.memory
        assert torch.equal(state["ring"][row, position], expected)
    assert torch.isfinite(model.decode(state, 6)).all()


def test_the_seasonal_candidates_are_the_seasonal_naive() -> None:
    """With the gates on the first lag and the head at zero width, the median is the seasonal naive."""
    model = make_model()
    for parameter in model.decoder.parameters():
        torch.nn.init.zeros_(parameter)
    model.decoder.readout.gates.bias.data[0] = 100.0  # lag 5, the first season
    observations = draw_observations(2, 2, 60, 0.0)
    with torch.inference_mode():
        state, _ = model.scan(model.initial_state(2), observations)
        median = model.decode(state, 6)[..., model.config.quantile_levels.index(0.5)]
    expected = observations.values[:, [55, 56, 57, 58, 59, 55]]  # the sixth step takes the same season again
    torch.testing.assert_close(median, expected, rtol=1e-5, atol=1e-5)


def test_observed_steps_are_counted() -> None:
    model = MODELS["gru"]
    observations = draw_observations(1, 1, 30, 0.5)
    with torch.inference_mode():
        state, _ = model.scan(model.initial_state(1), observations)
    assert int(state["observed_count"]) == int(observations.observed.sum())
    assert int(state["position"]) == 30
    assert int(state["time_us"]) == int(observations.time_us[0, -1])
    assert math.isclose(model.state_spec.num_bytes, sum(t[0].numel() * t.element_size() for t in state.values()))
