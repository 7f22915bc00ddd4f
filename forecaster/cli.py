"""The `forecaster` command: what is trained, compared, evaluated, served, asked of a server, and shown.

Knows how the commands are called from a shell and how their results look there; the work is elsewhere, imported by
the command that needs it, so that each starts fast.
"""

import datetime as dt
import os
import pathlib
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import ArgumentParser, Namespace

from forecaster import dashboard
from forecaster.arguments import Command, add_until, dispatch, read_config, read_until, utc_time
from forecaster.benchmarks import NAMES
from forecaster.config import require
from forecaster.errors import ConfigError, DataError
from forecaster.imports import without_collections

if TYPE_CHECKING:
    import polars as pl

    from forecaster.client import ModelInfo

_PATIENCE_SECONDS = 5.0
_POLL_SECONDS = 0.2


def _train(arguments: Namespace) -> int:
    from forecaster.training.job import train

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
    return 0 if any(not one.failure for one in found.outcomes) else 1


def _add_evaluate_arguments(parser: ArgumentParser) -> None:
    shown = "score the forecasts made at every step, or only the one of the last step that a whole horizon follows"
    parser.add_argument("--origins", type=Literal["rolling", "last"], default="rolling", help=shown)
    shown = "score forecasts of this time on; left out, of the last two weeks; only for rolling origins"
    parser.add_argument("--since", type=str, metavar="TIME", help=shown)
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
    from forecaster.serving.inspection import inspect

    config = read_config(arguments)
    found = inspect(config.serving.state, config.tracking.model)
    print(found.report())
    return 1 if found.wrong else 0


def _add_server(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--server", type=str, default="127.0.0.1:50051", metavar="HOST:PORT", help="the server's address"
    )


def _require_server(address: str) -> "ModelInfo":
    """Return the server's model; raises UnavailableError soon if it does not serve, other calls are more patient."""
    from forecaster.client import ForecastClient, RetryPolicy

    with ForecastClient(address, retry=RetryPolicy(timeout_seconds=_PATIENCE_SECONDS)) as client:
        return client.get_model()


def _observe(arguments: Namespace) -> int:
    from forecaster.client import ForecastClient
    from forecaster.data.report import inspect_frame
    from forecaster.data.schema import read_frame
    from forecaster.data.windows import past

    data = read_config(arguments).data
    if data.path is None:
        raise ConfigError("name the file to send: --data.path mine.csv")
    frame = read_frame(data)
    model = _require_server(arguments.server)
    step = dt.timedelta(microseconds=data.step_us)
    if model.step != step:
        raise ConfigError(f"the server's model has a step of {model.step}, --data.frequency says {step}")
    inspect_frame(frame, data).raise_for_errors()
    with ForecastClient(arguments.server) as client:
        result = client.observe(past(frame, data))
    print(f"{result.applied} applied, {result.duplicates} known already, {len(result.rejected)} refused")
    for message in result.rejected["message"].head(5):
        print(f"  refused: {message}")
    return 1 if len(result.rejected) else 0


def _add_forecast_arguments(parser: ArgumentParser) -> None:
    _add_server(parser)
    parser.add_argument("series", type=str, nargs="+", help="the series to forecast")
    parser.add_argument("--horizon", type=int, metavar="STEPS", help="steps ahead; left out, the model's horizon")
    parser.add_argument("--levels", type=float, nargs="+", default=[0.1, 0.9], help="quantile levels")
    shown = "a CSV or Parquet file of known-future covariates: unique_id (left out: the same for all), ds, their names"
    parser.add_argument("--future", type=str, metavar="FILE", help=shown)
    parser.add_argument("--paths", type=int, metavar="N", help="show sampled paths instead of quantiles")
    parser.add_argument("--seed", type=int, default=0, help="of the sampled paths")
    parser.add_argument("--beams", type=int, metavar="K", help="show the most probable paths instead")


def _read_future(path: str) -> "pl.DataFrame":
    import polars as pl

    try:
        if path.lower().endswith((".parquet", ".pq")):
            return pl.read_parquet(path)
        text = {"unique_id": pl.String, "ds": pl.String}
        return pl.read_csv(path, schema_overrides=text, infer_schema_length=None)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error


def _forecast(arguments: Namespace) -> int:
    import polars as pl

    from forecaster.client import ForecastClient

    if arguments.paths is not None and arguments.beams is not None:
        raise ConfigError("ask for --paths or for --beams, not for both")
    series, horizon = arguments.series, arguments.horizon
    future = None if arguments.future is None else _read_future(arguments.future)
    _require_server(arguments.server)
    with ForecastClient(arguments.server) as client:
        if arguments.paths is not None:
            frame = client.paths(series, arguments.paths, horizon=horizon, seed=arguments.seed, future=future)
        elif arguments.beams is not None:
            frame = client.beams(series, arguments.beams, horizon=horizon, future=future)
        else:
            frame = client.forecast(series, horizon=horizon, quantile_levels=arguments.levels, future=future)
    with pl.Config(tbl_rows=-1, tbl_hide_dataframe_shape=True, tbl_hide_column_data_types=True):
        print(frame)
    return 0


def _health(arguments: Namespace) -> int:
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel(arguments.server) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=_PATIENCE_SECONDS)
        except grpc.RpcError as error:
            print(f"{error.code().name}: no answer from {arguments.server}")
            return 1
    print(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
    return int(answer.status != health_pb2.HealthCheckResponse.SERVING)


def _models(arguments: Namespace) -> int:
    from forecaster.client import ForecastClient

    _require_server(arguments.server)
    with ForecastClient(arguments.server) as client:
        for model in client.list_models():
            share = f" {model.progress:.0%}" if model.state == "REBUILDING" else ""
            print(f"{model.name} version {model.version}: {model.state}{share}{model.failure and f', {model.failure}'}")
    return 0


def _add_activate_arguments(parser: ArgumentParser) -> None:
    _add_server(parser)
    parser.add_argument("version", type=str, help="a version's number or an alias, for example previous")
    parser.add_argument("--name", type=str, default="", help="the registered model; left out, the server's first")


def _activate(arguments: Namespace) -> int:
    from forecaster.client import ForecastClient

    _require_server(arguments.server)
    with ForecastClient(arguments.server, model=arguments.name) as client:
        model = client.activate_model(arguments.version)
        while model.state in ("LOADING", "REBUILDING"):
            time.sleep(_POLL_SECONDS)
            model = client.get_model(model.version)
    print(f"{model.name} version {model.version}: {model.state}{model.failure and f', {model.failure}'}")
    return int(model.state != "ACTIVE")


def _add_benchmark_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("name", type=str, choices=NAMES, help="which one")
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
    "train": Command("train a model on the configured data and register it", _TRAINING, _train, add_until),
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
    "models": Command("list the model versions of a server", (), _models, _add_server),
    "activate": Command("let a server change its model's version, and wait", (), _activate, _add_activate_arguments),
    "observe": Command("send a file of observations to a server", ("data",), _observe, _add_server),
    "forecast": Command("ask a server for forecasts", (), _forecast, _add_forecast_arguments),
    "health": Command("ask a server for its health: exit code 0 if it serves, 1 if not", (), _health, _add_server),
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
    return dispatch(
        _COMMANDS,
        argv,
        program="forecaster",
        description="Streaming time-series forecasting: recurrent models whose per-series state lives on the server.",
        noun="command",
    )
