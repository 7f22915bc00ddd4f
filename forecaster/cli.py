"""The `forecaster` command: what is trained, compared, evaluated, served, shown, and asked of a server.

Knows how the commands are called from a shell and how their results look there; the work is elsewhere, imported by
the command that needs it, so that each starts fast.
"""

import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, Literal

from jsonargparse import ArgumentParser, Namespace

from forecaster import steps
from forecaster.arguments import Command, add_until, dispatch, read_config, read_until, utc_time
from forecaster.benchmarks import NAMES
from forecaster.config import require
from forecaster.imports import without_collections
from forecaster.registry import dashboard
from forecaster.server_commands.commands import COMMANDS


def _train(arguments: Namespace) -> int:
    from forecaster.training.run.job import train

    result = train(read_config(arguments), until=read_until(arguments))
    if result is not None:  # in the first process of several
        print(result.line())
    return 0


def _add_compare_arguments(parser: ArgumentParser) -> None:
    shown = "a YAML file of variants, such as 'lstm: {model.cell: lstm}', or family, the list that comes with this"
    parser.add_argument("--variants", type=str, required=True, metavar="FILE", help=shown)
    parser.add_argument("--budget-seconds", type=float, metavar="S", help="the limit of each variant's training")
    parser.add_argument("--output", type=str, metavar="DIR", help="where the table and the picture go, beside MLflow")


def _compare(arguments: Namespace) -> int:
    from forecaster.compare.job import compare

    output = pathlib.Path(arguments.output) if arguments.output is not None else None
    found = compare(read_config(arguments), arguments.variants, budget_seconds=arguments.budget_seconds, output=output)
    print(found.table())
    return 0 if any(not outcome.failure for outcome in found.outcomes) else 1


def _add_evaluate_arguments(parser: ArgumentParser) -> None:
    shown = "score the forecasts made at every step, or only the one of the last step that a whole horizon follows"
    parser.add_argument("--origins", type=Literal["rolling", "last"], default="rolling", help=shown)
    shown = "score forecasts of this time on; only for rolling origins"
    parser.add_argument("--since", type=str, metavar="TIME", help=shown)
    shown = "score forecasts of so many horizons at the end; left out, 14, or a third of the data if that is less"
    parser.add_argument("--horizons", type=int, metavar="N", help=shown)
    shown = "what came after the data, in the same layout: forecasts of its first time on are scored"
    parser.add_argument("--actual", type=str, metavar="FILE", help=shown)
    parser.add_argument("--version", type=str, default="champion", help="the registered version or alias to evaluate")
    parser.add_argument("--output", type=str, metavar="FILE", help="write all figures there as JSON")
    parser.add_argument("--by_series", action="store_true", help="write each series' figures to it too")


def _evaluate(arguments: Namespace) -> int:
    with without_collections():
        from forecaster.evaluation_report import evaluate

    report = evaluate(
        read_config(arguments),
        version=arguments.version,
        origins=arguments.origins,
        since=utc_time(arguments.since) if arguments.since is not None else None,
        horizons=arguments.horizons,
        actual=arguments.actual,
    )
    print(f"{report.line()}\n{report.table()}")
    if arguments.output is not None:
        report.write(pathlib.Path(arguments.output), by_series=arguments.by_series)
    return 0


def _serve(arguments: Namespace) -> int:
    # As torch's threads, see `serve`; the compiled kernels' products are OpenBLAS', which reads this when it is loaded.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    with without_collections():
        from forecaster.serving.server import serve
        from forecaster.serving.telemetry import configure_logging

    configure_logging()
    return serve(read_config(arguments))


def _verify_state(arguments: Namespace) -> int:
    from forecaster.serving.storage.opening import inspect

    config = read_config(arguments)
    found = inspect(config.serving.state, config.tracking.model)
    print(found.report())
    return 1 if found.wrong else 0


def _add_benchmark_arguments(parser: ArgumentParser) -> None:
    names: Any = Literal[NAMES]  # `choices` would show a function's address as the type
    parser.add_argument("name", type=names, help="which one")
    parser.add_argument("--data", type=str, default=".", metavar="PATH", help="its file, or the folder of its files")
    parser.add_argument("--output", type=str, default="benchmark-output", metavar="DIR", help="where results go")
    parser.add_argument("--members", type=int, default=2, help="networks in the ensemble")
    parser.add_argument("--processes", type=int, default=2, help="networks trained at once, one thread each")
    shown = "change the ready configuration, for example --set model.hidden_size=32 training.max_seconds=60"
    parser.add_argument("--set", type=str, nargs="+", default=[], metavar="KEY=VALUE", help=shown)
    shown = "score on so many windows before the test part instead, to choose a configuration by; one network"
    parser.add_argument("--windows", type=int, default=0, help=shown)


def _benchmark(arguments: Namespace) -> int:
    from forecaster.benchmarks import validation
    from forecaster.benchmarks.job import run

    data, overrides = pathlib.Path(arguments.data), [f"--{item}" for item in arguments.set]
    require(arguments.windows >= 0, "windows", arguments.windows, "1 or more")
    if arguments.windows:
        windows = validation.validate(arguments.name, data, overrides=overrides, windows=arguments.windows)
        print(f"{arguments.name}, validation windows, the latest first\n{validation.table(windows)}")
        return 0
    result = run(
        arguments.name,
        data,
        pathlib.Path(arguments.output),
        overrides=overrides,
        members=arguments.members,
        processes=arguments.processes,
    )
    print(f"{result.name}: {result.seconds:.0f} s, {len(result.members)} members\n{result.table()}")
    return 0


def _add_demo_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--output", type=str, default="demo-output", metavar="DIR", help="where everything goes")
    parser.add_argument("--days", type=int, default=14, help="how many of the last days are streamed, 2 or more")


def _demo(arguments: Namespace) -> int:
    from forecaster.demo.job import next_steps, run

    output = pathlib.Path(arguments.output)
    require(2 <= arguments.days <= 100, "days", arguments.days, "2 to 100")
    report = run(read_config(arguments), output, days=arguments.days)
    print(f"\n{report.hours} hours of {report.series} series, streamed through gRPC\n\n{report.table()}\n")
    print(f"Look further:\n{next_steps(output)}")
    return 0


_TRAINING = ("data", "model", "training", "trainer", "tracking")
_COMMANDS = {
    "train": Command(
        "train a model on the configured data and register it", (*_TRAINING, "promotion"), _train, add_until
    ),
    "compare": Command(
        "train variants of a configuration on the same data, and put them side by side",
        _TRAINING,
        _compare,
        _add_compare_arguments,
    ),
    "evaluate": Command(
        "score a registered model beside naive forecasts", ("data", "tracking"), _evaluate, _add_evaluate_arguments
    ),
    "dashboard": Command(
        "open MLflow's dashboard on the configured store", ("tracking",), dashboard.run, dashboard.add_arguments
    ),
    "serve": Command("serve the registered champion over gRPC", ("tracking", "serving"), _serve),
    "verify-state": Command(
        "look for damage in a server's state, beside the server too: exit code 0 if there is none, 1 if there is",
        ("tracking", "serving"),
        _verify_state,
    ),
    **COMMANDS,
    steps.NAME: Command(
        "the steps from data to a champion: forecaster pipelines --help", (), lambda _: steps.run(()), has_config=False
    ),
    "benchmark": Command(
        "train and score on a public benchmark",
        (),
        _benchmark,
        _add_benchmark_arguments,
        has_config=False,
    ),
    "demo": Command(
        "train, serve, stream two weeks of real data, kill -9, recover, report",
        ("model", "training"),
        _demo,
        _add_demo_arguments,
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` names and return its exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    if words[:1] == [steps.NAME]:
        return steps.run(words[1:])
    return dispatch(
        _COMMANDS,
        words,
        program="forecaster",
        description="Streaming time-series forecasting: recurrent models whose per-series state lives on the server.",
        noun="command",
    )
