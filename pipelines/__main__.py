"""`python -m pipelines`: one subcommand for each step.

Knows how steps are called from a shell; knows nothing of what they do.
"""

import sys
from collections.abc import Sequence

from jsonargparse import ArgumentParser, Namespace

from forecaster.arguments import Command, dispatch, read_config, utc_time


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
    "train": Command(
        "train a model on the configured data and register it",
        ("data", "model", "training", "tracking"),
        _train,
        _add_train_arguments,
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the step that `argv` names and return its exit code."""
    return dispatch(
        _STEPS, argv, program="python -m pipelines", description="From data to a champion, step by step.", noun="step"
    )


if __name__ == "__main__":
    sys.exit(main())
