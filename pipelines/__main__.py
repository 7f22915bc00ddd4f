"""`python -m pipelines`: one subcommand for each step.

Knows how steps are called from a shell; knows nothing of what they do.
"""

import sys
from collections.abc import Sequence

from jsonargparse import Namespace

from forecaster.arguments import Command, add_until, dispatch, read_config, read_until


def _train(arguments: Namespace) -> int:
    from pipelines.train import train

    result = train(read_config(arguments), until=read_until(arguments))
    sys.stdout.write(result.line() + "\n")
    return 0


_STEPS = {
    "train": Command(
        "train a model on the configured data and register it",
        ("data", "model", "training", "tracking"),
        _train,
        add_until,
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the step that `argv` names and return its exit code."""
    return dispatch(
        _STEPS, argv, program="python -m pipelines", description="From data to a champion, step by step.", noun="step"
    )


if __name__ == "__main__":
    sys.exit(main())
