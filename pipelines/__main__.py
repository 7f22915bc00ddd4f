"""`python -m pipelines`: one subcommand for each step.

Knows how steps are called from a shell; knows nothing of what they do.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jsonargparse import ArgumentParser, Namespace

from forecaster.arguments import add_config_arguments, command_parser, parse, read_config, run, utc_time


@dataclass(frozen=True, slots=True)
class _Step:
    """A subcommand: what its help says, which options it takes and what it does."""

    help: str
    sections: tuple[str, ...]
    add_arguments: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], int]


def _add_train_arguments(parser: ArgumentParser) -> None:
    shown = "use only the data before this time, for example 2013-12-17T00:00:00Z"
    parser.add_argument("--until", type=str, metavar="TIME", help=shown)


def _train(arguments: Namespace) -> int:
    from pipelines.train import train

    until = utc_time(arguments.until) if arguments.until is not None else None
    result = train(read_config(arguments), until=until)
    sys.stdout.write(result.line() + "\n")
    return 0


_STEPS = {
    "train": _Step(
        "train a model on the configured data and register it",
        ("data", "model", "training", "tracking"),
        _add_train_arguments,
        _train,
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the subcommand that `argv` names and return its exit code."""
    parser = command_parser("From data to a champion, step by step.", usage="python -m pipelines [-h] STEP [options]")
    steps = parser.add_subcommands(title="steps", metavar="STEP")
    for name, step in _STEPS.items():
        usage = f"python -m pipelines {name} [-h] [--config FILE] [options]"
        one = command_parser(step.help, usage=usage)
        step.add_arguments(one)
        add_config_arguments(one, step.sections)
        steps.add_subcommand(name, one, help=step.help)

    def chosen() -> int:
        arguments = parse(parser, argv)
        return _STEPS[arguments.subcommand].run(arguments[arguments.subcommand])

    return run(chosen)


if __name__ == "__main__":
    sys.exit(main())
