"""What is minimised for every kind of head, feeding schedules, endings, and how gradients fade."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from forecaster.config import Config, DataConfig, ModelConfig, TrainingConfig
from forecaster.data.windows import Series
from forecaster.errors import DataError
from forecaster.model.covariates import CovariateSpec
from forecaster.model.seq2seq import Seq2Seq
from forecaster.training.datamodule import Chunk, Cut, LaneDataset
from forecaster.training.feeding import exposure, teacher_share
from forecaster.training.gradients import gradient_norms
from forecaster.training.inspection import settle
from forecaster.training.objective import chunk_loss

HOUR = 3_600_000_000
SMALL = ModelConfig(hidden_size=6, num_layers=1, decoder_size=6, horizon=4, season_lengths=(4,), min_history=1)
AT = torch.arange(5, 20, 3)


def make_model(**changes: object) -> Seq2Seq:
    torch.manual_seed(0)
    model = Seq2Seq(dataclasses.replace(SMALL, **changes), HOUR).eval()  # type: ignore[arg-type]
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model


def make_chunk(ended: bool = False, length: int = 30) -> Chunk:
    rng = np.random.default_rng(0)
    series = [Series(name, 0, HOUR, rng.poisson(9, length).astype(float), ended=ended) for name in "ab"]
    cut = Cut(lane_steps=100, chunk_steps=20, lanes_per_batch=2, min_chunks=1)
    return next(iter(LaneDataset(series, [1.0, 2.0], horizon=4, spec=CovariateSpec(), cut=cut, seed=0)))


@pytest.mark.parametrize("head", ["quantiles", "gaussian", "student_t", "negative_binomial", "categorical"])
@pytest.mark.parametrize("decoder", ["direct", "recurrent"])
def test_the_loss_is_the_weighted_sum_over_scored_pairs(head: str, decoder: str) -> None:
    model, chunk = make_model(head=head, decoder=decoder), make_chunk()
    with torch.inference_mode():
        found = chunk_loss(model, chunk, model.initial_state(2), AT)
        total, count = 0.0, 0
        for row in range(2):
            for at in AT.tolist():
                part = chunk.observations.part(slice(at + 1)).rows(slice(row, row + 1))
                origins = model.origins_at(model.scan(model.initial_state(1), part)[0], 4)
                target = chunk.future[row : row + 1, at + 1 : at + 5]
                decoded = model.teacher_forced(origins, target)
                losses = model.decoder.readout.head.loss(decoded.parameters, target, origins.frame)
                unit = float(origins.unit) / float(chunk.units[row])
                losses = losses * {"quantiles": unit, "gaussian": min(unit, 1) ** 2}.get(head, 1.0)
                total, count = total + float(losses.sum()), count + losses.numel()
    assert found.count == count
    assert float(found.total) == pytest.approx(total, rel=1e-4)
    assert float(found.beside) == 0.0


def test_no_origin_outweighs_all_others() -> None:
    """Just after the first season a unit is a single change, here a thousandth of the later ones."""
    rng = np.random.default_rng(0)
    values = 50 + rng.normal(size=30)
    values[4] = values[0] + 1e-5
    cut = Cut(lane_steps=100, chunk_steps=20, lanes_per_batch=2, min_chunks=1)
    series = [Series("a", 0, HOUR, values)]
    chunk = next(iter(LaneDataset(series, [1.0], horizon=4, spec=CovariateSpec(), cut=cut, seed=0)))
    model = Seq2Seq(dataclasses.replace(SMALL, head="gaussian"), HOUR).eval()
    with torch.inference_mode():
        first, later = (
            float(chunk_loss(model, chunk, model.initial_state(1), torch.tensor([at])).mean) for at in (4, 15)
        )
    assert first < 3 * later


def test_a_share_of_one_is_teacher_forcing_and_less_is_not() -> None:
    model, chunk = make_model(decoder="recurrent"), make_chunk()
    with torch.inference_mode():
        torch.manual_seed(1)
        taught, mixed, free = (float(chunk_loss(model, chunk, model.initial_state(2), AT, s).mean) for s in (1, 0.5, 0))
        assert len({taught, mixed, free}) == 3
        figures = exposure(model, chunk, model.initial_state(2), AT)
    assert figures["teacher_forced_loss"] == pytest.approx(taught)
    assert figures["exposure_gap"] == pytest.approx(figures["free_running_loss"] - taught)
    assert exposure(make_model(), chunk, model.initial_state(2), AT) == {}


def test_free_running_learns_too() -> None:
    model, chunk = make_model(decoder="recurrent", head="gaussian"), make_chunk()
    chunk_loss(model, chunk, model.initial_state(2), AT, 0.0).mean.backward()
    gradients = [parameter.grad for parameter in model.decoder.parameters()]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("cell", ["gru", "output"])
@pytest.mark.parametrize("context", ["input", "both"])
def test_every_parameter_of_a_recurrent_model_learns(cell: str, context: str) -> None:
    model, chunk = make_model(decoder="recurrent", cell=cell, context=context), make_chunk()
    chunk_loss(model, chunk, model.initial_state(2), AT).mean.backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert [name for name in idle if "decoder.stack.readout" not in name] == []  # the readout is for missing values


def test_the_schedules_fall_from_teaching_to_the_share() -> None:
    def shares(**changes: object) -> list[float]:
        config = TrainingConfig(**changes)  # type: ignore[arg-type]
        return [teacher_share(config, progress / 50) for progress in range(51)]

    assert set(shares()) == {1.0}
    assert set(shares(feeding="free")) == {0.0}
    assert set(shares(feeding="scheduled", feeding_schedule="constant", feeding_share=0.3)) == {0.3}
    linear = shares(feeding="scheduled", feeding_share=0.25)
    assert linear == pytest.approx(np.linspace(1.0, 0.25, 51))
    sigmoid = shares(feeding="scheduled", feeding_schedule="inverse_sigmoid", feeding_share=0.1)
    assert sigmoid == sorted(sigmoid, reverse=True)
    assert sigmoid[0] > 0.9
    assert sigmoid[-1] == pytest.approx(0.1, abs=0.01)


def test_an_ending_is_scored_up_to_the_series_last_step() -> None:
    model = make_model(end_of_sequence=True)
    ending = model.decoder.readout.ending
    assert ending is not None
    for parameter in ending.parameters():
        torch.nn.init.zeros_(parameter)
    ending.bias.data.fill_(-2.0)
    going, over = (-math.log(1 - 1 / (1 + math.exp(2))), -math.log(1 / (1 + math.exp(2))))
    for ended in (False, True):
        chunk = make_chunk(ended, length=19)  # the last step is 18
        with torch.inference_mode():
            found = chunk_loss(model, chunk, model.initial_state(2), torch.tensor([12, 15, 18]))
        # Behind 12 four steps go on; behind 15 three are left, and the third is the last; behind 18 there is nothing.
        expected = (6 * going + (over if ended else going)) / 7
        assert float(found.beside) == pytest.approx(expected, rel=1e-5)


def test_covariates_are_hidden_from_some_series_in_training_only() -> None:
    """A series that is served without them must not be worse off than with a model that knows none."""
    rng = np.random.default_rng(0)
    series = [Series(f"{k}", 0, HOUR, rng.normal(size=30), np.ones((30, 1))) for k in range(200)]
    spec = CovariateSpec.fit(series, past=["rain"])
    cut = Cut(lane_steps=100, chunk_steps=20, lanes_per_batch=200, min_chunks=1)
    chunk = next(iter(LaneDataset(series, [1.0] * 200, horizon=4, spec=spec, cut=cut, seed=0)))
    torch.manual_seed(1)
    model = Seq2Seq(dataclasses.replace(SMALL, dropout=0.0), HOUR, spec)
    states = []
    for training in (False, True):
        with torch.inference_mode():
            states.append(chunk_loss(model.train(training), chunk, model.initial_state(200), AT).state["hidden"])
    moved = (states[0] - states[1]).abs().amax(dim=(1, 2)) > 1e-6
    assert 1 <= int(moved.sum()) <= 40


def test_gradients_vanish_where_the_recurrent_weights_are_small_and_last_where_they_are_the_identity() -> None:
    chunk = make_chunk()
    norms = {}
    for name, factor in (("small", 0.3), ("identity", 1.0)):
        model = make_model(cell="rnn_relu")
        kernel = model.encoder.layers[0].kernel  # type: ignore[union-attr]
        with torch.no_grad():
            kernel.weight_hh_l0.copy_(factor * torch.eye(6))
            kernel.bias_ih_l0.fill_(5.0)  # all units are on
        norms[name] = gradient_norms(model, chunk, model.initial_state(2))
        assert all(parameter.grad is None for parameter in model.parameters())
    assert len(norms["small"]) == 20
    assert norms["small"] == pytest.approx([0.3**lag for lag in range(20)], rel=1e-3)
    assert norms["identity"] == pytest.approx([1.0] * 20, rel=1e-3)


def test_an_lstms_cell_carries_the_gradient() -> None:
    """With an open forget gate and no weights between hidden vectors it passes by the cell alone."""
    model, chunk = make_model(cell="lstm"), make_chunk()
    kernel = model.encoder.layers[0].kernel  # type: ignore[union-attr]
    with torch.no_grad():
        for parameter in kernel.parameters():
            parameter.zero_()
        kernel.weight_ih_l0.normal_(std=0.1)
        kernel.bias_ih_l0[6:12] = 20.0  # the forget gate's
    norms = gradient_norms(model, chunk, model.initial_state(2))
    assert norms[1] > 0.1
    assert norms[1:] == pytest.approx([norms[1]] * 19, rel=1e-3)


def wave(n: int, rng: np.random.Generator) -> np.ndarray:
    return 50 + np.sin(np.arange(n)) + rng.normal(size=n)


@pytest.mark.parametrize(
    ("values", "head"),
    [
        (lambda rng: rng.poisson(2, 2000).astype(float), "negative_binomial"),
        (lambda rng: rng.poisson(500, 2000).astype(float), "quantiles"),
        (lambda rng: wave(2000, rng), "quantiles"),
        (lambda rng: rng.poisson(2, 2000) - 1.0, "quantiles"),
    ],
)
def test_small_counts_get_a_likelihood_of_counts(values, head: str) -> None:  # type: ignore[no-untyped-def]
    series = [Series("a", 0, HOUR, values(np.random.default_rng(0)))]
    assert settle(Config(), series).model.head == head


def test_a_season_has_to_fit_three_times() -> None:
    rng = np.random.default_rng(0)
    for steps, seasons in ((628, (24,)), (630, (24, 168)), (70, ())):  # a fifth is the tail
        settled = settle(Config(), [Series("a", 0, HOUR, wave(steps, rng))]).model
        assert settled.season_lengths == seasons
    asked = Config(model=ModelConfig(season_lengths=(168,)))
    assert settle(asked, [Series("a", 0, HOUR, wave(70, rng))]).model.season_lengths == (168,)


def test_counts_are_asked_of_a_negative_binomial() -> None:
    config = Config(data=DataConfig(frequency="1h"), model=ModelConfig(head="negative_binomial"))
    with pytest.raises(DataError, match=r"model\.head=negative_binomial needs whole numbers"):
        settle(config, [Series("a", 0, HOUR, np.full(500, 0.5))])


def test_what_was_settled_is_settled() -> None:
    series = [Series("a", 0, HOUR, wave(600, np.random.default_rng(0)))]
    once = settle(Config(), series)
    assert settle(once, series) == once
