"""The laws of streaming, on drawn lengths, masks, chunks and batch sizes.

They hold for the models of `family.FAMILY`, in which every pair of options and of covariates' kinds occurs.
"""

import itertools

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from forecaster.model.ensemble import Ensemble, Model
from forecaster.model.inputs.observations import Encoded, Observations
from forecaster.model.state import State, select
from forecaster.model.stepping.ragged import Runs, advance
from tests.unit.model.family import HORIZON, MODELS, NAMES, assert_same, draw_for, draw_future, fresh

every_model = pytest.mark.parametrize("name", NAMES)
few = settings(max_examples=3, deadline=None)
draws = {
    "seed": st.integers(0, 2**31),
    "n": st.integers(1, 4),
    "steps": st.integers(1, 60),
    "missing": st.sampled_from([0.0, 0.2, 0.9, 1.0]),
}


def size(observations: Observations) -> float:
    """Return the tolerance for values of a forecast: a series around zero is as exact as any other."""
    return 1e-6 + 1e-5 * float(observations.values.abs().max())


def contexts(model: Model, encoded: Encoded | tuple[Encoded, ...]) -> torch.Tensor:
    """Return what the encoders of all members put out, [B, T, K · H]."""
    each = encoded if isinstance(model, Ensemble) else [encoded]
    return torch.cat([one.context for one in each], dim=-1)


def assert_close(model: Model, left: torch.Tensor, right: torch.Tensor, tolerance: float) -> None:
    """Compare forecasts; counts may be one off where a probability lies on the edge between two."""
    if model.config.head == "negative_binomial":
        share = ((left - right).abs() > 1.0 + 1e-3 * right.abs()).double().mean()
        assert share <= 0.02
    else:
        torch.testing.assert_close(left, right, rtol=1e-3, atol=10 * tolerance)


@every_model
@torch.inference_mode()
@few
@given(**draws)
def test_scan_equals_repeated_step(name: str, seed: int, n: int, steps: int, missing: float) -> None:
    model = MODELS[name]
    observations = draw_for(model, seed, n, steps, missing)
    scanned, _ = model.scan(fresh(model, seed, n), observations)
    stepped = fresh(model, seed, n)
    for t in range(steps):
        stepped = model.step(stepped, observations.at(t))
    assert_same(stepped, scanned)


@every_model
@torch.inference_mode()
@few
@given(**draws, cuts=st.lists(st.integers(0, 60), max_size=4))
def test_chunked_scan_equals_whole_scan(
    name: str, seed: int, n: int, steps: int, missing: float, cuts: list[int]
) -> None:
    model = MODELS[name]
    observations = draw_for(model, seed, n, steps, missing)
    whole, encoded = model.scan(fresh(model, seed, n), observations)
    edges = sorted({0, steps, *(cut for cut in cuts if cut < steps)})
    state, chunks = fresh(model, seed, n), []
    for low, high in itertools.pairwise(edges):
        state, chunk = model.scan(state, observations.part(slice(low, high)))
        chunks.append(contexts(model, chunk))
    assert_same(state, whole)
    torch.testing.assert_close(torch.cat(chunks, 1), contexts(model, encoded), rtol=1e-5, atol=1e-5)


@every_model
@torch.inference_mode()
@few
@given(**draws)
def test_a_state_survives_as_bytes(name: str, seed: int, n: int, steps: int, missing: float) -> None:
    model = MODELS[name]
    state, _ = model.scan(fresh(model, seed, n), draw_for(model, seed, n, steps, missing))
    packed = model.state_spec.pack(state)
    assert packed.shape == (n, model.state_spec.num_bytes)
    back = model.state_spec.unpack(packed)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], tensor) for key, tensor in state.items())


@every_model
@torch.inference_mode()
@few
@given(**draws)
def test_a_batch_equals_each_series_alone(name: str, seed: int, n: int, steps: int, missing: float) -> None:
    model = MODELS[name]
    observations, future = draw_for(model, seed, n, steps, missing), draw_future(model, seed, n)
    before = fresh(model, seed, n)
    together, _ = model.scan(before, observations)
    quantiles = model.decode(together, HORIZON, future)
    for row in range(n):
        one = observations.rows(slice(row, row + 1))
        alone, _ = model.scan(select(before, torch.tensor([row])), one)
        assert_same(alone, select(together, torch.tensor([row])))
        known = None if future is None else future[row : row + 1]
        assert_close(model, model.decode(alone, HORIZON, known), quantiles[row : row + 1], size(one))


@every_model
@torch.inference_mode()
@few
@given(**draws, lengths=st.lists(st.integers(1, 60), min_size=4, max_size=4))
def test_lengths_cut_a_padded_scan(
    name: str, seed: int, n: int, steps: int, missing: float, lengths: list[int]
) -> None:
    model = MODELS[name]
    observations, before = draw_for(model, seed, n, steps, missing), fresh(model, seed, n)
    ends = torch.tensor([min(length, steps) for length in lengths[:n]])
    padded, _ = model.scan(before, observations, ends)
    for row in range(n):
        one = observations.rows(slice(row, row + 1)).part(slice(int(ends[row])))
        alone = model.scan(select(before, torch.tensor([row])), one)[0]
        assert_same(alone, select(padded, torch.tensor([row])))


@every_model
@torch.inference_mode()
@few
@given(**draws, at=st.integers(0, 59))
def test_nothing_depends_on_the_future(name: str, seed: int, n: int, steps: int, missing: float, at: int) -> None:
    model = MODELS[name]
    observations, other = draw_for(model, seed, n, steps, missing), draw_for(model, seed + 1, n, steps, 0.5)
    at, future = min(at, steps - 1), draw_future(model, seed, n)

    def mixed(now: torch.Tensor, later: torch.Tensor) -> torch.Tensor:
        return torch.cat([now[:, : at + 1], later[:, at + 1 :]], 1)

    changed = Observations(
        observations.time_us,
        mixed(observations.values, other.values),
        mixed(observations.observed, other.observed),
        None if other.covariates is None else mixed(observations.covariates, other.covariates),
    )
    now = torch.tensor([at])
    _, first = model.scan(fresh(model, seed, n), observations)
    _, second = model.scan(fresh(model, seed, n), changed)
    left, right = (model.quantiles_after(encoded, now, HORIZON, future) for encoded in (first, second))
    if model.config.layer_periods or model.config.cell == "output":  # other shapes, other rounding
        assert_close(model, left, right, size(observations))
    else:
        assert torch.equal(left, right)


@every_model
@torch.inference_mode()
@few
@given(**draws)
def test_a_forecast_consumes_nothing_and_equals_the_scans(
    name: str, seed: int, n: int, steps: int, missing: float
) -> None:
    model = MODELS[name]
    observations, future = draw_for(model, seed, n, steps, missing), draw_future(model, seed, n)
    state, encoded = model.scan(fresh(model, seed, n), observations)
    before: State = {key: tensor.clone() for key, tensor in state.items()}
    prediction = model.predict(state, HORIZON, future)
    assert all(torch.equal(tensor, before[key]) for key, tensor in state.items())
    quantiles = prediction.quantiles
    inside = model.quantiles_after(encoded, torch.tensor([steps - 1]), HORIZON, future)
    assert_close(model, quantiles, inside, size(observations))
    assert torch.isfinite(quantiles).all()
    assert (quantiles.diff(dim=-1) >= 0).all(), "quantiles cross"
    shorter = model.decode(state, 3, None if future is None else future)
    assert_close(model, shorter, quantiles[:, :3], size(observations))
    assert ((prediction.ended >= 0) & (prediction.ended <= 1)).all()
    assert (prediction.ended[:, 0] == 0).all()
    assert (prediction.ended.diff(dim=1) >= 0).all()


@every_model
@torch.inference_mode()
@few
@given(**draws)
def test_a_missing_step_is_a_masked_one(name: str, seed: int, n: int, steps: int, missing: float) -> None:
    """Whatever number stands where nothing was observed, it is not looked at."""
    model = MODELS[name]
    observations = draw_for(model, seed, n, steps, missing)
    noise = 1e6 * torch.randn(observations.values.shape, dtype=torch.float64)
    noisy = observations._replace(values=torch.where(observations.observed, observations.values, noise))
    left, right = (model.scan(fresh(model, seed, n), one)[0] for one in (observations, noisy))
    assert all(torch.equal(left[key], right[key]) for key in left)


@every_model
@torch.inference_mode()
@few
@given(seed=st.integers(0, 2**31), lengths=st.lists(st.integers(1, 40), min_size=1, max_size=6))
def test_ragged_runs_equal_each_alone(name: str, seed: int, lengths: list[int]) -> None:
    """Rows in any order; what has no row is missing, covariates too."""
    model, n = MODELS[name], len(lengths)
    observations, before = draw_for(model, seed, n, max(lengths), 0.3), fresh(model, seed, n)
    given_rows = observations.observed & (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None])
    run, step = torch.nonzero(given_rows).T
    order = torch.randperm(len(run), generator=torch.Generator().manual_seed(seed))
    run, step = run[order], step[order]
    beside = observations.covariates
    rows = None if beside is None else beside[run, step]
    start_us = observations.time_us[:, 0]
    runs = Runs(start_us, torch.tensor(lengths), run, step, observations.values[run, step], rows)
    advanced = advance(model, before, runs)
    if beside is not None:
        observations = observations._replace(covariates=beside.masked_fill(~given_rows[..., None], torch.nan))
    for row, length in enumerate(lengths):
        one = observations.rows(slice(row, row + 1)).part(slice(length))
        alone = model.scan(select(before, torch.tensor([row])), one)[0]
        assert_same(alone, select(advanced, torch.tensor([row])))
