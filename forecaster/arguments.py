"""The configuration on the command line: the same options, the same YAML and the same errors for every command.

`--config FILE` reads a YAML file with a section for each class of `forecaster.config`; options such as
`--model.cell lstm` change single values of it, the last one given wins.

Knows jsonargparse; knows nothing of what a command does.
"""

import argparse
import datetime as dt
import io
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from forecaster import __version__
from forecaster.config import (
    BacktestConfig,
    Config,
    DataConfig,
    IngestConfig,
    ModelConfig,
    PromotionConfig,
    ScheduleConfig,
    ServingConfig,
    TrackingConfig,
    TrainerConfig,
    TrainingConfig,
    TuningConfig,
)
from forecaster.errors import ConfigError, ForecasterError
from forecaster.proxies import spare_loopback
from forecaster.user_paths import at_home, literal

_SECTIONS: dict[str, type] = {
    "data": DataConfig,
    "model": ModelConfig,
    "training": TrainingConfig,
    "tracking": TrackingConfig,
    "serving": ServingConfig,
    "trainer": TrainerConfig,
    "ingest": IngestConfig,
    "backtest": BacktestConfig,
    "promotion": PromotionConfig,
    "tuning": TuningConfig,
    "schedule": ScheduleConfig,
}

_PATHS = (  # those of `data` are expanded where they are looked for
    ("tracking", "uri"),
    ("tracking", "artifacts"),
    ("serving", "state"),
    ("serving", "address_file"),
    ("training", "checkpoint_dir"),
    ("ingest", "state"),
    ("ingest", "output"),
    ("tuning", "storage"),
    ("schedule", "lease"),
)


@dataclass(frozen=True, slots=True)
class Command:
    """A subcommand: what its help says, which options it takes and what it does.

    Args:
        help: one line.
        sections: those of the configuration that it uses.
        run: takes the parsed arguments and returns the exit code.
        add_arguments: adds the options of its own.
        has_config: whether it takes `--config` and the options of the configuration at all.
        spellings: options that are written otherwise on the command line than they are called here.
    """

    help: str
    sections: tuple[str, ...]
    run: Callable[[Namespace], int]
    add_arguments: Callable[[ArgumentParser], None] = lambda parser: None
    has_config: bool = True
    spellings: Mapping[str, str] = field(default_factory=dict)


def dispatch(
    commands: Mapping[str, Command], argv: Sequence[str] | None, *, program: str, description: str, noun: str
) -> int:
    """Run the subcommand that `argv` names and return its exit code; without one show the help."""
    words = sys.argv[1:] if argv is None else list(argv)
    named = next((word for word in words if not word.startswith("-")), None)
    if words == ["--version"]:
        print(f"{program} {__version__}")
        return 0
    if named is not None and named in commands:
        words = [_respelt(word, commands[named].spellings) for word in words]
    parser = command_parser(description, usage=f"{program} [-h] {noun.upper()} [options]")
    subcommands = parser.add_subcommands(title=f"{noun}s", metavar=noun.upper())
    for name, command in commands.items():
        config = " [--config FILE]" if command.has_config else ""
        one = command_parser(command.help, usage=f"{program} {name} [-h]{config} [options]")
        if name == named:  # the others' options, two hundred each, would take longer than all else here
            command.add_arguments(one)
            if command.has_config:
                add_config_arguments(one, command.sections)
        subcommands.add_subcommand(name, one, help=command.help)

    def chosen() -> int:
        if not words:
            parser.print_help(sys.stderr)
            return 2
        arguments = parse(parser, words)
        return commands[arguments.subcommand].run(arguments[arguments.subcommand])

    spare_loopback()
    _keep_unprintable()
    return run(chosen)


def _keep_unprintable() -> None:
    """Write what the terminal's encoding lacks as escapes, such as \\xe9, instead of ending with a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _respelt(word: str, spellings: Mapping[str, str]) -> str:
    option, equals, value = word.partition("=")
    return f"{spellings.get(option, option)}{equals}{value}"


def command_parser(description: str, *, usage: str | None = None) -> ArgumentParser:
    """Return an empty parser for one command, to be read by `parse`."""
    return ArgumentParser(description=description, usage=usage, exit_on_error=False, allow_abbrev=False)


def add_config_arguments(parser: ArgumentParser, sections: Sequence[str]) -> None:
    """Add `--config` and the options of the configuration.

    Args:
        parser: of one command.
        sections: those that the command uses. The others may stand in the file too, so that one file serves
            every command; the help does not show them.
    """
    parser.add_argument("--config", action="config", metavar="FILE", help="a YAML file with any of these options")
    for name, section in _SECTIONS.items():
        parser.add_class_arguments(section, name)
    for action in parser._actions:
        section_name, dot, _ = action.dest.partition(".")
        if section_name in _SECTIONS and (not dot or section_name not in sections):
            action.help = argparse.SUPPRESS  # also `--model FILE`: one way to name a file is enough


def parse(parser: ArgumentParser, argv: Sequence[str] | None) -> Namespace:
    """Return the parsed arguments; raises ConfigError, one line, for anything wrong with them."""
    try:
        parsed: Namespace = parser.parse_args(argv)
    except argparse.ArgumentError as error:
        text = re.sub(r'^Parser key "([^"]+)": ', r"\1: ", " ".join(str(error).split()))
        text = re.sub(r"Expected a (?:typing\.Literal\[(.*?)\]|<class '(\w+)'>)\.", r"expected \1\2.", text)
        raise ConfigError(f"{text} (--help lists the options)") from error
    return parsed


def read_config(namespace: Namespace) -> Config:
    """Return the configuration out of the arguments of one command; raises ConfigError for a wrong value.

    A leading `~` in a path, which no shell has seen if it comes from a file, is the user's home from here on.
    """
    given = {name: vars(namespace[name]) for name in _SECTIONS}
    for section, name in _PATHS:
        if given[section][name] is not None:
            given[section][name] = at_home(given[section][name])
    given["tracking"]["uri"] = literal(given["tracking"]["uri"])
    values: dict[str, Any] = {name: section(**given[name]) for name, section in _SECTIONS.items()}
    return Config(**values)


def add_until(parser: ArgumentParser) -> None:
    """Add `--until`, which `read_until` reads."""
    shown = "use only the data before this time, for example 2013-12-17T00:00:00Z"
    parser.add_argument("--until", type=str, metavar="TIME", help=shown)


def read_until(namespace: Namespace) -> dt.datetime | None:
    """Return the time that `--until` says, None without; raises ConfigError if it is none."""
    return utc_time(namespace.until) if namespace.until is not None else None


def utc_time(text: str) -> dt.datetime:
    """Read an ISO 8601 time such as 2013-12-17 or 2013-12-17T00:00:00Z; without a zone it is UTC."""
    try:
        time = dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"{text!r} is not a time: write ISO 8601 such as 2013-12-17T00:00:00Z") from error
    return time if time.tzinfo is not None else time.replace(tzinfo=dt.UTC)


def run(main: Callable[[], int]) -> int:
    """Return the exit code of a command: its own, 2 after an error on one line, 130 after Ctrl-C."""
    try:
        return main()
    except ForecasterError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
