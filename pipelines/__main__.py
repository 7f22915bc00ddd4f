"""`forecaster pipelines`: one subcommand for each step; in a clone also `python -m pipelines`.

Knows how steps are called from a shell; knows nothing of what they do.
"""

import sys
from collections.abc import Sequence

from jsonargparse import ArgumentParser, Namespace

from forecaster.arguments import Command, add_until, dispatch, read_config, read_until
from pipelines.context import Context


def _ingest(arguments: Namespace) -> int:
    from pipelines.ingest.step import ingest

    print(ingest(read_config(arguments), stream=sys.stderr).line())
    return 0


def _train(arguments: Namespace) -> int:
    from pipelines.training.step import train

    result = train(read_config(arguments), until=read_until(arguments))
    if result is not None:  # in the first process of several
        print(result.line())
    return 0


def _backtest(arguments: Namespace) -> int:
    from pipelines.backtest.step import backtest

    print(backtest(read_config(arguments), Context()).table())
    return 0


def _add_promote_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="say what would be decided, and change nothing")


def _promote(arguments: Namespace) -> int:
    from pipelines.promotion.step import promote

    print(promote(read_config(arguments), Context(), dry_run=arguments.dry_run).line())
    return 0


def _rollback(arguments: Namespace) -> int:
    from pipelines.promotion.step import rollback

    print(rollback(read_config(arguments)).line())
    return 0


def _tune(arguments: Namespace) -> int:
    from pipelines.tuning.step import tune

    print(tune(read_config(arguments), Context()).line())
    return 0


def _add_retrain_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--trigger", type=str, default="manual", help="what asked for it; every run is tagged with it")


def _retrain(arguments: Namespace) -> int:
    from pipelines.retrain import retrain

    print(retrain(read_config(arguments), trigger=arguments.trigger).line())
    return 0


def _schedule(arguments: Namespace) -> int:
    from pipelines.schedule.step import schedule

    return schedule(read_config(arguments))


def _monitor(arguments: Namespace) -> int:
    from pipelines.watching.serving_quality import monitor

    return monitor(read_config(arguments))


_DATA = ("data", "ingest")
_TRAINING = (*_DATA, "model", "training", "trainer", "tracking", "backtest")
_STEPS = {
    "ingest": Command("bring what is new of the sources into the data set", (*_DATA, "tracking"), _ingest),
    "train": Command("train a challenger on the data set and register it", _TRAINING, _train, add_until),
    "backtest": Command(
        "score champion, challenger and seasonal naive on the newest data",
        (*_DATA, "tracking", "backtest", "promotion"),
        _backtest,
    ),
    "promote": Command(
        "let the challenger become the champion, if the backtest says so",
        ("tracking", "promotion"),
        _promote,
        _add_promote_arguments,
    ),
    "rollback": Command("put the champion before this one back", ("tracking",), _rollback),
    "tune": Command("search for a better configuration", (*_TRAINING, "tuning"), _tune),
    "retrain": Command(
        "all of it, once for the same data: ingest, tune if asked to, train, backtest, promote",
        (*_TRAINING, "promotion", "tuning"),
        _retrain,
        _add_retrain_arguments,
    ),
    "schedule": Command(
        "retrain at set times, on drift and on new observations",
        (*_TRAINING, "promotion", "tuning", "schedule"),
        _schedule,
    ),
    "monitor": Command("log a server's quality beside the trainings", ("tracking", "schedule"), _monitor),
}


def main(argv: Sequence[str] | None = None, *, program: str = "python -m pipelines") -> int:
    """Run the step that `argv` names and return its exit code; `program` is what its help calls it."""
    return dispatch(_STEPS, argv, program=program, description="From data to a champion, step by step.", noun="step")


if __name__ == "__main__":
    sys.exit(main())
