"""The laws of the streaming model, on drawn lengths, masks, chunks and batch sizes."""

import itertools
import math
from typing import get_args

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from forecaster.config import Cell, ModelConfig
from forecaster.model.ragged import Runs, advance
from forecaster.model.seq2seq import Observations, Seq2Seq
from forecaster.model.state import State, select

HOUR_US = 3_600_000_000
START_US = 1_356_998_400_000_000  # 2013-01-01T00:00:00Z


def make_model(cell: str = "gru", **changes: object) -> Seq2Seq:
    torch.manual_seed(7)
    small = {
        "cell": cell,
        "hidden_size": 8,
        "num_layers": 2,
        "decoder_size": 8,
        "horizon": 6,
        "season_lengths": (5, 14),
    }
    model = Seq2Seq(ModelConfig(**{**small, **changes}), HOUR_US).eval()  # type: ignore[arg-type]
    for parameter in model.parameters():  # far from the initial zeros, so that everything matters
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model


MODELS = {cell: make_model(cell) for cell in get_args(Cell)}
cells = st.sampled_from(sorted(MODELS))


def draw_observations(seed: int, n: int, steps: int, missing: float) -> Observations:
    rng = np.random.default_rng(seed)
    scale = 10.0 ** rng.integers(-3, 6, size=(n, 1))
    values = scale * (rng.standard_normal((n, steps)).cumsum(1) + rng.integers(-50, 50))
    observed = torch.from_numpy(rng.random((n, steps)) >= missing)
    times = START_US + HOUR_US * (torch.arange(steps) + torch.arange(n)[:, None])
    return Observations(times, torch.where(observed, torch.from_numpy(values), 0.0), observed)


def part(observations: Observations, window: slice) -> Observations:
    return Observations(*(field[:, window] for field in observations))


def assert_same(left: State, right: State) -> None:
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        torch.testing.assert_close(tensor, right[name], rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


draws = {
    "cell": cells,
    "seed": st.integers(0, 2**31),
    "n": st.integers(1, 5),
    "steps": st.integers(1, 90),
    "missing": st.sampled_from([0.0, 0.2, 0.9, 1.0]),
}


@torch.inference_mode()
@settings(max_examples=40, deadline=None)
@given(**draws)
def test_scan_equals_repeated_step(cell: str, seed: int, n: int, steps: int, missing: float) -> None:
    model, observations = MODELS[cell], draw_observations(seed, n, steps, missing)
    scanned, _ = model.scan(model.initial_state(n), observations)
    stepped = model.initial_state(n)
    for t in range(steps):
        stepped = model.step(stepped, Observations(*(field[:, t] for field in observations)))
    assert_same(stepped, scanned)


@torch.inference_mode()
@settings(max_examples=40, deadline=None)
@given(**draws, cuts=st.lists(st.integers(0, 90), max_size=4))
def test_chunked_scan_equals_whole_scan(
    cell: str, seed: int, n: int, steps: int, missing: float, cuts: list[int]
) -> None:
    model, observations = MODELS[cell], draw_observations(seed, n, steps, missing)
    whole, encoded = model.scan(model.initial_state(n), observations)
    edges = sorted({0, steps, *(cut for cut in cuts if cut < steps)})
    state, contexts = model.initial_state(n), []
    for low, high in itertools.pairwise(edges):
        state, chunk = model.scan(state, part(observations, slice(low, high)))
        contexts.append(chunk.context)
    assert_same(state, whole)
    torch.testing.assert_close(torch.cat(contexts, 1), encoded.context, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
@settings(max_examples=25, deadline=None)
@given(**draws)
def test_a_batch_equals_each_series_alone(cell: str, seed: int, n: int, steps: int, missing: float) -> None:
    model, observations = MODELS[cell], draw_observations(seed, n, steps, missing)
    together, _ = model.scan(model.initial_state(n), observations)
    quantiles = model.decode(together, 6)
    for row in range(n):
        one = Observations(*(field[row : row + 1] for field in observations))
        alone, _ = model.scan(model.initial_state(1), one)
        assert_same(alone, select(together, torch.tensor([row])))
        size = 1e-6 + 1e-5 * float(
            observations.values[row].abs().max()
        )  # a series around zero is as exact as any other
        torch.testing.assert_close(model.decode(alone, 6), quantiles[row : row + 1], rtol=1e-4, atol=size)


@torch.inference_mode()
@settings(max_examples=25, deadline=None)
@given(**draws, lengths=st.lists(st.integers(1, 90), min_size=5, max_size=5))
def test_lengths_cut_a_padded_scan(
    cell: str, seed: int, n: int, steps: int, missing: float, lengths: list[int]
) -> None:
    model, observations = MODELS[cell], draw_observations(seed, n, steps, missing)
    ends = torch.tensor([min(length, steps) for length in lengths[:n]])
    padded, _ = model.scan(model.initial_state(n), observations, ends)
    for row in range(n):
        one = Observations(*(field[row : row + 1, : ends[row]] for field in observations))
        assert_same(model.scan(model.initial_state(1), one)[0], select(padded, torch.tensor([row])))


@torch.inference_mode()
@settings(max_examples=25, deadline=None)
@given(**draws, at=st.integers(0, 89))
def test_nothing_depends_on_the_future(cell: str, seed: int, n: int, steps: int, missing: float, at: int) -> None:
    model, observations = MODELS[cell], draw_observations(seed, n, steps, missing)
    at = min(at, steps - 1)
    other = draw_observations(seed + 1, n, steps, 0.5)
    mixed = Observations(
        observations.time_us,
        *(torch.cat([a[:, : at + 1], b[:, at + 1 :]], 1) for a, b in zip(observations[1:], other[1:], strict=True)),
    )
    now = torch.tensor([at])
    _, first = model.scan(model.initial_state(n), observations)
    _, second = model.scan(model.initial_state(n), mixed)
    left, right = (model.quantiles(model.origins_of(e, now, 6)) for e in (first, second))
    assert torch.equal(left, right)


@torch.inference_mode()
@settings(max_examples=25, deadline=None)
@given(**draws)
def test_a_forecast_consumes_nothing_and_equals_the_scans(
    cell: str, seed: int, n: int, steps: int, missing: float
) -> None:
    model, observations = MODELS[cell], draw_observations(seed, n, steps, missing)
    state, encoded = model.scan(model.initial_state(n), observations)
    before = {name: tensor.clone() for name, tensor in state.items()}
    quantiles = model.decode(state, 6)
    assert all(torch.equal(tensor, before[name]) for name, tensor in state.items())
    inside = model.quantiles(model.origins_of(encoded, torch.tensor([steps - 1]), 6))
    torch.testing.assert_close(quantiles, inside, rtol=1e-5, atol=1e-6)
    assert torch.isfinite(quantiles).all()
    assert (quantiles.diff(dim=-1) >= 0).all(), "quantiles cross"
    torch.testing.assert_close(model.decode(state, 3), quantiles[:, :3], rtol=1e-5, atol=1e-6)


@torch.inference_mode()
@settings(max_examples=25, deadline=None)
@given(cell=cells, seed=st.integers(0, 2**31), lengths=st.lists(st.integers(1, 40), min_size=1, max_size=8))
def test_ragged_runs_equal_each_alone(cell: str, seed: int, lengths: list[int]) -> None:
    model, n = MODELS[cell], len(lengths)
    observations = draw_observations(seed, n, max(lengths), 0.3)
    run, step = torch.nonzero(observations.observed & (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None])).T
    order = torch.randperm(len(run), generator=torch.Generator().manual_seed(seed))
    run, step = run[order], step[order]
    runs = Runs(observations.time_us[:, 0], torch.tensor(lengths), run, step, observations.values[run, step])
    advanced = advance(model, model.initial_state(n), runs)
    for row, length in enumerate(lengths):
        one = Observations(*(field[row : row + 1, :length] for field in observations))
        assert_same(model.scan(model.initial_state(1), one)[0], select(advanced, torch.tensor([row])))


@torch.inference_mode()
def test_long_ragged_runs_go_through_several_chunks() -> None:
    model, lengths = MODELS["gru"], [1, 3, 513, 1400]
    observations = draw_observations(3, 4, 1400, 0.1)
    run, step = torch.nonzero(observations.observed & (torch.arange(1400) < torch.tensor(lengths)[:, None])).T
    runs = Runs(observations.time_us[:, 0], torch.tensor(lengths), run, step, observations.values[run, step])
    advanced = advance(model, model.initial_state(4), runs)
    for row, length in enumerate(lengths):
        one = Observations(*(field[row : row + 1, :length] for field in observations))
        assert_same(model.scan(model.initial_state(1), one)[0], select(advanced, torch.tensor([row])))


@torch.inference_mode()
@pytest.mark.parametrize("cell", sorted(MODELS))
def test_ten_thousand_carried_steps_stay_exact(cell: str) -> None:
    model, observations = MODELS[cell], draw_observations(5, 2, 10_000, 0.05)
    whole, _ = model.scan(model.initial_state(2), observations)
    state = model.initial_state(2)
    for t in range(10_000):
        state = model.step(state, Observations(*(field[:, t] for field in observations)))
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
    model.decoder.gates.bias.data[0] = 100.0  # lag 5, the first season
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
    assert int(state["time_us"]) == START_US + 29 * HOUR_US
    assert math.isclose(model.state_spec.num_bytes, sum(t[0].numel() * t.element_size() for t in state.values()))
