"""What may be searched, and how it is refused: on one line, before anything is read."""

import dataclasses
from typing import Any

import optuna
import pytest

from forecaster.config import Config, ModelConfig, TuningConfig
from forecaster.errors import ConfigError
from pipelines.tuning.space import SearchSpace


def space_of(space: dict[str, Any], **model: Any) -> SearchSpace:
    return SearchSpace(Config(model=ModelConfig(**model), tuning=TuningConfig(space=space)))


SPACE: dict[str, Any] = {
    "model.cell": ["gru", "lstm"],
    "model.layer_periods": [None, [1, 24]],
    "model.num_layers": {"low": 2, "high": 3},
    "training.learning_rate": {"low": 0.001, "high": 0.1, "log": True},
    "training.chunk_steps": [None, 24],
}


def test_trials_make_configurations() -> None:
    space = space_of(SPACE)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    seen: dict[str, set[Any]] = {name: set() for name in SPACE}
    for _ in range(40):
        trial = study.ask()
        values = space.suggest(trial)
        assert space.values(trial.params) == values
        for name, value in values.items():
            seen[name].add(value)
        if values["model.num_layers"] == 3 and values["model.layer_periods"] == (1, 24):
            with pytest.raises(ConfigError, match="one period for each of 3 layers"):
                space.config(values)
            continue
        config = space.config(values)
        assert config.model.cell == values["model.cell"]
        assert config.training.learning_rate == values["training.learning_rate"]
        assert config.model.hidden_size == ModelConfig().hidden_size
    assert seen["model.cell"] == {"gru", "lstm"}
    assert seen["model.layer_periods"] == {None, (1, 24)}
    assert seen["model.num_layers"] == {2, 3}
    assert seen["training.chunk_steps"] == {None, 24}
    assert 0.001 <= min(seen["training.learning_rate"]) < 0.01 < max(seen["training.learning_rate"]) <= 0.1


def test_sections_may_be_written_as_everywhere_else() -> None:
    flat, nested = space_of({"model.cell": ["gru", "lstm"]}), space_of({"model": {"cell": ["gru", "lstm"]}})
    assert flat.options == nested.options


def test_a_range_of_a_fraction_is_one_even_between_whole_numbers() -> None:
    space = space_of({"model.dropout": {"low": 0, "high": 0.5}, "training.weight_decay": {"low": 0, "high": 1}})
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1)).ask()
    values = space.suggest(trial)
    assert 0 < values["training.weight_decay"] < 1


def test_the_configuration_as_it_is_may_be_in_the_space() -> None:
    space = space_of(SPACE)
    base = Config(tuning=TuningConfig(space=SPACE))
    params = space.params_of(base)
    assert params is None  # chunks of 84 steps are no choice
    inside = dataclasses.replace(base, training=dataclasses.replace(base.training, chunk_steps=24))
    params = space.params_of(inside)
    assert params is not None
    assert space.config(space.values(params)).model == inside.model


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({"model.hiden_size": [8, 16]}, "model.hiden_size is no option: did you mean model.hidden_size?"),
        ({"serving.port": [1, 2]}, "serving.port is no option of model or training"),
        ({"model.horizon": [12, 24]}, "model.horizon has to be the same in all trials: set it by --model.horizon"),
        ({"training.seed": [1, 2]}, "training.seed has to be the same in all trials"),
        ({"model.cell": ["gru", "transformer"]}, "model.cell: expected"),
        ({"model.cell": []}, r"model.cell is \[\]: write a list of choices, or a range"),
        ({"model.cell": "gru"}, "model.cell is 'gru': write a list of choices"),
        ({"model.cell": ["gru", "gru"]}, "model.cell has a choice twice"),
        ({"model.cell": {"low": "gru", "high": "lstm"}}, "model.cell is no number, so it has no range"),
        ({"model.hidden_size": {"low": 64, "high": 8}}, "model.hidden_size has an empty range: low 64"),
        ({"model.hidden_size": {"low": 8}}, "model.hidden_size needs low and high"),
        ({"model.hidden_size": {"low": 8, "high": 16, "step": 9}}, "model.hidden_size has step 9"),
        ({"training.learning_rate": {"low": 0.0, "high": 0.1, "log": True}}, "log=true needs a low above 0"),
        ({"model.hidden_size": [8, 0]}, "model.hidden_size cannot be 0: model.hidden_size=0 is not allowed"),
        ({"model.num_layers": {"low": 1, "high": 99}}, "model.num_layers cannot be 99"),
        ({"model.layer_periods": [[1, 24, 168]]}, r"model.layer_periods cannot be \(1, 24, 168\): .* each of 2 layers"),
    ],
)
def test_what_cannot_be_is_refused(space: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        space_of(space)
    assert "\n" not in str(error.value)


def test_a_value_that_only_some_combinations_allow_is_possible() -> None:
    space_of({"model.layer_periods": [None, [1, 24, 168]], "model.num_layers": {"low": 1, "high": 3}})
