"""An ensemble keeps its members' laws: exact streaming, states as bytes, a bundle on disk, a server's engine."""

import pathlib
from contextlib import closing

import numpy as np
import pytest
import torch

from forecaster.config import ModelConfig
from forecaster.model.bundle import Bundle
from forecaster.model.ensemble import Ensemble
from forecaster.model.inputs.observations import Observations
from forecaster.model.seq2seq import Seq2Seq
from forecaster.model.state import State
from forecaster.serving.engine.engine import Engine
from forecaster.serving.storage.opening import open_storage
from forecaster.serving.storage.records import Columns
from forecaster.serving.work.forecasting import ForecastWork
from forecaster.serving.work.observing import ObserveWork

HOUR_US = 3_600_000_000


def make_member(seed: int, cell: str = "gru") -> Seq2Seq:
    torch.manual_seed(seed)
    config = ModelConfig(cell=cell, hidden_size=6, decoder_size=6, horizon=5, season_lengths=(4,), min_history=1)  # type: ignore[arg-type]
    model = Seq2Seq(config, HOUR_US)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model.eval()


def observations(n: int, steps: int, seed: int = 0) -> Observations:
    rng = np.random.default_rng(seed)
    values = torch.from_numpy(rng.normal(10, 3, (n, steps)).cumsum(1))
    times = (HOUR_US * torch.arange(steps)).expand(n, -1)
    return Observations(times, values, torch.from_numpy(rng.random((n, steps)) > 0.2))


def assert_same(left: State, right: State) -> None:
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cell", ["gru", "lstm", "rnn_tanh"])
@torch.inference_mode()
def test_scan_equals_steps_and_chunks(cell: str) -> None:
    model, seen = Ensemble([make_member(k, cell) for k in range(3)]), observations(4, 30)
    whole, _ = model.scan(model.initial_state(4), seen)
    stepped = model.initial_state(4)
    for t in range(30):
        stepped = model.step(stepped, seen.at(t))
    assert_same(stepped, whole)
    chunked = model.initial_state(4)
    for window in (slice(0, 11), slice(11, 30)):
        chunked, _ = model.scan(chunked, seen.part(window))
    assert_same(chunked, whole)
    assert_same(model.state_spec.unpack(model.state_spec.pack(whole)), whole)


@torch.inference_mode()
def test_its_forecast_is_the_mean_of_its_members() -> None:
    members, seen = [make_member(k) for k in range(3)], observations(2, 25)
    model = Ensemble(members)
    state, encoded = model.scan(model.initial_state(2), seen)
    alone = []
    for member in members:
        own, _ = member.scan(member.initial_state(2), seen)
        alone.append(member.decode(own, 5))
    torch.testing.assert_close(model.decode(state, 5), torch.stack(alone).mean(dim=0), rtol=1e-6, atol=1e-6)
    after = model.quantiles_after(encoded, torch.tensor([24]), 5)
    torch.testing.assert_close(after, model.decode(state, 5), rtol=1e-5, atol=1e-5)
    assert (after.diff(dim=-1) >= 0).all()


def test_members_of_other_architectures_are_refused() -> None:
    with pytest.raises(ValueError, match="one configuration"):
        Ensemble([make_member(0), make_member(0, "lstm")])


def test_it_is_saved_loaded_and_served(tmp_path: pathlib.Path) -> None:
    bundle = Bundle.of(Ensemble([make_member(k) for k in range(2)]), frequency="1h", max_gap_steps=20)
    bundle.save(tmp_path / "bundle")
    loaded = Bundle.load(tmp_path / "bundle")
    assert loaded.fingerprint == bundle.fingerprint
    seen = observations(1, 30)
    values = np.where(seen.observed[0], seen.values[0], np.nan)
    columns = Columns(("a",), np.zeros(30, np.int32), seen.time_us[0].numpy(), values)
    with torch.inference_mode():
        state, _ = bundle.model.scan(bundle.model.initial_state(1), seen)
        expected = bundle.model.decode(state, 5)[0].numpy()
    for _ in range(2):  # the second time from the journal
        with closing(open_storage(str(tmp_path / "state"), "commit")) as storage:
            engine = Engine(loaded, storage, max_series=3)
            engine.recover()
            engine.observe([ObserveWork(columns)])
            answer = engine.forecast([ForecastWork(("a",), 5, loaded.model.config.quantile_levels)])[0]
            np.testing.assert_allclose(answer.quantiles[0], expected, rtol=1e-4, atol=1e-5)
