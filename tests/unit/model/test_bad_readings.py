"""What bad readings, gaps, constants and extreme numbers do to forecasts: little, compiled and plain alike."""

import dataclasses

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from forecaster.config import ModelConfig
from forecaster.model.inputs.observations import Observations
from forecaster.model.seq2seq import Seq2Seq
from forecaster.model.stepping.stepping import Stepper
from tests.unit.model.family import HORIZON, MODELS, START_US, make_model

DAY_US = 86_400_000_000
LARGEST = 1e150  # that the server accepts


def daily_model(noise: float = 0.0) -> Seq2Seq:
    """Return a model whose weights are those of the start, which say the naive, and some noise."""
    torch.manual_seed(5)
    model = Seq2Seq(ModelConfig(hidden_size=8, decoder_size=8, num_layers=1, horizon=14), DAY_US).eval()
    for parameter in model.parameters():
        parameter.data += noise * torch.randn_like(parameter)
    return model


def around(level: float, error: float, days: int) -> np.ndarray:
    return level + error * np.random.default_rng(1).standard_normal(days)


@torch.inference_mode()
def walked(model: Seq2Seq, values: np.ndarray, origins: list[int], *, plain: bool = False) -> torch.Tensor:
    """Return the forecasts after the steps `origins` of one series, [K, D, Q], by the kernels or without them."""
    steps, found = len(values), []
    times = START_US + model.step_us * torch.arange(steps)
    if plain:
        _, encoded = model.scan(model.initial_state(1), Observations.of(times[None], torch.from_numpy(values)[None]))
        return model.quantiles_after(encoded, torch.tensor(origins), model.config.horizon)
    stepper, state, slot = Stepper(model), model.initial_state(1), np.zeros(1, np.int64)
    for t in range(steps):
        stepper.advance(state, slot, times[t : t + 1].numpy(), values[t : t + 1])
        if t in origins:
            found.append(torch.from_numpy(stepper.forecast(state, slot, model.config.horizon)[0][0]))
    return torch.stack(found)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("factor", [100.0, 10_000.0, -1.0, 0.0])
def test_one_bad_reading_is_a_missing_one(factor: float, plain: bool) -> None:
    """From the next day to the weekly echo and beyond: not a bit of it is in any forecast."""
    values, model = around(106.0, 3.0, 150), daily_model()
    bad, without = values.copy(), values.copy()
    bad[100], without[100] = factor * bad[100], np.nan
    days = [100, 101, 103, 107, 114, 121, 149]
    assert torch.equal(walked(model, bad, days, plain=plain), walked(model, without, days, plain=plain))


@pytest.mark.parametrize("factor", [1.3, 3.0, 100.0, 1e6])
def test_a_level_shift_is_followed_within_days(factor: float) -> None:
    values, model = around(106.0, 3.0, 130), daily_model()
    values[100:] *= factor
    medians = walked(model, values, [99, 107, 114, 121])[:, :, 6].mean(dim=1)
    left = ((values[100:].mean() - medians) / (values[100:].mean() - values[:100].mean())).abs()
    assert left[0] > 0.9
    assert (left[1:] < torch.tensor([0.6, 0.3, 0.1])).all(), left


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("statistics", ["robust", "plain"])
@torch.inference_mode()
def test_a_long_gap_takes_nothing_away(statistics: str, plain: bool) -> None:
    """20,000 hours: longer than weights last in float64 if they fade without an end."""
    config = ModelConfig(hidden_size=4, decoder_size=4, num_layers=1, season_lengths=(24,), **known(statistics))
    model = Seq2Seq(config, DAY_US // 24).eval()
    hours = 0.3 + 0.1 * np.sin(np.arange(240) * 2 * np.pi / 24)
    values = np.concatenate([hours, np.full(20_000, np.nan)])
    state, stepper, slot = model.initial_state(1), Stepper(model), np.zeros(1, np.int64)
    if plain:
        times = START_US + model.step_us * torch.arange(len(values))
        for low in range(0, len(values), 1000):
            part = slice(low, low + 1000)
            state, _ = model.scan(state, Observations.of(times[None, part], torch.from_numpy(values[None, part])))
    else:
        for t, value in enumerate(values):
            stepper.advance(state, slot, np.array([START_US + t * model.step_us]), np.array([value]))
    level = float(model.origins_at(state, 1).statistics.level)
    assert abs(level - 0.3) < 0.05
    quantiles = stepper.forecast(state, slot, 3)[0]
    assert (np.abs(quantiles[..., 6] - 0.3) < 0.15).all()


def known(statistics: str) -> dict[str, str]:
    """Return the option as far as the configuration has it."""
    has = any(field.name == "statistics" for field in dataclasses.fields(ModelConfig))
    return {"statistics": statistics} if has else {}


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("constant", [5.0, 0.0, -0.1, 1e12, 1e-9])
def test_a_constant_is_forecast_as_it_is(constant: float, plain: bool) -> None:
    quantiles = walked(daily_model(0.3), np.full(40, constant), [39], plain=plain)
    torch.testing.assert_close(quantiles, torch.full_like(quantiles, constant), rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("base", [0.0, 1e6, 1e10, 1e13])
def test_a_counter_is_forecast_by_its_steps_not_by_its_size(base: float, plain: bool) -> None:
    quantiles = walked(daily_model(0.3), base + np.arange(60.0), [59], plain=plain)[0]
    assert (quantiles[:, 6] - (base + 60 + torch.arange(14.0, dtype=torch.float64))).abs().max() < 100


numbers = st.one_of(
    st.sampled_from([0.0, -0.0, 5e-324, 1e-321, 2.3e-308, 1e-300, 1e-290, 1.0, LARGEST, -LARGEST, float("nan")]),
    st.floats(-LARGEST, LARGEST, allow_nan=False, allow_subnormal=True),
)


KINDS: dict[str, dict[str, object]] = {
    "gru": {},
    "gaussian": {"head": "gaussian"},
    "student t": {"head": "student_t"},
    "negative binomial": {"head": "negative_binomial"},
    "categorical": {"head": "categorical"},
    "recurrent": {"decoder": "recurrent", "attention": "additive", "attention_steps": 7, "end_of_sequence": True},
}


@pytest.mark.parametrize("statistics", ["robust", "plain"])
@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=6, deadline=None)
@given(pool=st.lists(numbers, min_size=1, max_size=6), seed=st.integers(0, 2**31))
def test_whatever_is_accepted_is_forecast_by_numbers(name: str, statistics: str, pool: list[float], seed: int) -> None:
    if f"{name}, {statistics}" not in MODELS:
        changes = KINDS[name] | known(statistics)
        MODELS[f"{name}, {statistics}"] = make_model(None, **changes)
    model = MODELS[f"{name}, {statistics}"]
    values = np.random.default_rng(seed).choice(pool, (8, 25))
    times = (START_US + model.step_us * torch.arange(25)).expand(8, -1).contiguous()
    slots, stepper, fast = torch.arange(8), Stepper(model), model.initial_state(8)
    with torch.inference_mode():
        slow, _ = model.scan(model.initial_state(8), Observations.of(times, torch.from_numpy(values)))
        for t in range(25):
            stepper.step(fast, slots, times[:, t].contiguous(), torch.from_numpy(values[:, t].copy()))
        assert torch.isfinite(model.decode(slow, HORIZON)).all()
        assert torch.isfinite(stepper.predict(fast, slots, HORIZON).quantiles).all()
