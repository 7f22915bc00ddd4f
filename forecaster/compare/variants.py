"""The variants of a comparison: a YAML file of names and what each changes in one base configuration.

    gru: {}
    lstm: {model.cell: lstm}

Knows which options may differ; knows nothing of training.
"""

import json
import pathlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml

from forecaster.arguments import add_config_arguments, command_parser, parse, read_config
from forecaster.config import Config, to_dict
from forecaster.errors import ConfigError

READY = ("family",)  # lists that come with the package, in `forecaster/configs`
_SECTIONS = ("model", "training")  # that a variant may change
# What decides which forecasts are scored and in which unit, and where checkpoints go.
SHARED = (
    "model.horizon",
    "model.season_lengths",
    "model.min_history",
    "training.validation_steps",
    "training.holdout",
    "training.checkpoint_dir",
    "training.resume",
)


@dataclass(frozen=True, slots=True)
class Variant:
    """One architecture, or way of training, of a comparison.

    Args:
        name: for people.
        options: what it changes, by dotted name.
        config: the base configuration with that changed.
    """

    name: str
    options: dict[str, Any]
    config: Config


def read_variants(source: str, base: Config) -> list[Variant]:
    """Return the variants of a YAML file, or of a list that comes with the package.

    Args:
        source: the file, or one of `READY`.
        base: what the variants change.

    Raises ConfigError, naming the variant, if one of them cannot be.
    """
    listed = _read(source)
    if len(listed) < 2:
        raise ConfigError(f"{source} has {len(listed)} variants: a comparison needs two or more")
    return [_variant(source, str(name), changes, base) for name, changes in listed.items()]


def _read(source: str) -> dict[Any, Any]:
    try:
        if source in READY:
            text = resources.files("forecaster").joinpath("configs", f"{source}.yaml").read_text()
        else:
            text = pathlib.Path(source).read_text(encoding="utf-8")
        listed = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise ConfigError(f"{source} cannot be read: {reason}; name a YAML file, or {' or '.join(READY)}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{source} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(listed, dict):
        raise ConfigError(f"{source} is no list of variants: write lines such as 'lstm: {{model.cell: lstm}}'")
    return listed


def _variant(source: str, name: str, changes: Any, base: Config) -> Variant:
    if not isinstance(changes, Mapping | None):
        raise ConfigError(f"variant {name!r} of {source} is {changes!r}: write options, such as {{model.cell: lstm}}")
    options = dict(_flat(changes or {}))
    for option in options:
        if option.partition(".")[0] not in _SECTIONS or option in SHARED:
            raise ConfigError(
                f"variant {name!r} of {source} changes {option}, which all variants share: set it for all with"
                f" --{option}, or leave it out"
            )
    try:
        return Variant(name, options, _changed(base, options))
    except ConfigError as error:
        raise ConfigError(f"variant {name!r} of {source}: {error}", error.violations) from error


def _flat(changes: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in changes.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _changed(base: Config, options: Mapping[str, Any]) -> Config:
    """Return a configuration with options changed, checked as on the command line."""
    parser = command_parser("one variant")
    add_config_arguments(parser, _SECTIONS)
    values = (value if isinstance(value, str) else json.dumps(value) for value in options.values())
    arguments = [f"--{name}={value}" for name, value in zip(options, values, strict=True)]
    with tempfile.TemporaryDirectory(prefix="forecaster-") as folder:
        path = pathlib.Path(folder) / "base.yaml"
        path.write_text(yaml.safe_dump(to_dict(base)))
        return read_config(parse(parser, ["--config", str(path), *arguments]))
