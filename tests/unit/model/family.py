"""A small model of every kind that a configuration can ask for, and observations to feed them."""

import dataclasses
import functools

import numpy as np
import torch

from forecaster.config import ModelConfig
from forecaster.model.covariates import Category, Covariate, CovariateSpec, with_attributes
from forecaster.model.observations import Observations
from forecaster.model.seq2seq import Seq2Seq
from forecaster.model.state import State

HOUR_US = 3_600_000_000
START_US = 1_356_998_400_000_000  # 2013-01-01T00:00:00Z
HORIZON = 6
SPEC = CovariateSpec(
    past=(Covariate("rain", 1.0, 2.0),),
    future=(Covariate("price", 10.0, 3.0), Covariate("holiday", 0.1, 0.3)),
    static=(Covariate("area", 50.0, 20.0),),
    categories=(Category("region", ("north", "south")), Category("kind", ("a", "b", "c"))),
)
SMALL = ModelConfig(
    hidden_size=8, num_layers=2, decoder_size=8, horizon=HORIZON, season_lengths=(5, 14), sample_paths=8
)

CONFIGURATIONS: dict[str, dict[str, object]] = {
    "gru": {},
    "lstm": {"cell": "lstm"},
    "rnn tanh": {"cell": "rnn_tanh"},
    "rnn relu": {"cell": "rnn_relu"},
    "output recurrence": {"cell": "output"},
    "deep input": {"deep_input": True},
    "deep transition": {"deep_transition": True},
    "deep output": {"deep_output": True, "cell": "lstm"},
    "slower upper layer": {"layer_periods": (1, 5)},
    "slow and deep": {"layer_periods": (2, 3), "deep_transition": True, "deep_output": True, "cell": "lstm"},
    "additive attention": {"attention": "additive", "attention_steps": 7},
    "dot attention": {"attention": "dot", "attention_steps": 30, "cell": "lstm"},
    "bidirectional": {"bidirectional": True},
    "bidirectional over nothing": {"bidirectional": True, "calendar": False},
    "gaussian": {"head": "gaussian"},
    "student t": {"head": "student_t"},
    "negative binomial": {"head": "negative_binomial"},
    "categorical": {"head": "categorical", "num_bins": 9},
    "ending": {"end_of_sequence": True},
    "plain statistics": {"statistics": "plain"},
    "recurrent, initial": {"decoder": "recurrent", "context": "initial"},
    "recurrent, input": {"decoder": "recurrent", "context": "input", "cell": "lstm"},
    "recurrent, one slow layer": {"decoder": "recurrent", "num_layers": 1, "layer_periods": (3,)},
    "recurrent, both": {"decoder": "recurrent", "attention": "additive", "attention_steps": 7, "end_of_sequence": True},
    "recurrent, output": {"decoder": "recurrent", "cell": "output", "head": "gaussian"},
    "recurrent, bins": {"decoder": "recurrent", "head": "categorical", "num_bins": 9, "bidirectional": True},
    "recurrent, counts": {"decoder": "recurrent", "head": "negative_binomial", "deep_transition": True},
}
WITH_COVARIATES = {
    "covariates": {},
    "covariates, everything": {
        "decoder": "recurrent",
        "attention": "dot",
        "attention_steps": 7,
        "bidirectional": True,
        "layer_periods": (1, 3),
    },
}


def make_model(spec: CovariateSpec | None = None, **changes: object) -> Seq2Seq:
    """Return a model with weights far from the initial zeros, so that everything matters."""
    torch.manual_seed(7)
    model = Seq2Seq(dataclasses.replace(SMALL, **changes), HOUR_US, spec or CovariateSpec()).eval()  # type: ignore[arg-type]
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model


class Models(dict[str, Seq2Seq]):
    """The models by name, each made when it is asked for."""

    def __missing__(self, name: str) -> Seq2Seq:
        known = CONFIGURATIONS | WITH_COVARIATES
        self[name] = make_model(SPEC if name in WITH_COVARIATES else None, **known[name])
        return self[name]


MODELS = Models()
NAMES = sorted(CONFIGURATIONS | WITH_COVARIATES)


def draw_observations(seed: int, n: int, steps: int, missing: float, covariates: int = 0) -> Observations:
    """Return walks of very different sizes, with missing values and covariates."""
    rng = np.random.default_rng(seed)
    scale = 10.0 ** rng.integers(-3, 6, size=(n, 1))
    values = scale * (rng.standard_normal((n, steps)).cumsum(1) + rng.integers(-50, 50))
    observed = torch.from_numpy(rng.random((n, steps)) >= missing)
    times = START_US + HOUR_US * (rng.integers(0, 1000, size=(n, 1)) + np.arange(steps))
    beside = None
    if covariates:
        drawn = rng.normal(5, 10, size=(n, steps, covariates))
        beside = torch.from_numpy(np.where(rng.random(drawn.shape) < missing, np.nan, drawn))
    return Observations(torch.from_numpy(times), torch.where(observed, torch.from_numpy(values), 0.0), observed, beside)


def draw_for(model: Seq2Seq, seed: int, n: int, steps: int, missing: float) -> Observations:
    """Return observations with the covariates that a model knows."""
    return draw_observations(seed, n, steps, missing, len(model.covariates.dynamic))


def fresh(model: Seq2Seq, seed: int, n: int) -> State:
    """Return fresh states with drawn static covariates, some unknown."""
    rng = np.random.default_rng(seed + 1)
    numbers = np.where(rng.random((n, 1)) < 0.3, np.nan, rng.normal(50, 20, (n, 1)))
    codes = np.stack([rng.integers(0, 3, n), rng.integers(0, 4, n)], axis=1)
    return with_attributes(model.initial_state(n), torch.from_numpy(numbers), torch.from_numpy(codes))


def draw_future(model: Seq2Seq, seed: int, n: int, horizon: int = HORIZON) -> torch.Tensor | None:
    """Return known-future covariates, some missing, [B, D, F]; None for a model that knows none."""
    width = len(model.covariates.future)
    if not width:
        return None
    rng = np.random.default_rng(seed + 2)
    drawn = rng.normal(5, 10, size=(n, horizon, width))
    return torch.from_numpy(np.where(rng.random(drawn.shape) < 0.2, np.nan, drawn))


def assert_same(left: State, right: State) -> None:
    """Compare two states."""
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        message = functools.partial("{}: {}".format, name)
        torch.testing.assert_close(tensor, right[name], rtol=1e-5, atol=1e-5, msg=message)
