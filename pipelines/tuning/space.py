"""What a search varies: options, each with choices or a range, and the configurations that their values make.

    tuning:
      space:
        model.cell: [gru, lstm]
        model.num_layers: {low: 1, high: 3}
        training.learning_rate: {low: 1.0e-3, high: 3.0e-2, log: true}

Knows options and what values they take; knows nothing of studies or of training.
"""

import dataclasses
import difflib
import json
import random
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser

from forecaster.arguments import add_config_arguments, command_parser, parse
from forecaster.compare.variants import SHARED
from forecaster.config import Config, ModelConfig, TrainingConfig
from forecaster.config.rules import unused, usual
from forecaster.errors import ConfigError

if TYPE_CHECKING:
    from optuna import Trial

_SECTIONS = {"model": ModelConfig, "training": TrainingConfig}  # that a search may vary
_RANGE = ("low", "high", "log", "step")
# Which forecasts are scored and in which unit has to be the same for all; a seed that is searched for is luck.
_FIXED = (*SHARED, "training.seed", "training.start_from")
_DRAWS = 200  # of the other options, before a value is called impossible


@dataclass(frozen=True, slots=True)
class Choices:
    """One of several values.

    Args:
        values: as the configuration has them.
    """

    values: tuple[Any, ...]

    def suggest(self, trial: "Trial", name: str) -> Any:
        """Return a trial's value."""
        return self.values[self._params.index(trial.suggest_categorical(name, self._params))]

    def param(self, value: Any) -> Any:
        """Return what a study calls a value; raises ValueError for one that is not among them."""
        return self._params[self.values.index(value)]

    @property
    def probes(self) -> tuple[Any, ...]:
        """The values whose possibility says that of all."""
        return self.values

    @property
    def _params(self) -> tuple[Any, ...]:  # a study takes no lists
        return tuple(v if isinstance(v, str | bool | int | float | None) else json.dumps(v) for v in self.values)


@dataclass(frozen=True, slots=True)
class Range:
    """Any value between two; whole numbers if both are.

    Args:
        low: the lowest.
        high: the highest, too.
        log: draw it evenly on a logarithmic scale.
        step: only whole numbers of steps from `low` on.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def suggest(self, trial: "Trial", name: str) -> Any:
        """Return a trial's value."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(name, self.low, self.high, step=int(self.step or 1), log=self.log)
        return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)

    def param(self, value: Any) -> Any:
        """Return what a study calls a value; raises ValueError for one outside."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            raise ValueError(value)
        if self.step is not None and (value - self.low) % self.step:
            raise ValueError(value)
        return value

    @property
    def probes(self) -> tuple[Any, ...]:
        """The values whose possibility says that of all."""
        return (self.low, self.high)


class SearchSpace:
    """The space around one configuration.

    Args:
        config: `tuning.space` says what varies; everything else stays as it is.

    Raises ConfigError for what is no option, an empty range, or a value that no combination allows.
    """

    def __init__(self, config: Config) -> None:
        self._base = config
        parser = command_parser("one option")
        add_config_arguments(parser, tuple(_SECTIONS))
        listed = _flat(config.tuning.space)
        self.options = {name: _option(parser, name, given) for name, given in listed}
        self._require_possible()

    def suggest(self, trial: "Trial") -> dict[str, Any]:
        """Return a trial's value of each option, by dotted name."""
        return {name: option.suggest(trial, name) for name, option in self.options.items()}

    def values(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return options' values from what a study calls them."""
        found = dict(params)
        for name, option in self.options.items():
            if name in params and isinstance(option, Choices):
                found[name] = next(value for value in option.values if option.param(value) == params[name])
        return found

    def config(self, values: Mapping[str, Any]) -> Config:
        """Return the configuration with options changed; raises ConfigError if they do not go together."""
        changed = {}
        for section in _SECTIONS:
            options = {name.partition(".")[2]: values[name] for name in values if name.partition(".")[0] == section}
            changed[section] = dataclasses.replace(getattr(self._base, section), **options)
        return dataclasses.replace(self._base, **self._without_unused(changed))

    def _without_unused(self, changed: dict[str, Any]) -> dict[str, Any]:
        """Return sections in which what a draw has no use for, such as attention's steps without it, is as usual."""
        sections = {field.name: getattr(self._base, field.name) for field in dataclasses.fields(self._base)} | changed
        for name in [rule.name for rule in unused(types.SimpleNamespace(**sections)) if rule.name in self.options]:
            section, _, option = name.partition(".")
            values = sections[section]
            sections[section] = dataclasses.replace(values, **{option: usual(type(values), option)})
        return {name: sections[name] for name in changed}

    def params_of(self, config: Config) -> dict[str, Any] | None:
        """Return what a study calls a configuration, None if it is not in the space."""
        try:
            return {name: option.param(_value(config, name)) for name, option in self.options.items()}
        except ValueError:
            return None

    def _require_possible(self) -> None:
        draw = random.Random(0)
        for name, option in self.options.items():
            for value in option.probes:
                reason = self._refusal({name: value})
                if reason and not any(not self._refusal(self._drawn(draw) | {name: value}) for _ in range(_DRAWS)):
                    raise ConfigError(f"tuning.space: {name} cannot be {value!r}: {reason}")

    def _drawn(self, draw: random.Random) -> dict[str, Any]:
        return {name: draw.choice(option.probes) for name, option in self.options.items()}

    def _refusal(self, values: Mapping[str, Any]) -> str:
        try:
            self.config(values)
        except ConfigError as error:
            return str(error)
        return ""


def _value(config: Config, name: str) -> Any:
    section, _, option = name.partition(".")
    return getattr(getattr(config, section), option)


def _flat(space: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each option with what is given for it; sections may be written as in the rest of the file."""
    for name, given in space.items():
        if isinstance(given, Mapping) and not (given and set(given) <= set(_RANGE)):
            if prefix or name not in _SECTIONS:
                raise ConfigError(f"tuning.space: {prefix}{name} is {dict(given)!r}: write {_hint()}")
            yield from _flat(given, f"{name}.")
        else:
            yield f"{prefix}{name}", given


def _option(parser: ArgumentParser, name: str, given: Any) -> Choices | Range:
    _require_free(name)
    if isinstance(given, Mapping):
        return _range(parser, name, given)
    if not isinstance(given, list | tuple) or not given:
        raise ConfigError(f"tuning.space: {name} is {given!r}: write {_hint()}")
    values = tuple(_read(parser, name, value) for value in given)
    if len({json.dumps(value) for value in values}) < len(values):
        raise ConfigError(f"tuning.space: {name} has a choice twice: {list(given)!r}")
    return Choices(values)


def _range(parser: ArgumentParser, name: str, given: Mapping[str, Any]) -> Range:
    if not {"low", "high"} <= set(given):
        raise ConfigError(f"tuning.space: {name} needs low and high: write {_hint()}")
    low, high = (_read(parser, name, given[side]) for side in ("low", "high"))
    step, log = given.get("step"), given.get("log", False)
    for value in (low, high, *(() if step is None else (step,))):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"tuning.space: {name} is no number, so it has no range: list its choices")
    if not low < high:
        raise ConfigError(f"tuning.space: {name} has an empty range: low {low} is not below high {high}")
    if not isinstance(log, bool) or (log and (low <= 0 or step is not None)):
        raise ConfigError(f"tuning.space: {name} with log=true needs a low above 0 and no step; log is true or false")
    if step is not None and not 0 < step <= high - low:
        raise ConfigError(f"tuning.space: {name} has step {step}: use more than 0, and at most high - low")
    return Range(low, high, log, step)


def _read(parser: ArgumentParser, name: str, value: Any) -> Any:
    """Return a value of an option, of the option's type; raises ConfigError if it is of another."""
    text = value if isinstance(value, str) else json.dumps(value)
    section, _, option = name.partition(".")
    try:
        read = getattr(parse(parser, [f"--{name}={text}"])[section], option)
    except ConfigError as error:
        raise ConfigError(f"tuning.space: {error}") from error
    return tuple(read) if isinstance(read, list) else read


def _require_free(name: str) -> None:
    section, _, option = name.partition(".")
    known = [f"{one}.{field.name}" for one, kind in _SECTIONS.items() for field in dataclasses.fields(kind)]
    if name not in known:
        alike = difflib.get_close_matches(name, known, n=1)
        meant = f": did you mean {alike[0]}?" if alike else " of model or training"
        raise ConfigError(f"tuning.space: {name} is no option{meant}")
    if name in _FIXED:
        raise ConfigError(f"tuning.space: {name} has to be the same in all trials: set it by --{section}.{option}")


def _hint() -> str:
    return "a list of choices, or a range such as {low: 0.001, high: 0.03, log: true}"
