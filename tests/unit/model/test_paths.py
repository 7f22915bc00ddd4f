"""Sampled paths are ancestral and repeatable; beams are the most probable paths, by counting all of them."""

import itertools

import numpy as np
import pytest
import scipy.stats
import torch

from forecaster.errors import UnsupportedError
from forecaster.model.decoders.beam import beam_search
from forecaster.model.decoders.decoder import DecoderInputs
from forecaster.model.decoders.recurrent_decoder import RecurrentDecoder
from forecaster.model.decoders.sampling import Paths, quantiles_of, sample_paths, uniforms
from forecaster.model.heads.discrete_heads import CategoricalHead
from forecaster.model.seq2seq import Seq2Seq
from forecaster.model.state import State, select
from tests.unit.model.family import HORIZON, MODELS, draw_for, draw_observations, fresh, make_model

RECURRENT = ["recurrent, initial", "recurrent, input", "recurrent, both", "recurrent, output"]


def state_of(model: Seq2Seq, n: int = 3) -> State:
    with torch.inference_mode():
        return model.scan(fresh(model, 1, n), draw_for(model, 1, n, 40, 0.1))[0]


def decoder_of(model: Seq2Seq) -> RecurrentDecoder:
    assert isinstance(model.decoder, RecurrentDecoder)
    return model.decoder


def test_uniforms_are_uniform_independent_and_only_of_their_seed_and_place() -> None:
    drawn = uniforms(torch.tensor([0, 1, -5, 2**62]), 50, 40, stream=0)
    assert scipy.stats.kstest(drawn.flatten().numpy(), "uniform").pvalue > 1e-3
    for row in drawn:
        assert scipy.stats.kstest(row.flatten().numpy(), "uniform").pvalue > 1e-3
        assert abs(np.corrcoef(row[:, :-1].flatten().numpy(), row[:, 1:].flatten().numpy())[0, 1]) < 0.08
    assert abs(np.corrcoef(drawn[0].flatten().numpy(), drawn[1].flatten().numpy())[0, 1]) < 0.08
    assert ((drawn > 0) & (drawn < 1)).all()
    assert torch.equal(uniforms(torch.tensor([1]), 50, 40, stream=0)[0], drawn[1])
    assert torch.equal(uniforms(torch.tensor([1]), 50, 7, stream=0)[0], drawn[1, :, :7])
    assert not torch.equal(uniforms(torch.tensor([1]), 50, 40, stream=1)[0], drawn[1])


@torch.inference_mode()
@pytest.mark.parametrize("name", RECURRENT)
def test_every_value_of_a_path_is_drawn_from_what_the_values_before_it_say(name: str) -> None:
    """Teacher-forced on a sampled path, the decoder gives the very distributions that its values were drawn from."""
    model = MODELS[name]
    decoder, seeds = decoder_of(model), torch.tensor([3, 4, 5])
    origins = model.origins_at(state_of(model), HORIZON)
    paths = sample_paths(decoder, origins, 5, seeds)
    drawn = uniforms(seeds, 5, HORIZON, stream=0)
    for p in range(5):
        decoded = decoder(origins, paths.values[:, p])
        again = decoder.readout.head.sample(decoded.parameters, drawn[:, p], origins.frame)
        torch.testing.assert_close(again, paths.values[:, p], rtol=1e-3, atol=1e-3 * float(origins.unit.max()))


@torch.inference_mode()
@pytest.mark.parametrize("name", RECURRENT)
def test_feeding_actual_values_step_by_step_is_teacher_forcing(name: str) -> None:
    model = MODELS[name]
    decoder = decoder_of(model)
    origins = model.origins_at(state_of(model), HORIZON)
    target = origins.statistics.level[:, None] + origins.unit[:, None] * torch.randn(3, HORIZON, dtype=torch.float64)
    stepped, _ = decoder.rollout(origins, 1, lambda k, parameters, ending: target[:, k : k + 1])
    parallel = decoder(origins, target)
    torch.testing.assert_close(stepped.parameters[:, 0], parallel.parameters, rtol=1e-4, atol=1e-4)
    if parallel.ending is not None:
        assert stepped.ending is not None
        torch.testing.assert_close(stepped.ending[:, 0], parallel.ending, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_the_value_before_a_step_can_be_taken_over_and_moved_by_the_season() -> None:
    """As it is: a random walk could not be told from a hidden vector to within its own small steps."""
    model = make_model(decoder="recurrent", head="gaussian")
    decoder = decoder_of(model)
    origins = model.origins_at(state_of(model), HORIZON)
    assert origins.seasonal_observed.all(dim=1).any(), "a lag that is known at all steps"
    target = origins.statistics.level[:, None] + origins.unit[:, None] * torch.randn(3, HORIZON, dtype=torch.float64)
    before = torch.cat([origins.statistics.last[:, None], target[:, :-1]], dim=1)
    lags = len(model.lags)
    for lag, gate in [(None, lags), *((k, lags + 2 + k) for k in range(lags))]:
        for parameter in decoder.readout.parameters():
            torch.nn.init.zeros_(parameter)
        decoder.readout.gates.bias.data[gate] = 50.0
        mean = origins.frame.level + origins.frame.unit * decoder(origins, target).parameters[..., 0].double()
        for n in range(3):
            for k in range(1, HORIZON):
                expected = before[n, k]
                if lag is not None:
                    if not origins.seasonal_observed[n, k - 1 : k + 1, lag].all():
                        continue
                    expected = expected + origins.seasonal[n, k, lag] - origins.seasonal[n, k - 1, lag]
                assert float(abs(mean[n, k] - expected) / origins.statistics.scale[n]) < 1e-4


@torch.inference_mode()
def test_a_seed_repeats_its_paths_in_any_batch_and_for_any_horizon() -> None:
    model = MODELS["recurrent, both"]
    state, seeds = state_of(model), torch.tensor([7, 8, 9])
    whole = model.sample(state, HORIZON, 6, seeds)
    alone = model.sample(select(state, torch.tensor([1])), 4, 6, seeds[1:2])
    torch.testing.assert_close(alone.values[0], whole.values[1, :, :4], rtol=1e-4, atol=1e-3)
    assert torch.equal(alone.lengths[0], whole.lengths[1].clamp_max(4))
    other = model.sample(state, HORIZON, 6, seeds + 1)
    assert not torch.allclose(other.values, whole.values)


@torch.inference_mode()
def test_the_quantiles_are_those_of_the_paths() -> None:
    model = MODELS["recurrent, initial"]
    state, seeds = state_of(model), torch.zeros(3, dtype=torch.int64)
    origins = model.origins_at(state, HORIZON)
    paths = sample_paths(decoder_of(model), origins, model.config.sample_paths, seeds, even=True)
    expected = np.quantile(paths.values.numpy(), model.config.quantile_levels, axis=1, method="hazen")
    np.testing.assert_allclose(model.decode(state, HORIZON).numpy(), np.moveaxis(expected, 0, -1), rtol=1e-9)


def test_quantiles_are_of_the_paths_that_go_on() -> None:
    rng = np.random.default_rng(0)
    values, lengths = rng.normal(size=(3, 20, 5)), rng.integers(1, 6, (3, 20))
    lengths[2] = 3
    levels = torch.tensor([0.01, 0.3, 0.5, 0.95], dtype=torch.float64)
    found = quantiles_of(Paths(torch.from_numpy(values), torch.from_numpy(lengths)), levels)
    for n in range(3):
        for d in range(5):
            going = values[n, lengths[n] > d, d] if (lengths[n] > d).any() else values[n, :, d]
            expected = np.quantile(going, levels.numpy(), method="hazen")
            np.testing.assert_allclose(found[n, d].numpy(), expected, rtol=1e-9)


@torch.inference_mode()
def test_the_quantiles_of_paths_are_near_those_of_the_distribution() -> None:
    """Where no step depends on the one before it, they are known."""
    model = make_model(decoder="recurrent", head="gaussian", sample_paths=100)
    decoder = decoder_of(model)
    for parameter in decoder.readout.parameters():
        torch.nn.init.zeros_(parameter)
    decoder.readout.gates.bias.data[len(model.lags) + 1] = 50.0  # the level alone
    origins = model.origins_at(state_of(model), HORIZON)
    decoded = decoder(origins, torch.zeros(3, HORIZON, dtype=torch.float64))
    exact = decoder.readout.head.quantiles(decoded.parameters, model.config.quantile_levels, origins.frame)
    spread = exact[..., -1:] - exact[..., :1]
    assert float(((model.quantiles(origins) - exact) / spread).abs().max()) < 0.01


@torch.inference_mode()
def test_paths_end_as_often_as_their_probabilities_say() -> None:
    model = make_model(decoder="recurrent", end_of_sequence=True)
    decoder = decoder_of(model)
    for parameter in decoder.readout.ending.parameters():  # type: ignore[union-attr]
        torch.nn.init.zeros_(parameter)
    decoder.readout.ending.bias.data.fill_(-1.0)  # type: ignore[union-attr]
    going = 1 - torch.tensor(-1.0).sigmoid()
    paths = model.sample(state_of(model, 1), HORIZON, 4000, torch.tensor([1]))
    for k in range(1, HORIZON):
        assert float((paths.lengths > k).double().mean()) == pytest.approx(float(going**k), abs=0.03)
    assert int(paths.lengths.min()) == 1
    assert int(paths.lengths.max()) == HORIZON


def tiny(end: bool) -> tuple[Seq2Seq, DecoderInputs]:
    model = make_model(decoder="recurrent", head="categorical", num_bins=3, horizon=4, end_of_sequence=end)
    with torch.inference_mode():
        state, _ = model.scan(model.initial_state(2), draw_observations(4, 2, 30, 0.1))
        return model, model.origins_at(state, 4)


def log_probability(model: Seq2Seq, origins: DecoderInputs, bins: tuple[int, ...], ended: bool) -> torch.Tensor:
    """Return the log-probability of a path of bins by teacher forcing, float64 [N]."""
    decoder = decoder_of(model)
    head = decoder.readout.head
    assert isinstance(head, CategoricalHead)
    middles = head.values(origins.frame)[:, 0]
    target = torch.stack([middles[:, b] for b in (*bins, *[0] * (4 - len(bins)))], dim=1)
    decoded = decoder(origins, target)
    total = torch.zeros(len(target), dtype=torch.float64)
    for k, b in enumerate(bins):
        total += decoded.parameters[:, k, b].double()
        if decoded.ending is not None:
            over = ended and k == len(bins) - 1
            total += torch.nn.functional.logsigmoid(decoded.ending[:, k].double() * (1 if over else -1))
    return total


def every_path(model: Seq2Seq, origins: DecoderInputs, end: bool) -> list[tuple[torch.Tensor, int]]:
    """Return every path's log-probability and length."""
    lengths = range(1, 5) if end else [4]
    kinds = [(n, bins) for n in lengths for bins in itertools.product(range(3), repeat=n)]
    found = []
    for n, bins in kinds:
        for ended in {True, n < 4} if end else {False}:
            found.append((log_probability(model, origins, bins, ended), n))
    return found


@torch.inference_mode()
@pytest.mark.parametrize("end", [False, True])
@pytest.mark.parametrize("length_power", [0.0, 1.0])
def test_a_wide_beam_finds_the_best_of_all_paths(end: bool, length_power: float) -> None:
    model, origins = tiny(end)
    every = every_path(model, origins, end)
    scores = torch.stack([score for score, _ in every])
    assert float(scores.exp().sum(dim=0)[0]) == pytest.approx(1.0, rel=1e-5), "the paths are all there are"
    found = beam_search(decoder_of(model), origins, 4, paths=10, width=500, length_power=length_power)
    lengths = torch.tensor([length for _, length in every])
    ranked = (scores / lengths[:, None] ** length_power).sort(dim=0, descending=True).values[:10].T
    assert found.log_probabilities is not None
    mine = found.log_probabilities / found.lengths.double() ** length_power
    torch.testing.assert_close(mine, ranked, rtol=1e-5, atol=1e-6)


@torch.inference_mode()
@pytest.mark.parametrize("width", [1, 2, 5])
def test_a_narrow_beam_tells_the_true_probability_of_its_paths(width: int) -> None:
    model, origins = tiny(end=True)
    decoder = decoder_of(model)
    found = beam_search(decoder, origins, 4, paths=width, width=width)
    head = decoder.readout.head
    assert isinstance(head, CategoricalHead)
    assert found.log_probabilities is not None
    assert (found.log_probabilities.diff(dim=1) <= 1e-9).all()
    for row in range(2):
        for p in range(width):
            length = int(found.lengths[row, p])
            bins = tuple(head.bins(found.values[:, p], origins.frame)[row, :length].tolist())
            options = [float(log_probability(model, origins, bins, ended)[row]) for ended in (True, False)]
            options = options if length == 4 else options[:1]
            got = float(found.log_probabilities[row, p])
            assert min(abs(got - option) for option in options) < 1e-5


@torch.inference_mode()
def test_a_beam_of_one_is_greedy() -> None:
    model, origins = tiny(end=False)
    decoder = decoder_of(model)
    head = decoder.readout.head
    assert isinstance(head, CategoricalHead)
    middles = head.values(origins.frame)[:, 0]

    def best(k: int, parameters: torch.Tensor, ending: torch.Tensor | None) -> torch.Tensor:
        return middles.gather(1, parameters[:, 0].argmax(dim=-1, keepdim=True))

    _, greedy = decoder.rollout(origins, 1, best)
    found = beam_search(decoder, origins, 4, paths=1, width=1)
    torch.testing.assert_close(found.values, greedy)


@pytest.mark.parametrize("name", ["gru", "gaussian"])
def test_a_direct_decoder_has_no_paths(name: str) -> None:
    model = MODELS[name]
    with pytest.raises(UnsupportedError, match=r"model\.decoder=recurrent"):
        model.sample(model.initial_state(1), 3, 5, torch.zeros(1, dtype=torch.int64))
    with pytest.raises(UnsupportedError, match=r"model\.head=categorical"):
        model.beam(model.initial_state(1), 3, paths=2, width=2, length_power=0.0)
