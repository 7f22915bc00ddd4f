"""The compiled kernels against the plain path: gather, `scan` or `predict`, scatter."""

import dataclasses
import sys

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from forecaster.config import ModelConfig
from forecaster.model.ensemble import Ensemble, Model
from forecaster.model.heads.quantiles import interpolate_quantiles
from forecaster.model.inputs.observations import Observations
from forecaster.model.seq2seq import Seq2Seq
from forecaster.model.state import State, select
from forecaster.model.stepping import decode_kernel, step_kernel, stepping
from forecaster.model.stepping.ragged import Runs, advance
from forecaster.model.stepping.stepping import Stepper
from tests.unit.model.family import (
    FAMILY,
    HORIZON,
    HOUR_US,
    MODELS,
    NAMES,
    NOT_FORECAST,
    NOT_STEPPED,
    SMALL,
    START_US,
    draw_for,
    draw_future,
    fresh,
)

every_model = pytest.mark.parametrize("name", NAMES)
STEPPED = [name for name in NAMES if not any(FAMILY[name][option] in no for option, no in NOT_STEPPED.items())]
few = settings(max_examples=3, deadline=None)
draws = {
    "seed": st.integers(0, 2**31),
    "n": st.integers(1, 6),
    "steps": st.integers(1, 12),
    "missing": st.sampled_from([0.0, 0.2, 0.9, 1.0]),
    "together": st.booleans(),
}
CAPACITY = 9


def slab_of(model: Model, seed: int) -> State:
    """Return the states of series that have seen different numbers of values, some none."""
    tensors: State = {key: tensor.clone() for key, tensor in fresh(model, seed, CAPACITY).items()}
    history = draw_for(model, seed, CAPACITY, 40, 0.2)
    lengths = torch.from_numpy(np.random.default_rng(seed).integers(0, 40, CAPACITY))
    for row, length in enumerate(lengths.tolist()):
        if length:
            rows = torch.tensor([row])
            state, _ = model.scan(select(tensors, rows), history.rows(rows).part(slice(length)))
            put(tensors, rows, state)
    return tensors


def put(tensors: State, slots: torch.Tensor, state: State) -> None:
    for key, tensor in state.items():
        tensors[key].index_copy_(0, slots, tensor)


def plain_step(model: Model, tensors: State, slots: torch.Tensor, one: Observations) -> None:
    put(tensors, slots, model.step(select(tensors, slots), one))


def assert_same_states(left: State, right: State) -> None:
    """Hidden vectors to float32's rounding, sums to float64's, and what is copied or counted exactly."""
    assert left.keys() == right.keys()
    for key, tensor in left.items():
        if tensor.dtype == torch.float32:
            torch.testing.assert_close(tensor, right[key], rtol=1e-5, atol=1e-5, msg=lambda m, key=key: f"{key}: {m}")
        elif key == "normalizer":
            torch.testing.assert_close(tensor, right[key], rtol=1e-12, atol=1e-300)
        else:
            assert torch.equal(tensor, right[key]), key


def assert_same_forecasts(model: Model, left: torch.Tensor, right: torch.Tensor, tensors: State) -> None:
    size = 1e-5 * float(tensors["ring"].abs().max()) + 1e-6
    if model.config.head == "negative_binomial":  # one off where a probability lies on the edge between two counts
        assert ((left - right).abs() > 1.0 + 1e-3 * right.abs()).double().mean() <= 0.02
    else:
        torch.testing.assert_close(left, right, rtol=1e-4, atol=size)


@every_model
@torch.inference_mode()
@few
@given(**draws)
def test_steps_equal_gather_scan_scatter(
    name: str, seed: int, n: int, steps: int, missing: float, together: bool
) -> None:
    """Whatever the positions and times; other slots stay as they are, bit for bit."""
    model = MODELS[name]
    stepper, fast = Stepper(model), slab_of(model, seed)
    before: State = {key: tensor.clone() for key, tensor in fast.items()}
    plain: State = {key: tensor.clone() for key, tensor in fast.items()}
    observations = draw_for(model, seed + 1, n, steps, missing)
    if together:
        observations = observations._replace(time_us=observations.time_us[:1].expand(n, -1).contiguous())
    generator = torch.Generator().manual_seed(seed)
    touched = torch.zeros(CAPACITY, dtype=torch.bool)
    for t in range(steps):
        slots = torch.randperm(CAPACITY, generator=generator)[:n]
        touched[slots] = True
        one = observations.at(t)
        values = one.values.masked_fill(~one.observed, torch.nan)
        stepper.step(fast, slots, one.time_us, values, one.covariates)
        plain_step(model, plain, slots, one)
        assert_same_states(fast, plain)
    assert all(torch.equal(tensor[~touched], before[key][~touched]) for key, tensor in fast.items())


@pytest.mark.parametrize("name", STEPPED)
@torch.inference_mode()
@few
@given(seed=st.integers(0, 2**31), n=st.integers(1, 6), longest=st.integers(1, 60), given_share=st.floats(0, 1))
def test_runs_equal_scans(name: str, seed: int, n: int, longest: int, given_share: float) -> None:
    """Runs of any lengths and gaps, which is what a batch of observations is; other slots stay, bit for bit."""
    model, rng = MODELS[name], np.random.default_rng(seed)
    fast = slab_of(model, seed)
    plain: State = {key: tensor.clone() for key, tensor in fast.items()}
    lengths = torch.from_numpy(rng.integers(1, longest + 1, n))
    drawn = draw_for(model, seed + 1, n, longest, 0.2)
    has_row = torch.from_numpy(rng.random((n, longest)) < given_share) & (torch.arange(longest) < lengths[:, None])
    row_run, row_step = has_row.nonzero(as_tuple=True)
    values = drawn.values.masked_fill(~drawn.observed, torch.nan)[has_row]
    covariates = None if drawn.covariates is None else drawn.covariates[has_row]
    runs = Runs(drawn.time_us[:, 0].clone(), lengths, row_run, row_step, values, covariates)
    slots = torch.from_numpy(rng.permutation(CAPACITY)[:n])
    Stepper(model).run(fast, slots.numpy(), runs)
    put(plain, slots, advance(model, select(plain, slots), runs))
    assert_same_states(fast, plain)
    others = torch.ones(CAPACITY, dtype=torch.bool).index_fill(0, slots, False)
    assert all(torch.equal(tensor[others], plain[key][others]) for key, tensor in fast.items())


@every_model
@torch.inference_mode()
@few
@given(seed=st.integers(0, 2**31), n=st.integers(1, 6), horizon=st.integers(1, HORIZON), together=st.booleans())
def test_predictions_equal_the_models(name: str, seed: int, n: int, horizon: int, together: bool) -> None:
    model = MODELS[name]
    tensors = slab_of(model, seed)
    if together:
        tensors["time_us"].fill_(START_US)
    before: State = {key: tensor.clone() for key, tensor in tensors.items()}
    slots = torch.randint(0, CAPACITY, (n,), generator=torch.Generator().manual_seed(seed))  # one may stand twice
    future = draw_future(model, seed, n, horizon)
    found = Stepper(model).predict(tensors, slots, horizon, future)
    assert all(torch.equal(tensor, before[key]) for key, tensor in tensors.items())
    expected = model.predict(select(tensors, slots), horizon, future)
    assert found.quantiles.dtype == torch.float64
    assert (found.quantiles.diff(dim=-1) >= 0).all(), "quantiles cross"
    assert_same_forecasts(model, found.quantiles, expected.quantiles, tensors)
    torch.testing.assert_close(found.ended, expected.ended, rtol=1e-5, atol=1e-5)
    if future is not None:
        found, expected = (
            Stepper(model).predict(tensors, slots, horizon),
            model.predict(select(tensors, slots), horizon),
        )
        assert_same_forecasts(model, found.quantiles, expected.quantiles, tensors)


@torch.inference_mode()
@given(seed=st.integers(0, 2**31), wanted=st.sets(st.floats(0.03, 0.97), min_size=1, max_size=5))
@settings(max_examples=20, deadline=None)
def test_other_levels_lie_between_the_trained_ones(seed: int, wanted: set[float]) -> None:
    model = MODELS["gru"]
    tensors, slots, levels = slab_of(model, seed), torch.arange(4), tuple(sorted(wanted))
    found = Stepper(model).predict(tensors, slots, HORIZON, levels=levels).quantiles
    whole = model.decode(select(tensors, slots), HORIZON)
    assert_same_forecasts(model, found, interpolate_quantiles(whole, model.config.quantile_levels, levels), tensors)
    assert (found.diff(dim=-1) >= 0).all()
    with pytest.raises(ValueError, match="outside the trained range"):
        Stepper(model).predict(tensors, slots, HORIZON, levels=(0.001,))


@every_model
def test_what_is_packed(name: str) -> None:
    """One that stops being packed by accident would pass all laws."""
    stepper, row = Stepper(MODELS[name]), FAMILY[name]
    by_kernels = [not any(row[option] in values for option, values in no.items()) for no in (NOT_STEPPED, NOT_FORECAST)]
    assert stepper.steps_packed == by_kernels[0]
    assert stepper.forecasts_packed == all(by_kernels)


def carried(cell: str, layers: int = 2, seasons: tuple[int, ...] = (5, 14), calendar: bool = True) -> Seq2Seq:
    torch.manual_seed(3)
    config = dataclasses.replace(SMALL, cell=cell, num_layers=layers, season_lengths=seasons, calendar=calendar)  # type: ignore[arg-type]
    model = Seq2Seq(config, HOUR_US).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@torch.inference_mode()
def test_ten_thousand_carried_steps_equal_one_scan(cell: str) -> None:
    model, steps = carried(cell), 10_000
    seen = draw_for(model, 5, 3, steps, 0.1)
    tensors, slots, stepper = model.initial_state(5), torch.tensor([4, 0, 2]), Stepper(model)
    values = seen.values.masked_fill(~seen.observed, torch.nan)
    for t in range(steps):
        stepper.step(tensors, slots, seen.time_us[:, t], values[:, t])
    whole, _ = model.scan(model.initial_state(3), seen)
    for key, tensor in select(tensors, slots).items():
        torch.testing.assert_close(tensor, whole[key], rtol=1e-4, atol=1e-5, msg=lambda m, key=key: f"{key}: {m}")
    found, expected = stepper.predict(tensors, slots, HORIZON).quantiles, model.decode(whole, HORIZON)
    assert ((found - expected).abs().amax(dim=(1, 2)) < 1e-4 * expected.abs().amax(dim=(1, 2))).all()


@pytest.mark.parametrize("cell", ["gru", "lstm", "rnn_tanh"])
@torch.inference_mode()
def test_an_ensemble_equals_its_plain_self(cell: str) -> None:
    members = []
    for seed in range(3):
        torch.manual_seed(seed)
        config = ModelConfig(cell=cell, hidden_size=6, decoder_size=6, horizon=5, season_lengths=(4,), num_layers=3)  # type: ignore[arg-type]
        members.append(Seq2Seq(config, HOUR_US).eval())
        for parameter in members[-1].parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
    model = Ensemble(members)
    stepper = Stepper(model)
    assert stepper.steps_packed
    assert stepper.forecasts_packed
    seen = draw_for(members[0], 1, 4, 30, 0.2)
    fast, plain = model.initial_state(6), model.initial_state(6)
    slots = torch.tensor([5, 1, 0, 3])
    for t in range(30):
        one = seen.at(t)
        stepper.step(fast, slots, one.time_us, one.values.masked_fill(~one.observed, torch.nan))
        plain_step(model, plain, slots, one)
    assert_same_states(fast, plain)
    expected = model.predict(select(plain, slots), 5)
    assert_same_forecasts(model, stepper.predict(fast, slots, 5).quantiles, expected.quantiles, plain)


@pytest.mark.parametrize(
    "change", [{"seasons": ()}, {"seasons": (24,)}, {"calendar": False}, {"layers": 1}, {"layers": 3}]
)
@torch.inference_mode()
def test_batches_larger_than_a_chunk(change: dict[str, object]) -> None:
    model, n = carried("gru", **change), 1100  # type: ignore[arg-type]
    seen = draw_for(model, 2, n, 30, 0.2)
    tensors, _ = model.scan(model.initial_state(n), seen.part(slice(29)))
    tensors = {key: tensor.clone() for key, tensor in tensors.items()}
    plain: State = {key: tensor.clone() for key, tensor in tensors.items()}
    slots, one = torch.randperm(n), seen.rows(slice(n)).at(29)
    stepper = Stepper(model)
    stepper.step(tensors, slots, one.time_us, one.values.masked_fill(~one.observed, torch.nan))
    plain_step(model, plain, slots, one)
    assert_same_states(tensors, plain)
    expected = model.predict(select(plain, slots), HORIZON).quantiles
    found = stepper.predict(tensors, slots, HORIZON).quantiles
    size = expected.abs().amax(dim=(1, 2), keepdim=True)  # series are of very different sizes
    assert ((found - expected).abs() <= 1e-4 * size + 1e-9).all()
    assert stepper.predict(tensors, slots[:0], HORIZON).quantiles.shape == (0, HORIZON, 13)


@torch.inference_mode()
def test_extreme_values_stay_finite() -> None:
    model = carried("gru")
    stepper, fast, plain = Stepper(model), model.initial_state(4), model.initial_state(4)
    slots = torch.tensor([0, 1, 2, 3])
    for t, value in enumerate([0.0, 0.0, 1e-300, 1.0, 1e30, -1e30, 1e100, 5.0]):
        time_us = torch.full((4,), START_US + t * HOUR_US)
        subnormal = 5e-324 * (t % 3)  # one over it is infinite
        values = torch.tensor([value, 7.0, 1.0 + 1e-12 * t, subnormal], dtype=torch.float64)
        stepper.step(fast, slots, time_us, values)
        plain_step(model, plain, slots, Observations.of(time_us, values))
        assert_same_states(fast, plain)
        assert torch.isfinite(stepper.predict(fast, slots, HORIZON).quantiles).all()


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@torch.inference_mode()
def test_a_series_alone_equals_itself_in_a_batch(cell: str) -> None:
    model, n = carried(cell), 70
    seen = draw_for(model, 4, n, 40, 0.2)
    values = seen.values.masked_fill(~seen.observed, torch.nan)
    together, alone, stepper, slots = model.initial_state(n), model.initial_state(n), Stepper(model), torch.randperm(n)
    for t in range(40):
        stepper.step(together, slots, seen.time_us[:, t], values[:, t])
        for row in range(n):
            stepper.step(alone, slots[row : row + 1], seen.time_us[row : row + 1, t], values[row : row + 1, t])
    assert_same_states(together, alone)
    found = stepper.predict(together, slots, HORIZON).quantiles
    for row in range(n):
        one = stepper.predict(alone, slots[row : row + 1], HORIZON).quantiles[0]
        assert ((one - found[row]).abs() <= 1e-5 * one.abs().max()).all()


@torch.inference_mode()
def test_without_numba_the_plain_path_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    model = carried("gru")
    compiled, tensors, slots = Stepper(model), slab_of(model, 3), torch.tensor([2, 0, 8])
    monkeypatch.setitem(sys.modules, "numba", None)
    plain, same = Stepper(model), {key: tensor.clone() for key, tensor in tensors.items()}
    assert compiled.steps_packed
    assert not plain.steps_packed
    assert not plain.forecasts_packed
    monkeypatch.setattr(stepping, "_STEP_ROWS", 2)
    monkeypatch.setattr(stepping, "_DECODE_ROWS", 2 * HORIZON)
    values = torch.tensor([1.0, torch.nan, 3.0], dtype=torch.float64)
    for stepper, state in ((compiled, tensors), (plain, same)):
        stepper.step(state, slots, torch.full((3,), START_US), values)
    assert_same_states(tensors, same)
    left, right = (stepper.predict(tensors, slots, HORIZON).quantiles for stepper in (compiled, plain))
    assert_same_forecasts(model, left, right, tensors)


@every_model
@torch.inference_mode()
def test_warming_up(name: str) -> None:
    """After it nothing is compiled any more."""
    model = MODELS[name]
    stepper = Stepper(model)
    stepper.warm_up()
    if not stepper.steps_packed:
        return
    compiled = step_kernel.step.signatures, decode_kernel.predict.signatures
    tensors, future = slab_of(model, 1), draw_future(model, 1, 5, HORIZON)
    one = draw_for(model, 2, 5, 1, 0.3).at(0)
    stepper.step(tensors, torch.arange(5), one.time_us, one.values, one.covariates)
    stepper.predict(tensors, torch.arange(5), HORIZON, future, (0.1, 0.5))
    assert (step_kernel.step.signatures, decode_kernel.predict.signatures) == compiled
