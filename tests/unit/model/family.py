"""A small model of every kind that a configuration can ask for, and observations to feed them."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from forecaster.config import ModelConfig
from forecaster.model.covariates import Category, Covariate, CovariateSpec, with_attributes
from forecaster.model.ensemble import Ensemble, Model
from forecaster.model.inputs.observations import Observations
from forecaster.model.seq2seq import Seq2Seq
from forecaster.model.state import State
from tests.covering import Row, Rule, combinations, covering, pairs

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
    hidden_size=8,
    num_layers=2,
    decoder_size=8,
    horizon=HORIZON,
    season_lengths=(5, 14),
    sample_paths=8,
    num_bins=9,
    attention_steps=7,
    min_history=5,
)

# What a configuration can ask for. Every pair of these values occurs in a model of `FAMILY`, on which the laws hold.
OPTIONS: dict[str, tuple[Any, ...]] = {
    "computed": ("by torch", "steps by kernels", "by kernels"),  # see FORBIDDEN
    "cell": ("gru", "lstm", "rnn_tanh", "rnn_relu", "output"),
    "head": ("quantiles", "gaussian", "student_t", "negative_binomial", "categorical"),
    "attention": ("none", "additive", "dot"),
    "attention_steps": (7, 30),
    "decoder": ("direct", "recurrent"),
    "context": ("both", "initial", "input"),
    "layer_periods": (None, (1, 5), (2, 3)),
    "initialization": ("orthogonal", "xavier", "identity"),
    "season_lengths": ((5, 14), ()),
    "statistics": ("robust", "plain"),
    "num_layers": (2, 1),
    "deep_input": (False, True),
    "deep_transition": (False, True),
    "deep_output": (False, True),
    "bidirectional": (False, True),
    "calendar": (True, False),
    "end_of_sequence": (False, True),
    "members": (1, 2),
    "past": (False, True),
    "future": (False, True),
    "static": (False, True),
    "categories": (False, True),
}
SHORT = {
    **dict.fromkeys(("cell", "head", "attention", "decoder", "initialization", "statistics"), ""),
    **{"attention_steps": "of", "layer_periods": "every", "season_lengths": "season", "num_layers": "layers"},
    **{"deep_input": "into", "deep_transition": "deep", "deep_output": "out", "end_of_sequence": "ending"},
}
COVARIATES = ("past", "future", "static", "categories")
_WITHOUT_HIDDEN = ("deep_input", "deep_transition", "deep_output")
NOT_STEPPED: dict[str, tuple[Any, ...]] = {
    "cell": ("output",),
    "attention": ("additive", "dot"),
    "layer_periods": ((1, 5), (2, 3)),
    **dict.fromkeys(_WITHOUT_HIDDEN, (True,)),
}
NOT_FORECAST: dict[str, tuple[Any, ...]] = {
    "head": ("gaussian", "student_t", "negative_binomial", "categorical"),
    "decoder": ("recurrent",),
    "bidirectional": (True,),
    "end_of_sequence": (True,),
}
FORBIDDEN: list[dict[str, tuple[Any, ...]]] = [
    *({"cell": ("output",), name: values} for name, values in NOT_STEPPED.items() if name not in ("cell", "attention")),
    {"cell": ("output",), "decoder": ("recurrent",), "context": ("initial",)},
    {"decoder": ("direct",), "context": ("initial", "input")},  # which has none
    {"attention": ("none",), "attention_steps": (30,)},
    {"num_layers": (1,), "layer_periods": ((1, 5), (2, 3))},
    *({"computed": ("steps by kernels", "by kernels"), name: values} for name, values in NOT_STEPPED.items()),
    *({"computed": ("by kernels",), name: values} for name, values in NOT_FORECAST.items()),
]
# What is more than a pair, and has code of its own.
MORE: list[Row] = [
    *({"computed": "by kernels", **one} for one in combinations(OPTIONS, *COVARIATES)),
    *({"decoder": "recurrent", **one} for one in combinations(OPTIONS, *COVARIATES)),
    *({"computed": "by kernels", **one} for one in combinations(OPTIONS, "cell", "members", "season_lengths")),
    *({"computed": "by kernels", **one} for one in combinations(OPTIONS, "cell", "num_layers", "calendar")),
    *({"bidirectional": True, **one} for one in combinations(OPTIONS, "decoder", "calendar", "future")),
    *(
        {"layer_periods": (2, 3), "deep_transition": True, "deep_output": True, "cell": cell}
        for cell in ("gru", "lstm")
    ),
    {"decoder": "recurrent", "attention": "additive", "end_of_sequence": True},
    {"decoder": "recurrent", "head": "categorical", "bidirectional": True},
]


def name_of(row: Row) -> str:
    """Return what of a row is not as usual, in few words."""
    words = []
    for option, (usual, *_) in OPTIONS.items():
        value = row.get(option, usual)
        if option == "computed" or value == usual:
            continue
        name = SHORT.get(option, option)
        words.append(
            name if value is True else f"no {name}" if value in (False, ()) else f"{name}{value}".replace(" ", "")
        )
    return " ".join(words) or "usual"


def family(options: Mapping[str, tuple[Any, ...]], forbidden: Sequence[Rule] = ()) -> dict[str, Row]:
    """Return the rows of some of the options by name, without what is forbidden besides."""
    rules = [rule for rule in (*FORBIDDEN, *forbidden) if rule.keys() <= options.keys()]
    more = [one for one in MORE if one.keys() <= options.keys()]
    return {name_of(row): row for row in covering(options, rules, [*pairs(options), *more])}


FAMILY = family(OPTIONS)
NAMES = list(FAMILY)


# Some plain ones by name, for tests of one thing.
NAMED: dict[str, dict[str, object]] = {
    "gru": {},
    "lstm": {"cell": "lstm"},
    "rnn relu": {"cell": "rnn_relu"},
    "deep transition": {"deep_transition": True},
    "gaussian": {"head": "gaussian"},
    "plain statistics": {"statistics": "plain"},
    "recurrent, initial": {"decoder": "recurrent", "context": "initial"},
    "recurrent, input": {"decoder": "recurrent", "context": "input", "cell": "lstm"},
    "recurrent, both": {"decoder": "recurrent", "attention": "additive", "attention_steps": 7, "end_of_sequence": True},
    "recurrent, output": {"decoder": "recurrent", "cell": "output", "head": "gaussian"},
    "recurrent, bins": {"decoder": "recurrent", "head": "categorical", "num_bins": 9, "bidirectional": True},
    "recurrent, counts": {"decoder": "recurrent", "head": "negative_binomial", "deep_transition": True},
}
WITH_COVARIATES: dict[str, dict[str, object]] = {
    "covariates": {},
    "covariates, everything": {
        "decoder": "recurrent",
        "attention": "dot",
        "attention_steps": 7,
        "bidirectional": True,
        "layer_periods": (1, 3),
    },
}


def make_model(spec: CovariateSpec | None = None, *, seed: int = 7, **changes: object) -> Seq2Seq:
    """Return a model with weights far from the initial zeros, so that everything matters."""
    torch.manual_seed(seed)
    model = Seq2Seq(dataclasses.replace(SMALL, **changes), HOUR_US, spec or CovariateSpec()).eval()  # type: ignore[arg-type]
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    for name, parameter in model.named_parameters():
        if model.config.cell == "rnn_relu" and "weight_hh" in name:  # else states grow without bound, and with rounding
            parameter.data *= 0.9 / torch.linalg.matrix_norm(parameter.data, 2)
    return model


def changes_of(row: Row) -> dict[str, object]:
    """Return the fields of `ModelConfig` that a row of `FAMILY` asks for."""
    names = {field.name for field in dataclasses.fields(ModelConfig)}
    return {name: value for name, value in row.items() if name in names}


def spec_of(row: Row) -> CovariateSpec:
    """Return the covariates of a row of `FAMILY`."""
    return dataclasses.replace(SPEC, **{kind: () for kind in COVARIATES if not row[kind]})


def member_of_family(row: Row) -> Model:
    """Return the model of a row of `FAMILY`."""
    networks = [make_model(spec_of(row), seed=7 + k, **changes_of(row)) for k in range(row["members"])]
    return networks[0] if len(networks) == 1 else Ensemble(networks).eval()


class Models(dict[str, Model]):
    """The models by name, each made when it is asked for."""

    def __missing__(self, name: str) -> Model:
        if name in FAMILY:
            self[name] = member_of_family(FAMILY[name])
        else:
            known = NAMED | WITH_COVARIATES
            self[name] = make_model(SPEC if name in WITH_COVARIATES else None, **known[name])
        return self[name]


MODELS = Models()


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


def draw_for(model: Model, seed: int, n: int, steps: int, missing: float) -> Observations:
    """Return observations with the covariates that a model knows."""
    return draw_observations(seed, n, steps, missing, len(model.covariates.dynamic))


def fresh(model: Model, seed: int, n: int) -> State:
    """Return fresh states with drawn static covariates, some unknown."""
    rng = np.random.default_rng(seed + 1)
    numbers = np.where(rng.random((n, 1)) < 0.3, np.nan, rng.normal(50, 20, (n, 1)))
    codes = np.stack([rng.integers(0, 3, n), rng.integers(0, 4, n)], axis=1)
    return with_attributes(model.initial_state(n), torch.from_numpy(numbers), torch.from_numpy(codes))


def draw_future(model: Model, seed: int, n: int, horizon: int = HORIZON) -> torch.Tensor | None:
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
